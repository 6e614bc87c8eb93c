// Distinct ids, numbered and counted.
#ifndef HEADRACE_DISTINCT_H_
#define HEADRACE_DISTINCT_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace headrace {

// A T of this thread's own, kept between calls. Not inlined: the compiler would look the thread up at each use, in the
// innermost loops too.
template <typename T>
__attribute__((noinline)) T& OfThread() {
  thread_local T of_thread;
  return of_thread;
}

// Numbers distinct ids (or other keys) from 0 in the order they first come.
class DistinctIds {
 public:
  void Begin(int64_t most) {
    uint64_t room = 16;
    while (room < 2 * static_cast<uint64_t>(most)) room *= 2;
    numbers_.assign(room, kFree);
    mask_ = room - 1;
    ids_.clear();
  }

  // The id's number, and whether it is new.
  std::pair<uint32_t, bool> Number(int64_t id, uint64_t hash) {
    uint64_t at = hash & mask_;
    while (numbers_[at] != kFree && ids_[numbers_[at]] != id) at = (at + 1) & mask_;
    const bool fresh = numbers_[at] == kFree;
    if (fresh) {
      numbers_[at] = static_cast<uint32_t>(ids_.size());
      ids_.push_back(id);
    }
    return {numbers_[at], fresh};
  }

  const std::vector<int64_t>& ids() const { return ids_; }

 private:
  static constexpr uint32_t kFree = UINT32_MAX;

  std::vector<uint32_t> numbers_;  // by hash
  std::vector<int64_t> ids_;
  uint64_t mask_ = 0;
};

// And how often each came.
class CountedIds {
 public:
  void Begin(int64_t most) {
    distinct_.Begin(most);
    counts_.clear();
  }

  uint32_t Count(int64_t id, uint64_t hash) {
    const auto [number, fresh] = distinct_.Number(id, hash);
    if (fresh) counts_.push_back(0);
    ++counts_[number];
    return number;
  }

  std::vector<uint32_t>& counts() { return counts_; }
  const std::vector<int64_t>& ids() const { return distinct_.ids(); }

 private:
  DistinctIds distinct_;
  std::vector<uint32_t> counts_;  // by number
};

}  // namespace headrace

#endif  // HEADRACE_DISTINCT_H_
