// Ranks that are threads of one process, for ThreadSanitizer, which sees one process only: the group's own code, over
// files that all ranks have mapped at one place. With an argument, it reads a payload too early: a race that must be seen.
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "group.h"

namespace {

using headrace::Channel;
using headrace::Group;
using headrace::Outcome;
using headrace::Round;

constexpr int kRanks = 3, kChannelsUsed = 4, kRounds = 400;
constexpr uint64_t kFileBytes = uint64_t{1} << 28;

// A sum of so many numbers over ranks.
class Sum : public Round {
 public:
  Sum(std::vector<uint32_t> values) : values_(std::move(values)), sum_(values_.size(), 0) {
    message.bytes = values_.size() * sizeof(uint32_t);
  }
  void Fill(char* payload) override { memcpy(payload, values_.data(), message.bytes); }
  void Take(int, const char* payload) override {
    for (size_t i = 0; i < sum_.size(); ++i) {
      uint32_t value;
      memcpy(&value, payload + i * sizeof(value), sizeof(value));
      sum_[i] += value;
    }
  }
  void End(const Outcome& outcome) override {
    std::lock_guard<std::mutex> guard(mutex_);
    outcome_ = outcome;
    ended_ = true;
    some_.notify_all();
  }
  const std::vector<uint32_t>& Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    some_.wait(lock, [this] { return ended_; });
    if (outcome_.trouble != headrace::Trouble::kNone) {
      fprintf(stderr, "%s\n", outcome_.words.c_str());
      exit(1);
    }
    return sum_;
  }

 private:
  std::vector<uint32_t> values_, sum_;
  Outcome outcome_;
  bool ended_ = false;
  std::mutex mutex_;
  std::condition_variable some_;
};

uint32_t Value(int rank, int channel, int round, size_t i) { return rank * 1000003u + channel * 10007u + round * 101u + i; }

void Rank(Group* group, int rank) {
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::shared_ptr<Sum>> sums;
    std::vector<int> order;
    for (int c = 0; c < kChannelsUsed; ++c) order.push_back((c + rank) % kChannelsUsed);  // another on each rank
    for (int c : order) {
      const size_t count = (round * 37 + c * 11) % 500 * (round % 50 == 0 ? 100 : 1);  // payloads grow
      std::vector<uint32_t> values(count);
      for (size_t i = 0; i < count; ++i) values[i] = Value(rank, c, round, i);
      sums.push_back(std::make_shared<Sum>(std::move(values)));
      group->Start(group->ChannelOf("channel " + std::to_string(c)), sums.back());
    }
    for (int at = 0; at < kChannelsUsed; ++at) {
      const auto& sum = sums[at]->Wait();
      for (size_t i = 0; i < sum.size(); ++i) {
        uint32_t wanted = 0;
        for (int r = 0; r < kRanks; ++r) wanted += Value(r, order[at], round, i);
        if (sum[i] != wanted) {
          fprintf(stderr, "rank %d, round %d: %u, not %u\n", rank, round, sum[i], wanted);
          exit(1);
        }
      }
    }
    if (rank == 1 && round % 20 == 0) usleep(2000);  // the others' threads sleep
  }
}

}  // namespace

int main(int argc, char**) {
  std::vector<char*> mapped;
  std::vector<int> files;
  for (int rank = 0; rank < kRanks; ++rank) {
    files.push_back(memfd_create("threads", 0));
    if (ftruncate(files.back(), kFileBytes) != 0) return 2;
    void* const place = mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, files.back(), 0);
    if (place == MAP_FAILED) return 2;
    mapped.push_back(static_cast<char*>(place));
  }
  std::vector<Group*> groups;
  for (int rank = 0; rank < kRanks; ++rank) {
    groups.push_back(new Group(rank, mapped, files[rank], kFileBytes, [](int) { return true; }));
  }
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) ranks.emplace_back(Rank, groups[rank], rank);
  if (argc > 1) {
    volatile char read = 0;
    for (int again = 0; again < 20000; ++again) read = read + mapped[0][headrace::kHeaderBytes];
  }
  for (auto& rank : ranks) rank.join();
  puts("done");
  fflush(stdout);
  _exit(0);
}
