// Counter-based hashing, as embeddings/hashing.py and embeddings/precision.py have it.
#ifndef HEADRACE_HASHING_H_
#define HEADRACE_HASHING_H_

#include <cstdint>

namespace headrace {

inline uint64_t SplitMix64(uint64_t counter) {
  uint64_t mixed = counter + 0x9E3779B97F4A7C15ull;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ull;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBull;
  return mixed ^ (mixed >> 31);
}

// The initial value of a column, `row_hash` being SplitMix64(key + id).
inline float InitialValue(uint64_t row_hash, int64_t column, float scale) {
  const float upper = static_cast<float>(static_cast<int32_t>(SplitMix64(row_hash + column) >> 40));
  return (upper * 0x1p-23f - 1.0f) * scale;
}

}  // namespace headrace

#endif  // HEADRACE_HASHING_H_
