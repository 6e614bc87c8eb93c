// Memory for tables and activations: huge pages are asked for before the first touch, and blocks are kept for reuse.
#ifndef HEADRACE_MEMORY_H_
#define HEADRACE_MEMORY_H_

#include <algorithm>
#include <memory>

#include "tensorflow/core/framework/allocator.h"

namespace headrace {

constexpr size_t kHugePage = size_t{2} << 20;

// For what lives long (tables, slot variables): every large block on huge pages, given back when freed.
tensorflow::Allocator* TableMemory();

// For what lives a step (activations): large blocks on huge pages, kept and given out again, so that no step pays for
// page faults. Of each size, in steps of an eighth, it holds as many as were ever in use at once.
tensorflow::Allocator* StepMemory();

struct FreedStep {
  void operator()(void* block) const { StepMemory()->DeallocateRaw(block); }
};

// An array for a step; null where there is no memory.
template <typename T>
using StepBlock = std::unique_ptr<T[], FreedStep>;

template <typename T>
StepBlock<T> NewStepBlock(int64_t count) {
  return StepBlock<T>(static_cast<T*>(StepMemory()->AllocateRaw(64, std::max<int64_t>(count, 1) * sizeof(T))));
}

// For the many small arrays of a hash table that grows: blocks of powers of two, cut from huge pages, kept for reuse.
void* NewSmallBlock(size_t bytes);
void FreeSmallBlock(void* block, size_t bytes);

template <typename T>
struct SmallBlocks {
  using value_type = T;
  SmallBlocks() = default;
  template <typename Other>
  SmallBlocks(const SmallBlocks<Other>&) {}
  T* allocate(size_t count) { return static_cast<T*>(NewSmallBlock(count * sizeof(T))); }
  void deallocate(T* block, size_t count) { FreeSmallBlock(block, count * sizeof(T)); }
  bool operator==(const SmallBlocks&) const { return true; }
  bool operator!=(const SmallBlocks&) const { return false; }
};

}  // namespace headrace

#endif  // HEADRACE_MEMORY_H_
