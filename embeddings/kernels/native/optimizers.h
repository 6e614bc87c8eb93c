// What a step does to one row: the same formulas as embeddings/optimizers.py, which cites their sources.
#ifndef HEADRACE_OPTIMIZERS_H_
#define HEADRACE_OPTIMIZERS_H_

#include <cmath>
#include <cstdint>

namespace headrace {

// Numbers of one table's step.
struct Step {
  float rate, epsilon;
};

// The sum of n squares in an order that does not depend on the compiler: sixteen running sums, then theirs.
inline float SquaredNorm(const float* __restrict g, int64_t n) {
  float lanes[16] = {0};
  int64_t d = 0;
  for (; d + 16 <= n; d += 16) {
    for (int l = 0; l < 16; ++l) lanes[l] += g[d + l] * g[d + l];
  }
  for (int l = 0; d < n; ++d, ++l) lanes[l] += g[d] * g[d];
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// Each optimizer: kSlots variables beside the rows; kWide[s]: slot s is as wide as a row, or one number a row.
struct Sgd {
  static constexpr int kSlots = 0;
  static constexpr bool kWide[1] = {false};
  static void Apply(const Step& step, float* __restrict row, float* const*, const float* __restrict g, int64_t dim) {
    for (int64_t d = 0; d < dim; ++d) row[d] -= step.rate * g[d];
  }
};

struct Adagrad {
  static constexpr int kSlots = 1;
  static constexpr bool kWide[1] = {true};
  static void Apply(const Step& step, float* __restrict row, float* const* slots, const float* __restrict g,
                    int64_t dim) {
    float* __restrict accumulator = slots[0];
    for (int64_t d = 0; d < dim; ++d) {
      accumulator[d] += g[d] * g[d];
      row[d] -= step.rate * g[d] / std::sqrt(accumulator[d] + step.epsilon);
    }
  }
};

struct RowWiseAdagrad {
  static constexpr int kSlots = 1;
  static constexpr bool kWide[1] = {false};
  static void Apply(const Step& step, float* __restrict row, float* const* slots, const float* __restrict g,
                    int64_t dim) {
    *slots[0] += SquaredNorm(g, dim) / static_cast<float>(dim);
    const float scale = step.rate / std::sqrt(*slots[0] + step.epsilon);
    for (int64_t d = 0; d < dim; ++d) row[d] -= scale * g[d];
  }
};

}  // namespace headrace

#endif  // HEADRACE_OPTIMIZERS_H_
