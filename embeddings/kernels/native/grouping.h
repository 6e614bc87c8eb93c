// Every occurrence of every row, split into parts that can be updated side by side.
#ifndef HEADRACE_GROUPING_H_
#define HEADRACE_GROUPING_H_

#include <memory>
#include <vector>

#include "bags.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace headrace {

// One id of one bag. Its gradient is the bag's times its share (`Grouping::shares`).
struct Occurrence {
  int64_t key;   // KeyOf(table, id)
  uint32_t bag;
  uint32_t row;  // of its part, counted from 0 in the order rows first come; set by `Part::Number`
};

constexpr int kIdBits = 48;

inline int64_t KeyOf(int table, int64_t id) { return (static_cast<int64_t>(table) << kIdBits) | id; }
inline int64_t IdOf(int64_t key) { return key & ((int64_t{1} << kIdBits) - 1); }

inline uint64_t HashOf(int64_t key) {
  const uint64_t h = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull;
  return h ^ (h >> 32);
}

// Parts are unions of these bins.
constexpr int kBinBits = 12, kHashBins = 1 << kBinBits;
inline int HashBin(int64_t key) { return static_cast<int>(HashOf(key) >> (64 - kBinBits)); }

// The occurrences of the rows of one part, feature by feature, in the order they came.
class Part {
 public:
  Part(Occurrence* occurrences, const float* shares, const uint32_t* feature_starts)
      : occurrences(occurrences), shares(shares), feature_starts(feature_starts) {}

  // Numbers the rows and counts how often each occurs. The vectors are a thread's own, kept between calls.
  void Number(int features, std::vector<uint32_t>* table, std::vector<int64_t>* keys, std::vector<uint32_t>* counts);

  Occurrence* const occurrences;      // of all parts: this one's begin at feature_starts[0]
  const float* const shares;          // likewise; null where all are 1
  const uint32_t* const feature_starts;  // [features + 1]
};

// A row's part is a function of (table, id), so all its occurrences are in one, in the order of features, then of
// positions: its sum is the same however many parts there are, and however many threads.
class Grouping {
 public:
  Grouping(const std::vector<Feature>& features, const std::vector<int64_t>& vocabulary,
           tensorflow::thread::ThreadPool* pool, Fault* fault);

  int64_t parts() const { return parts_; }
  Part part(int64_t p) const { return {occurrences_.get(), shares_.get(), &starts_[p * features_]}; }

 private:
  int64_t parts_ = 0, features_ = 0;
  std::unique_ptr<Occurrence[]> occurrences_;
  std::unique_ptr<float[]> shares_;
  std::vector<uint32_t> starts_;  // [parts, features], then the end
};

}  // namespace headrace

#endif  // HEADRACE_GROUPING_H_
