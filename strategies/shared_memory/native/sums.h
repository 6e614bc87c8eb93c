// Sums over ranks: of each element in rank order, so that every rank finds the same bits, in every run.
#ifndef HEADRACE_SHARED_SUMS_H_
#define HEADRACE_SHARED_SUMS_H_

#include <cstdint>
#include <type_traits>
#include <vector>

#include "tensorflow/core/framework/numeric_types.h"

namespace headrace {

// What a sum is made in: 16-bit floats in 32 bits, rounded once.
template <typename T>
using SumOf =
    std::conditional_t<std::is_same_v<T, Eigen::half> || std::is_same_v<T, Eigen::bfloat16>, float, T>;

// sum[i] of i from begin to end. payloads: of each rank.
template <typename T>
void SumRanks(const std::vector<const char*>& payloads, char* sum, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 1024;  // stays in the nearest cache from rank to rank
  SumOf<T> block[kBlock];
  for (; begin < end; begin += kBlock) {
    const int64_t count = end - begin < kBlock ? end - begin : kBlock;
    for (size_t rank = 0; rank < payloads.size(); ++rank) {
      const T* const values = reinterpret_cast<const T*>(payloads[rank]) + begin;
      if (rank == 0) {
        for (int64_t i = 0; i < count; ++i) block[i] = static_cast<SumOf<T>>(values[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) block[i] += static_cast<SumOf<T>>(values[i]);
      }
    }
    T* const out = reinterpret_cast<T*>(sum) + begin;
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(block[i]);
  }
}

}  // namespace headrace

#endif  // HEADRACE_SHARED_SUMS_H_
