// What a rank's file holds: a header that the others read, then its payloads. All of it is zeros at first.
#ifndef HEADRACE_SHARED_LAYOUT_H_
#define HEADRACE_SHARED_LAYOUT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace headrace {

constexpr uint64_t kChannels = 4096;  // of a group
constexpr size_t kPage = 4096;

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free,
              "what processes share must not hide a lock");

// What a rank says of its part of one round. What all ranks must say alike is `call` to `digest`.
struct Message {
  uint64_t offset;  // where in the rank's file its payload is
  uint64_t bytes;
  uint32_t call;    // what is done, or kFailed
  uint32_t dtype;
  uint64_t shape;   // a digest: of a row, or of the whole value where it is the same on all ranks
  uint64_t sizes;   // a digest: of the sizes, or of the root
  char words[88];   // the same for people, or why it failed
};

constexpr uint32_t kFailed = ~uint32_t{0};

// A channel as its rank tells of it. Round n's message is the (n % 2)th, and stands until round n + 2.
struct alignas(64) Slot {
  std::atomic<uint64_t> key;      // 0: none yet; it never changes after
  std::atomic<uint64_t> written;  // the last round whose message and payload can be read
  Message messages[2];
};

struct alignas(64) Header {
  unsigned char tag[32];  // by which a file is known to be what it is said to be
  std::atomic<uint32_t> pid;
  alignas(64) std::atomic<uint32_t> bell;  // rung, +1, when there may be news for a thread that sleeps
  std::atomic<uint32_t> sleeping;
  Slot slots[kChannels];
};

constexpr size_t kHeaderBytes = (sizeof(Header) + kPage - 1) / kPage * kPage;

}  // namespace headrace

#endif  // HEADRACE_SHARED_LAYOUT_H_
