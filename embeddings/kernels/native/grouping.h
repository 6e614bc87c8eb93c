// Occurrences of rows, grouped so that threads never share a row.
#ifndef HEADRACE_GROUPING_H_
#define HEADRACE_GROUPING_H_

#include <memory>
#include <vector>

#include "tensorflow/core/lib/core/threadpool.h"

#include "bags.h"
#include "memory.h"

namespace headrace {

// One id of one bag, whose gradient is the bag's times its share (`Part::shares`); or all there are of one id in one
// chunk, whose gradient is a sum.
struct Occurrence {
  int64_t key;      // KeyOf(table, id)
  uint32_t source;  // the bag, or kSummed | the number of the sum
  uint32_t row;     // of its part, counted from 0 in the order rows first come; set by `Part::Number`
};

constexpr uint32_t kSummed = uint32_t{1} << 31;

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

class Grouping;

// The occurrences of the rows of one part, feature by feature, in the order they came.
class Part {
 public:
  Part(Grouping* grouping, int64_t number);

  // Numbers the rows and counts how often each occurs; what occurs once in a feature whose `singles` are kept is noted
  // there and leaves the part. The counts are the thread's, until its next call.
  uint32_t* Number();

  int64_t rows() const { return rows_; }
  uint32_t begin(size_t feature) const { return starts_[feature]; }
  uint32_t end(size_t feature) const { return ends_[feature]; }

  Occurrence* const occurrences;  // of all parts
  float* const shares;            // likewise; null where all are 1

 private:
  Grouping* const grouping_;
  const uint32_t* const starts_;
  uint32_t* const ends_;
  int64_t rows_ = 0;
};

// A row's part is a function of (table, id), so all its occurrences are in one, in the order of features, then of
// positions: its sum is the same however many parts there are, and however many threads.
//
// Ids are skewed, and gradients are too large for the caches: an id that comes more than once in a chunk of bags is
// summed there, as the gradients lie in memory, and comes to its part once. Chunks whose ids hardly repeat are left as
// they are.
class Grouping {
 public:
  // with_singles: keep what occurs once out of the parts, in those features whose every id is a bag of its own.
  Grouping(const std::vector<Feature>& features, const std::vector<int64_t>& vocabulary, bool with_singles,
           tensorflow::thread::ThreadPool* pool, Fault* fault);

  // False: there was no memory for it.
  bool ok() const { return occurrences_ != nullptr; }
  int64_t sums() const { return first_sum_.back(); }
  int64_t parts() const { return parts_; }
  Part part(int64_t p) { return Part(this, p); }
  const std::vector<Chunk>& chunks() const { return chunks_; }

  // Calls use(bag, position, sum, first) for each id of a chunk that is summed in it: `first` is true of a sum's first.
  template <typename Use>
  void ForEachSummed(const Feature& feature, size_t chunk, Use use) const {
    if (first_sum_[chunk] == first_sum_[chunk + 1]) return;
    const uint32_t* const sum_of = &sum_of_[first_id_[chunks_[chunk].feature]];
    for (int64_t bag = chunks_[chunk].first_bag; bag < chunks_[chunk].last_bag; ++bag) {
      for (int64_t i = feature.first(bag); i < feature.first(bag + 1); ++i) {
        if (sum_of[i] == kAlone) continue;
        use(bag, i, first_sum_[chunk] + (sum_of[i] & ~kFirst), (sum_of[i] & kFirst) != 0);
      }
    }
  }

  // By bag: whether the feature's id there occurs nowhere else. Null: the parts hold them all.
  uint8_t* singles(size_t feature) const {
    return single_of_[feature] < 0 ? nullptr : singles_.get() + single_of_[feature];
  }

 private:
  friend class Part;

  static constexpr uint32_t kAlone = UINT32_MAX, kFirst = uint32_t{1} << 31;

  // Whether it comes to a part: alone, or for all of its sum.
  static bool Comes(uint32_t sum) { return (sum & kFirst) != 0; }

  int64_t NumberRepeats(const Feature& feature, const Chunk& chunk);

  int64_t parts_ = 0, features_ = 0;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> first_id_;   // where a feature's ids begin in sum_of_
  std::vector<int64_t> first_sum_;  // [chunks + 1]
  StepBlock<uint32_t> sum_of_;      // by id: kAlone, or its sum in its chunk and whether it is the first there
  StepBlock<Occurrence> occurrences_;
  StepBlock<float> shares_;
  StepBlock<uint8_t> singles_;
  std::vector<int64_t> single_of_;       // where a feature's singles begin
  std::vector<uint32_t> starts_, ends_;  // [parts, features]
};

}  // namespace headrace

#endif  // HEADRACE_GROUPING_H_
