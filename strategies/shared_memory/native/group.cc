// Round n of a channel. A rank copies what it sends into its own file, then says so: written = n. It waits until every
// other rank has written its n, and copies what is for it out of theirs.
//
// Nothing is overwritten that somebody reads. A channel has two payloads in turn, so round n + 2 takes the place of n.
// It is posted only when all others have written n + 1 (Post), which they do when they are done with n.
//
// No wait is for ever. A round waits for other ranks alone, never for another round, a lock or a free thread: what it
// needs of this process, copying and telling, is done by the thread that starts it, which goes on after a bounded spin,
// or by the group's own thread, which looks at all rounds in turn and is blocked by none. So rounds of different
// channels may be under way in any order, another on each rank, at any number of TensorFlow's threads, and each ends
// once all ranks have started it. A rank that never does is dead, and then the round ends with an error, or it is alive,
// slow or stopped, and is waited for. What one rank finds wrong in its arguments it tells as a message (kFailed), so
// that the others do not wait.
//
// A round that was given up (cancelled, or the ranks disagree) leaves the channel in step: the next one is posted when
// all others have written this one, as above.
#include "group.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// A thread that waits asks again and again, lets others have its core, then sleeps. The group's thread asks for longer:
// to sleep and be woken costs some tens of microseconds.
constexpr microseconds kSpin{5}, kStay{50}, kStayOfThread{200};
constexpr milliseconds kSleep{100};  // then it looks whether the others live

void Relax(Clock::duration waited) {
  if (waited > kSpin) {
    sched_yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void Sleep(std::atomic<uint32_t>* bell, uint32_t heard, milliseconds longest) {
  const timespec timeout = {longest.count() / 1000, longest.count() % 1000 * 1000000};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(bell), FUTEX_WAIT, heard, &timeout, nullptr, 0);
}

void Wake(std::atomic<uint32_t>* bell) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(bell), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

uint64_t KeyOf(const std::string& name) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash == 0 ? 1 : hash;
}

std::string Words(const Message& message) { return {message.words, strnlen(message.words, sizeof(message.words))}; }

}  // namespace

Group::Group(int rank, std::vector<char*> files, int own_file, uint64_t file_bytes, std::function<bool(int)> alive)
    : rank_(rank), files_(std::move(files)), alive_(std::move(alive)), payloads_(own_file, file_bytes) {
  header(rank_)->pid.store(static_cast<uint32_t>(getpid()));
  std::thread([this] { Work(); }).detach();
}

Channel* Group::ChannelOf(const std::string& name) {
  std::lock_guard<std::mutex> guard(channels_mutex_);
  auto& channel = channels_[name];
  if (channel == nullptr) {
    if (channels_.size() > kChannels) {
      channels_.erase(name);
      return nullptr;
    }
    const uint64_t key = KeyOf(name);
    uint64_t place = key % kChannels;
    while (header(rank_)->slots[place].key.load(std::memory_order_relaxed) != 0) place = (place + 1) % kChannels;
    Slot* const slot = &header(rank_)->slots[place];
    slot->key.store(key, std::memory_order_release);
    channel = std::make_unique<Channel>(name, slot, size());
  }
  return channel.get();
}

// Null: that rank has not come to it yet.
const Slot* Group::SlotOf(Channel* channel, int rank) const {
  const Slot*& known = channel->theirs_[rank];
  if (known != nullptr) return known;
  const uint64_t key = channel->own_->key.load(std::memory_order_relaxed);
  for (uint64_t tried = 0, place = key % kChannels; tried < kChannels; ++tried, place = (place + 1) % kChannels) {
    const Slot& slot = header(rank)->slots[place];
    const uint64_t found = slot.key.load(std::memory_order_acquire);
    if (found == key) return known = &slot;
    if (found == 0) break;
  }
  return nullptr;
}

bool Group::HasWritten(Channel* channel, int rank, uint64_t round) const {
  if (round == 0) return true;
  const Slot* const slot = SlotOf(channel, rank);
  return slot != nullptr && slot->written.load(std::memory_order_acquire) >= round;
}

void Group::RingOf(int rank) {
  Header* const there = header(rank);
  if (there->sleeping.load(std::memory_order_seq_cst) == 0) return;
  there->bell.fetch_add(1, std::memory_order_seq_cst);
  Wake(&there->bell);
}

void Group::Start(Channel* channel, std::shared_ptr<Round> round) {
  if (channel->busy_.exchange(true, std::memory_order_acquire)) {
    round->End({Trouble::kBusy, channel->name + ": it is under way already: one thread at a time calls a function"});
    return;
  }
  round->channel_ = channel;
  round->number_ = channel->rounds_ + 1;
  const auto start = Clock::now();
  for (Clock::duration waited{0}; waited < kStay; waited = Clock::now() - start) {
    if (Advance(round.get())) return;
    Relax(waited);
  }
  round->Waits();
  {
    std::lock_guard<std::mutex> guard(mutex_);
    added_.push_back(std::move(round));
    any_added_.store(true, std::memory_order_seq_cst);
  }
  some_.notify_one();
  Ring();
}

// As far as it can go now; whether it has ended.
bool Group::Advance(Round* round) {
  Channel* const channel = round->channel_;
  if (round->cancelled_.load(std::memory_order_acquire)) {
    End(round, Trouble::kCancelled, channel->name + ": cancelled");
    return true;
  }
  if (!round->posted_) {
    for (int rank = 0; rank < size(); ++rank) {
      if (rank != rank_ && !HasWritten(channel, rank, round->number_ - 1)) return false;
    }
    if (!Post(round)) return true;
  }
  for (; round->taken_ < size(); ++round->taken_) {
    const int rank = round->taken_;
    if (rank != rank_ && !HasWritten(channel, rank, round->number_)) return false;
    const Message& message = SlotOf(channel, rank)->messages[round->number_ % 2];
    const std::string wrong = Disagreement(*round, rank, message);
    if (!wrong.empty()) {
      End(round, Trouble::kDisagreement, wrong);
      return true;
    }
    round->Take(rank, files_[rank] + message.offset);
  }
  round->Finish();
  End(round, Trouble::kNone, "");
  return true;
}

// Whether it may go on; if not, it has ended.
bool Group::Post(Round* round) {
  Channel* const channel = round->channel_;
  Extent* const extent = &channel->payloads_[round->number_ % 2];
  const bool room = payloads_.Grow(extent, round->message.bytes);
  if (!room) {
    round->message.call = kFailed;
    snprintf(round->message.words, sizeof(round->message.words), "no shared memory for %llu bytes",
             static_cast<unsigned long long>(round->message.bytes));
  }
  if (round->message.call != kFailed) {
    round->message.offset = extent->offset;
    round->Fill(files_[rank_] + extent->offset);
  }
  channel->own_->messages[round->number_ % 2] = round->message;
  channel->rounds_ = round->number_;
  channel->own_->written.store(round->number_, std::memory_order_seq_cst);
  for (int rank = 0; rank < size(); ++rank) {
    if (rank != rank_) RingOf(rank);
  }
  round->posted_ = true;
  if (round->message.call != kFailed) return true;
  End(round, room ? Trouble::kDisagreement : Trouble::kNoMemory, channel->name + ": " + Words(round->message));
  return false;
}

std::string Group::Disagreement(const Round& round, int rank, const Message& theirs) const {
  const Message& ours = round.message;
  const std::string where = round.channel_->name + ": rank " + std::to_string(rank);
  if (theirs.call == kFailed) return where + " failed in it: " + Words(theirs);
  if (theirs.call != ours.call || theirs.dtype != ours.dtype || theirs.shape != ours.shape) {
    return where + " calls " + Words(theirs) + " where rank " + std::to_string(rank_) + " calls " + Words(ours);
  }
  if (theirs.sizes == ours.sizes) return "";
  return where + ": another rank has other sizes: it calls " + Words(theirs) + ", rank " + std::to_string(rank_) +
         " calls " + Words(ours);
}

void Group::End(Round* round, Trouble trouble, const std::string& words) {
  // First, as what End lets go may start the next round.
  round->channel_->busy_.store(false, std::memory_order_release);
  round->End({trouble, words});
}

bool Group::AdvanceAll(Rounds* rounds) {
  const auto ended = std::remove_if(rounds->begin(), rounds->end(), [this](auto& round) { return Advance(round.get()); });
  const bool any = ended != rounds->end();
  rounds->erase(ended, rounds->end());
  return any;
}

void Group::EndThoseOfTheGone(Rounds* rounds) {
  std::vector<int> gone;
  for (int rank = 0; rank < size(); ++rank) {
    if (rank != rank_ && !alive_(rank)) gone.push_back(rank);
  }
  if (gone.empty()) return;
  AdvanceAll(rounds);  // what they wrote before they went counts
  auto waits_for_the_gone = [&](std::shared_ptr<Round>& round) {
    const uint64_t wanted = round->posted_ ? round->number_ : round->number_ - 1;
    for (int rank : gone) {
      if (HasWritten(round->channel_, rank, wanted)) continue;
      const std::string pid = std::to_string(header(rank)->pid.load());
      End(round.get(), Trouble::kGone,
          round->channel_->name + ": rank " + std::to_string(rank) + " (pid " + pid + ") is gone");
      return true;
    }
    return false;
  };
  rounds->erase(std::remove_if(rounds->begin(), rounds->end(), waits_for_the_gone), rounds->end());
}

void Group::Work() {
  Header* const own = header(rank_);
  Rounds rounds;
  auto moved = Clock::now(), looked = moved;
  for (;;) {
    if (rounds.empty() || any_added_.load(std::memory_order_acquire)) {
      std::unique_lock<std::mutex> lock(mutex_);
      if (rounds.empty()) some_.wait(lock, [this] { return !added_.empty(); });
      for (auto& round : added_) rounds.push_back(std::move(round));
      added_.clear();
      any_added_.store(false, std::memory_order_relaxed);
      moved = Clock::now();
    }
    if (AdvanceAll(&rounds)) moved = Clock::now();
    if (rounds.empty()) continue;
    auto now = Clock::now();
    if (now - moved < kStayOfThread) {
      Relax(now - moved);
      continue;
    }
    // Either whoever writes next sees that we sleep, or we see here what it wrote.
    const uint32_t heard = own->bell.load(std::memory_order_seq_cst);
    own->sleeping.store(1, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const bool news = AdvanceAll(&rounds) || any_added_.load(std::memory_order_seq_cst);
    if (!news) Sleep(&own->bell, heard, kSleep);
    own->sleeping.store(0, std::memory_order_seq_cst);
    if (news) moved = Clock::now();
    now = Clock::now();
    if (now - looked >= kSleep) {
      looked = now;
      EndThoseOfTheGone(&rounds);
    }
  }
}

}  // namespace headrace
