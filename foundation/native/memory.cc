#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
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

class Small {
 public:
  void* New(size_t bytes) {
    const int kind = KindOf(bytes);
    if (kind > kLargest) return Checked(NewBlock(64, bytes));
    std::lock_guard<std::mutex> guard(mutex_);
    auto& waiting = free_[kind];
    if (!waiting.empty()) {
      void* block = waiting.back();
      waiting.pop_back();
      return block;
    }
    const size_t size = size_t{1} << kind;
    if (left_ < size) {
      next_ = static_cast<char*>(Checked(NewBlock(64, kChunk)));  // what was left of the last one is lost: a block at most
      left_ = kChunk;
    }
    void* block = next_;
    next_ += size;
    left_ -= size;
    return block;
  }

  void Free(void* block, size_t bytes) {
    const int kind = KindOf(bytes);
    if (kind > kLargest) {
      free(block);
      return;
    }
    std::lock_guard<std::mutex> guard(mutex_);
    free_[kind].push_back(block);
  }

 private:
  static constexpr int kSmallest = 6, kLargest = 19;
  static constexpr size_t kChunk = size_t{4} << 20;

  static int KindOf(size_t bytes) {
    int kind = kSmallest;
    while ((size_t{1} << kind) < bytes) ++kind;
    return kind;
  }

  // What throws in a thread of TensorFlow's ends the process: there is no memory left to go on with.
  static void* Checked(void* block) {
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }

  std::mutex mutex_;
  std::vector<void*> free_[kLargest + 1];
  char* next_ = nullptr;
  size_t left_ = 0;
};

Small* SmallMemory() {
  static auto* memory = new Small;
  return memory;
}

}  // namespace

void* NewSmallBlock(size_t bytes) { return SmallMemory()->New(bytes); }
void FreeSmallBlock(void* block, size_t bytes) { SmallMemory()->Free(block, bytes); }

tensorflow::Allocator* TableMemory() {
  static auto* memory = new Tables;
  return memory;
}

tensorflow::Allocator* StepMemory() {
  static auto* memory = new Steps;
  return memory;
}

}  // namespace headrace
