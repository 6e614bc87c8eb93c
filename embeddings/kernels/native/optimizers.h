// What a step does to one row: the same formulas as embeddings/optimizers.py, which cites their sources.
#ifndef HEADRACE_OPTIMIZERS_H_
#define HEADRACE_OPTIMIZERS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace headrace {

// Numbers of one table's step, as `SparseOptimizer.numbers` orders them. keep: what weight decay leaves of a row.
// constants: each optimizer's own.
struct Step {
  float rate, keep, clipvalue, clipnorm, constants[4];
};
constexpr int kNumbers = sizeof(Step) / sizeof(float);

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
  static inline void Apply(const Step& step, float* __restrict row, float* const*, const float* __restrict g,
                           int64_t dim) {
    for (int64_t d = 0; d < dim; ++d) row[d] = row[d] * step.keep - step.rate * g[d];
  }
};

struct Adagrad {
  static constexpr int kSlots = 1;
  static constexpr bool kWide[1] = {true};
  static inline void Apply(const Step& step, float* __restrict row, float* const* slots, const float* __restrict g,
                           int64_t dim) {
    float* __restrict accumulator = slots[0];
    const float epsilon = step.constants[0];
    for (int64_t d = 0; d < dim; ++d) {
      accumulator[d] += g[d] * g[d];
      row[d] = row[d] * step.keep - step.rate * g[d] / std::sqrt(accumulator[d] + epsilon);
    }
  }
};

struct RowWiseAdagrad {
  static constexpr int kSlots = 1;
  static constexpr bool kWide[1] = {false};
  static inline void Apply(const Step& step, float* __restrict row, float* const* slots, const float* __restrict g,
                           int64_t dim) {
    const float accumulated = *slots[0] + SquaredNorm(g, dim) / static_cast<float>(dim);
    *slots[0] = accumulated;
    const float scale = step.rate / std::sqrt(accumulated + step.constants[0]);
    for (int64_t d = 0; d < dim; ++d) row[d] = row[d] * step.keep - scale * g[d];
  }
};

struct Adam {
  static constexpr int kSlots = 2;
  static constexpr bool kWide[2] = {true, true};
  // constants: 1 - beta_1, 1 - beta_2, epsilon, the rate with its bias corrected
  static inline void Apply(const Step& step, float* __restrict row, float* const* slots, const float* __restrict g,
                           int64_t dim) {
    float* __restrict momentum = slots[0];
    float* __restrict velocity = slots[1];
    const float fresh_1 = step.constants[0], fresh_2 = step.constants[1], epsilon = step.constants[2];
    const float rate = step.constants[3];
    for (int64_t d = 0; d < dim; ++d) {
      momentum[d] += (g[d] - momentum[d]) * fresh_1;
      velocity[d] += (g[d] * g[d] - velocity[d]) * fresh_2;
      row[d] = row[d] * step.keep - rate * momentum[d] / (std::sqrt(velocity[d]) + epsilon);
    }
  }
};

struct Ftrl {
  static constexpr int kSlots = 2;
  static constexpr bool kWide[2] = {true, true};
  // constants: l1, l2, beta
  static inline void Apply(const Step& step, float* __restrict row, float* const* slots, const float* __restrict g,
                           int64_t dim) {
    float* __restrict accumulator = slots[0];
    float* __restrict linear = slots[1];
    const float l1 = step.constants[0], l2 = step.constants[1], beta = step.constants[2];
    for (int64_t d = 0; d < dim; ++d) {
      const float accumulated = accumulator[d] + g[d] * g[d];
      const float root = std::sqrt(accumulated);
      const float z = linear[d] + g[d] - (root - std::sqrt(accumulator[d])) / step.rate * row[d];
      accumulator[d] = accumulated;
      linear[d] = z;
      row[d] = (std::min(std::max(z, -l1), l1) - z) / ((beta + root) / step.rate + l2);
    }
  }
};

}  // namespace headrace

#endif  // HEADRACE_OPTIMIZERS_H_
