// Ranks of one machine that exchange through files they have all mapped. See group.cc for why no wait is for ever.
#ifndef HEADRACE_SHARED_GROUP_H_
#define HEADRACE_SHARED_GROUP_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "layout.h"
#include "payloads.h"

namespace headrace {

enum class Trouble { kNone, kDisagreement, kGone, kCancelled, kNoMemory, kBusy };

struct Outcome {
  Trouble trouble = Trouble::kNone;
  std::string words;
};

// One call site: its rounds follow each other. What is said below of threads holds because one thread at a time has
// the round that is under way.
class Channel {
 public:
  Channel(std::string name, Slot* own, int ranks) : name(std::move(name)), own_(own), theirs_(ranks, nullptr) {}
  const std::string name;

 private:
  friend class Group;
  Slot* const own_;
  std::vector<const Slot*> theirs_;  // by rank; null: not found yet
  std::atomic<bool> busy_{false};
  uint64_t rounds_ = 0;  // written
  Extent payloads_[2];
};

// One round of a channel on this rank. Its calls come from one thread at a time, in this order: Fill, Take of each rank
// in rising order, Finish, End. Or End alone, or after some of them, with what went wrong.
class Round {
 public:
  virtual ~Round() = default;

  // Writes what `message.bytes` promised.
  virtual void Fill(char* payload) = 0;
  // rank: may be this one, whose payload is what Fill wrote.
  virtual void Take(int rank, const char* payload) = 0;
  // All are taken; their payloads can still be read.
  virtual void Finish() {}
  // Called once.
  virtual void End(const Outcome& outcome) = 0;
  // The round goes on in another thread; Cancel may be called from now on until End.
  virtual void Waits() {}

  void Cancel() { cancelled_.store(true, std::memory_order_release); }

  // Set before the start: call, dtype, shape, sizes, bytes, words.
  Message message = {};

 private:
  friend class Group;
  Channel* channel_ = nullptr;
  uint64_t number_ = 0;
  bool posted_ = false;
  int taken_ = 0;  // ranks
  std::atomic<bool> cancelled_{false};
};

class Group {
 public:
  // files: each rank's, mapped whole. own_file: this rank's descriptor. alive: whether a rank's process is there.
  // Lives as long as the process.
  Group(int rank, std::vector<char*> files, int own_file, uint64_t file_bytes, std::function<bool(int)> alive);

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(files_.size()); }

  // The channel of that name, which is the same on all ranks; null: there are kChannels already.
  Channel* ChannelOf(const std::string& name);

  // Begins a round, the next of its channel. A round that another rank does not keep waiting ends before this returns;
  // else it ends in the group's own thread.
  void Start(Channel* channel, std::shared_ptr<Round> round);

  // Tells the group's thread that a round was cancelled.
  void Ring() { RingOf(rank_); }

 private:
  using Rounds = std::vector<std::shared_ptr<Round>>;

  Header* header(int rank) const { return reinterpret_cast<Header*>(files_[rank]); }
  const Slot* SlotOf(Channel* channel, int rank) const;
  bool HasWritten(Channel* channel, int rank, uint64_t round) const;
  bool Advance(Round* round);
  bool Post(Round* round);
  void End(Round* round, Trouble trouble, const std::string& words);
  std::string Disagreement(const Round& round, int rank, const Message& theirs) const;
  bool AdvanceAll(Rounds* rounds);
  void EndThoseOfTheGone(Rounds* rounds);
  void RingOf(int rank);
  [[noreturn]] void Work();

  const int rank_;
  const std::vector<char*> files_;
  const std::function<bool(int)> alive_;
  Payloads payloads_;
  std::mutex channels_mutex_;
  std::unordered_map<std::string, std::unique_ptr<Channel>> channels_;
  std::mutex mutex_;
  std::condition_variable some_;
  Rounds added_;  // to what the thread waits for
  std::atomic<bool> any_added_{false};
};

}  // namespace headrace

#endif  // HEADRACE_SHARED_GROUP_H_
