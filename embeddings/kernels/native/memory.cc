#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace headrace {
namespace {

size_t RoundedUp(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

void* NewBlock(size_t alignment, size_t bytes) {
  const bool large = bytes >= kHugePage / 2;
  void* block = nullptr;
  const size_t aligned = large ? kHugePage : std::max<size_t>(alignment, 64);
  if (posix_memalign(&block, aligned, large ? RoundedUp(bytes) : bytes) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
  if (large) madvise(block, RoundedUp(bytes), MADV_HUGEPAGE);  // a refusal costs speed, nothing else
#endif
  return block;
}

class Tables : public tensorflow::Allocator {
 public:
  std::string Name() override { return "headrace_tables"; }
  void* AllocateRaw(size_t alignment, size_t bytes) override { return NewBlock(alignment, bytes); }
  void DeallocateRaw(void* block) override { free(block); }
};

class Steps : public tensorflow::Allocator {
 public:
  std::string Name() override { return "headrace_steps"; }

  void* AllocateRaw(size_t alignment, size_t bytes) override {
    if (bytes < kHugePage / 2) return NewBlock(alignment, bytes);
    const size_t size = SizeClass(bytes);
    {
      std::lock_guard<std::mutex> guard(mutex_);
      auto& waiting = free_[size];
      if (!waiting.empty()) {
        void* block = waiting.back();
        waiting.pop_back();
        sizes_[block] = size;
        return block;
      }
    }
    void* block = NewBlock(alignment, size);
    if (block == nullptr) return nullptr;
    std::lock_guard<std::mutex> guard(mutex_);
    sizes_[block] = size;
    return block;
  }

  void DeallocateRaw(void* block) override {
    {
      std::lock_guard<std::mutex> guard(mutex_);
      auto found = sizes_.find(block);
      if (found != sizes_.end()) {
        free_[found->second].push_back(block);
        sizes_.erase(found);
        return;
      }
    }
    free(block);
  }

 private:
  // Whole huge pages, in steps of an eighth of the size: batches that differ a little share blocks.
  static size_t SizeClass(size_t bytes) {
    size_t step = kHugePage;
    while (step * 16 < bytes) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  std::unordered_map<void*, size_t> sizes_;
};

}  // namespace

tensorflow::Allocator* TableMemory() {
  static auto* memory = new Tables;
  return memory;
}

tensorflow::Allocator* StepMemory() {
  static auto* memory = new Steps;
  return memory;
}

}  // namespace headrace
