// What every kernel reads: features as bags of ids.
#ifndef HEADRACE_BAGS_H_
#define HEADRACE_BAGS_H_

#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace headrace {

enum class Combiner { kNone, kSum, kMean, kSqrtn };

// The ids of one feature. Without splits each id is a bag of its own.
struct Feature {
  const int64_t* ids;
  const int64_t* splits;  // [bags + 1], or null
  const float* weights;   // [size], or null
  int64_t size;
  int64_t bags;
  int table;
  Combiner combiner;

  int64_t first(int64_t bag) const { return splits ? splits[bag] : bag; }

  // What a bag's sum is multiplied by: 1, 1 / sum(w) or 1 / sqrt(sum(w^2)); 0 for an empty bag or one without weight.
  float Norm(int64_t bag) const {
    if (combiner == Combiner::kNone || combiner == Combiner::kSum) return 1.0f;
    const int64_t begin = first(bag), end = first(bag + 1);
    float total = 0.0f;
    if (weights == nullptr) {
      total = static_cast<float>(end - begin);
    } else {
      for (int64_t i = begin; i < end; ++i) {
        total += combiner == Combiner::kMean ? weights[i] : weights[i] * weights[i];
      }
    }
    if (combiner == Combiner::kSqrtn) total = std::sqrt(total);
    return total == 0.0f ? 0.0f : 1.0f / total;
  }
};

// A range of one feature's bags: the unit of work, cut by sizes alone and never by how many threads there are.
struct Chunk {
  int feature;
  int64_t first_bag, last_bag;
};

// The attributes that say what the inputs are.
struct Layout {
  std::vector<std::string> names;
  std::vector<int> table_of;
  std::vector<Combiner> combiners;
  int features = 0, tables = 0;

  tensorflow::Status Read(tensorflow::OpKernelConstruction* context);

  // Whether there is a name and a table for each feature.
  tensorflow::Status CheckFeatures() const;
};

// Reads features from inputs [ids: features][splits: features][weights: features] that begin at input `start`.
tensorflow::Status ReadFeatures(tensorflow::OpKernelContext* context, const Layout& layout, int start,
                                std::vector<Feature>* features);

std::vector<Chunk> Chunks(const std::vector<Feature>& features, int64_t ids_per_chunk);

// The first thing wrong with ids or weights, found while they are read.
class Fault {
 public:
  // Remembers the earliest place, so that the message does not depend on the threads: a chunk is left out only behind it.
  void At(int feature, int64_t place) {
    const int64_t found = Coded(feature, place);
    int64_t known = first_.load();
    while (found < known && !first_.compare_exchange_weak(known, found)) {
    }
  }
  bool any() const { return first_.load() != kNothing; }
  bool before(int feature, int64_t place) const { return first_.load() < Coded(feature, place); }
  tensorflow::Status Status(const Layout& layout, const std::vector<Feature>& features,
                            const std::vector<int64_t>& vocabulary) const;

 private:
  static constexpr int64_t kNothing = INT64_MAX;
  static int64_t Coded(int feature, int64_t place) { return (static_cast<int64_t>(feature) << 40) | place; }

  std::atomic<int64_t> first_{kNothing};
};

// Whether a chunk's ids are in [0, vocabulary) and its weights finite; notes the first that is not. False too behind a
// fault that is known.
inline bool CheckChunk(const Feature& feature, const Chunk& chunk, int64_t vocabulary, Fault* fault) {
  const int64_t begin = feature.first(chunk.first_bag), end = feature.first(chunk.last_bag);
  if (fault->before(chunk.feature, begin)) return false;
  for (int64_t i = begin; i < end; ++i) {
    const bool wrong = static_cast<uint64_t>(feature.ids[i]) >= static_cast<uint64_t>(vocabulary) ||
                       (feature.weights != nullptr && !std::isfinite(feature.weights[i]));
    if (wrong) {
      fault->At(chunk.feature, i);
      return false;
    }
  }
  return true;
}

}  // namespace headrace

#endif  // HEADRACE_BAGS_H_
