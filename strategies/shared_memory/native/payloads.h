// The memory of a rank's payloads: extents of its file, reserved before they are touched.
#ifndef HEADRACE_SHARED_PAYLOADS_H_
#define HEADRACE_SHARED_PAYLOADS_H_

#include <map>
#include <mutex>
#include <vector>

#include "layout.h"

namespace headrace {

struct Extent {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// The file is as long as it can ever be, and holes until then: addresses are plenty, memory is what is reserved. Written
// without a reservation, a page that cannot be had is SIGBUS; with it, it is an error to tell.
class Payloads {
 public:
  Payloads(int file, uint64_t file_bytes) : file_(file), end_(file_bytes) {}

  // Makes `extent` hold so many bytes, what was in it lost; false: there is no memory, and it is as it was.
  bool Grow(Extent* extent, uint64_t bytes);

 private:
  bool Reserve(uint64_t offset, uint64_t bytes) const;

  const int file_;
  const uint64_t end_;
  std::mutex mutex_;
  uint64_t next_ = kHeaderBytes;
  std::map<uint64_t, std::vector<uint64_t>> holes_;  // by size: where an extent was, its memory given back
};

}  // namespace headrace

#endif  // HEADRACE_SHARED_PAYLOADS_H_
