// CRC-32C (Castagnoli, 1993), as zarr's codec of that name has it: called through ctypes, not an op.
#include <array>
#include <cstdint>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace {

#if defined(__SSE4_2__)
uint64_t Next8(uint64_t crc, uint64_t bytes) { return _mm_crc32_u64(crc, bytes); }
uint32_t Next1(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }
#elif defined(__ARM_FEATURE_CRC32)
uint64_t Next8(uint64_t crc, uint64_t bytes) { return __crc32cd(static_cast<uint32_t>(crc), bytes); }
uint32_t Next1(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }
#else
std::array<uint32_t, 256> Table() {
  std::array<uint32_t, 256> table;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
    table[byte] = crc;
  }
  return table;
}
uint32_t Next1(uint32_t crc, uint8_t byte) {
  static const std::array<uint32_t, 256> table = Table();
  return (crc >> 8) ^ table[(crc ^ byte) & 0xff];
}
uint64_t Next8(uint64_t crc, uint64_t bytes) {
  uint32_t next = static_cast<uint32_t>(crc);
  for (int b = 0; b < 8; ++b) next = Next1(next, static_cast<uint8_t>(bytes >> (8 * b)));
  return next;
}
#endif

}  // namespace

extern "C" uint32_t headrace_crc32c(const void* data, int64_t size) {
  const char* at = static_cast<const char*>(data);
  uint64_t crc = 0xffffffffu;
  for (; size >= 8; size -= 8, at += 8) {
    uint64_t bytes;
    std::memcpy(&bytes, at, 8);
    crc = Next8(crc, bytes);
  }
  uint32_t rest = static_cast<uint32_t>(crc);
  for (; size > 0; --size, ++at) rest = Next1(rest, static_cast<uint8_t>(*at));
  return ~rest;
}
