#include "payloads.h"

#include <cerrno>
#include <fcntl.h>

#include <algorithm>

namespace headrace {
namespace {

// A quarter of a power of two: batches that differ a little share an extent.
uint64_t RoundedUp(uint64_t bytes) {
  uint64_t step = kPage;
  while (step * 8 < bytes) step *= 2;
  return (std::max<uint64_t>(bytes, 1) + step - 1) / step * step;
}

}  // namespace

bool Payloads::Reserve(uint64_t offset, uint64_t bytes) const {
  int result;
  do {
    result = fallocate(file_, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

bool Payloads::Grow(Extent* extent, uint64_t bytes) {
  if (bytes <= extent->bytes) return true;
  const uint64_t size = RoundedUp(bytes);
  std::lock_guard<std::mutex> guard(mutex_);
  auto& holes = holes_[size];
  const uint64_t offset = holes.empty() ? next_ : holes.back();
  if (offset + size > end_ || !Reserve(offset, size)) return false;
  if (holes.empty()) {
    next_ += size;
  } else {
    holes.pop_back();
  }
  if (extent->bytes > 0) {
    fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(extent->offset),
              static_cast<off_t>(extent->bytes));
    holes_[extent->bytes].push_back(extent->offset);
  }
  *extent = {offset, size};
  return true;
}

}  // namespace headrace
