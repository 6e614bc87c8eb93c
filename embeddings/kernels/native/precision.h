// How numbers are stored: float32, or bfloat16 or float16 rounded stochastically (embeddings/precision.py).
#ifndef HEADRACE_PRECISION_H_
#define HEADRACE_PRECISION_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensorflow/core/framework/types.h"

#include "hashing.h"

namespace headrace {

using Half = Eigen::half;
using BFloat16 = Eigen::bfloat16;

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float AsFloat(float value) { return value; }
inline float AsFloat(BFloat16 value) { return FloatOf(uint32_t{Eigen::numext::bit_cast<uint16_t>(value)} << 16); }
inline float AsFloat(Half value) { return static_cast<float>(value); }

// The upper 16 bits of a float are a bfloat16: adding 16 random bits below them rounds up as often as it should.
inline void Store(float value, uint32_t random, BFloat16* stored) {
  uint32_t bits = BitsOf(value);
  if ((bits & 0x7F800000u) != 0x7F800000u) bits += random;  // not finite: stays what it is
  *stored = Eigen::numext::bit_cast<BFloat16>(static_cast<uint16_t>(bits >> 16));
}

// A float16 has 13 bits less, and below 2^-14 a fixed step of 2^-24. What would be infinite is the largest one.
inline void Store(float value, uint32_t random, Half* stored) {
  const float magnitude = std::fabs(value);
  float rounded;
  if (!(magnitude < INFINITY)) {
    rounded = magnitude;
  } else if (magnitude < 0x1p-14f) {
    rounded = std::floor(magnitude * 0x1p24f + static_cast<float>(random) * 0x1p-16f) * 0x1p-24f;
  } else {
    rounded = std::fmin(FloatOf((BitsOf(magnitude) + (random >> 3)) & ~0x1FFFu), 65504.0f);
  }
  *stored = static_cast<Half>(std::copysign(rounded, value));
}

// Bytes of one number.
inline int64_t BytesOf(tensorflow::DataType type) { return type == tensorflow::DT_FLOAT ? 4 : 2; }

inline bool IsPrecision(tensorflow::DataType type) {
  return type == tensorflow::DT_FLOAT || type == tensorflow::DT_BFLOAT16 || type == tensorflow::DT_HALF;
}

inline void LoadFloats(const void* from, tensorflow::DataType type, int64_t count, float* __restrict to) {
  if (type == tensorflow::DT_FLOAT) {
    std::memcpy(to, from, count * sizeof(float));
  } else if (type == tensorflow::DT_BFLOAT16) {
    for (int64_t i = 0; i < count; ++i) to[i] = AsFloat(static_cast<const BFloat16*>(from)[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = AsFloat(static_cast<const Half*>(from)[i]);
  }
}

// `random`: a hash of whose these numbers are and of the step; each 64 bits drawn from it serve four columns.
template <typename Stored>
void StoreRounded(const float* from, int64_t count, uint64_t random, Stored* to) {
  for (int64_t i = 0; i < count; i += 4) {
    const uint64_t word = SplitMix64(random + static_cast<uint64_t>(i / 4));
    for (int64_t lane = 0; lane < 4 && i + lane < count; ++lane) {
      Store(from[i + lane], static_cast<uint32_t>(word >> (16 * lane)) & 0xFFFFu, &to[i + lane]);
    }
  }
}

inline void StoreFloats(const float* from, int64_t count, uint64_t random, tensorflow::DataType type, void* to) {
  if (type == tensorflow::DT_FLOAT) {
    std::memcpy(to, from, count * sizeof(float));
  } else if (type == tensorflow::DT_BFLOAT16) {
    StoreRounded(from, count, random, static_cast<BFloat16*>(to));
  } else {
    StoreRounded(from, count, random, static_cast<Half*>(to));
  }
}

// Whose numbers: variable 0 is the rows, 1 and on the slots.
inline uint64_t RoundingHash(uint64_t key, int64_t id, int64_t update, int variable) {
  return SplitMix64(key + static_cast<uint64_t>(id)) + SplitMix64(static_cast<uint64_t>(update) * 4 + variable);
}

// To the nearest, for initial values.
inline void StoreNearest(float value, tensorflow::DataType type, int64_t place, void* to) {
  if (type == tensorflow::DT_FLOAT) {
    static_cast<float*>(to)[place] = value;
  } else if (type == tensorflow::DT_BFLOAT16) {
    static_cast<BFloat16*>(to)[place] = static_cast<BFloat16>(value);
  } else {
    static_cast<Half*>(to)[place] = static_cast<Half>(value);
  }
}

}  // namespace headrace

#endif  // HEADRACE_PRECISION_H_
