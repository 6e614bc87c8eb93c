// Rows of a table: fetched ahead, and copied past the caches.
#ifndef HEADRACE_ROWS_H_
#define HEADRACE_ROWS_H_

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

namespace headrace {

constexpr int kLine = 64;  // bytes of a cache line

// Ids ahead of the one at work whose rows are fetched: enough for the memory's latency, few enough for the core's
// outstanding misses.
inline int64_t Ahead(int64_t row_bytes) { return row_bytes <= 256 ? 20 : row_bytes <= 1024 ? 8 : 4; }

// GCC takes a function that only prefetches for one without effect, and drops its calls. This is an effect, of nothing.
inline void KeepPrefetches() { asm volatile(""); }

inline void FetchForReading(const void* row, int64_t bytes) {
  const char* place = static_cast<const char*>(row);
  for (int64_t b = 0; b < bytes; b += kLine) __builtin_prefetch(place + b, 0, 3);
  KeepPrefetches();
}

inline void FetchForWriting(const void* row, int64_t bytes) {
  const char* place = static_cast<const char*>(row);
  for (int64_t b = 0; b < bytes; b += kLine) __builtin_prefetch(place + b, 1, 3);
  KeepPrefetches();
}

// Copies a row past the caches: what is written is too large for them and read later. Needs a dim of whole registers and
// an aligned target; others are copied plainly.
inline void StreamOut(float* __restrict to, const float* __restrict from, int64_t dim) {
#if defined(__AVX512F__)
  if (dim % 16 == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0) {
    for (int64_t d = 0; d < dim; d += 16) _mm512_stream_ps(to + d, _mm512_loadu_ps(from + d));
    return;
  }
#elif defined(__AVX__)
  if (dim % 8 == 0 && reinterpret_cast<uintptr_t>(to) % 32 == 0) {
    for (int64_t d = 0; d < dim; d += 8) _mm256_stream_ps(to + d, _mm256_loadu_ps(from + d));
    return;
  }
#endif
  std::memcpy(to, from, dim * sizeof(float));
}

inline void EndStream() {
#if defined(__AVX512F__) || defined(__AVX__)
  _mm_sfence();
#endif
}

}  // namespace headrace

#endif  // HEADRACE_ROWS_H_
