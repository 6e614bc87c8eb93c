#include "growing.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tensorflow/core/common_runtime/dma_helper.h"
#include "tensorflow/core/framework/allocation_description.pb.h"
#include "tensorflow/core/platform/errors.h"

#include "memory.h"

namespace headrace {
namespace {

using tensorflow::Tensor;
using tensorflow::TensorBuffer;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// More than this no table can hold here.
size_t Reservation() {
  static const size_t physical = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return (physical + kHugePage - 1) / kHugePage * kHugePage;
}

class GrowingBuffer : public TensorBuffer {
 public:
  // Null where no addresses can be had.
  static GrowingBuffer* New() {
    const size_t reserved = Reservation() + kHugePage;
    void* start = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    return new GrowingBuffer(start, reserved);
  }

  ~GrowingBuffer() override { munmap(start_, reserved_); }

  // Makes at least `bytes` of it usable.
  bool Extend(size_t bytes) {
    if (bytes <= usable_) return true;
    const size_t wanted = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    if (wanted > Reservation()) return false;
    char* const from = static_cast<char*>(data()) + usable_;
    if (mprotect(from, wanted - usable_, PROT_READ | PROT_WRITE) != 0) return false;
#ifdef MADV_HUGEPAGE
    madvise(from, wanted - usable_, MADV_HUGEPAGE);
#endif
    usable_ = wanted;
    return true;
  }

  size_t size() const override { return usable_; }
  TensorBuffer* root_buffer() override { return this; }
  bool OwnsMemory() const override { return false; }  // never forwarded to another op as scratch
  void FillAllocationDescription(tensorflow::AllocationDescription* description) const override {
    description->set_requested_bytes(usable_);
    description->set_allocator_name("headrace_growing");
  }

 private:
  GrowingBuffer(void* start, size_t reserved)
      : TensorBuffer(reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(start) + kHugePage - 1) / kHugePage *
                                             kHugePage)),
        start_(start),
        reserved_(reserved) {}

  void* const start_;
  const size_t reserved_;
  size_t usable_ = 0;
};

}  // namespace

tensorflow::Status Grow(Tensor* tensor, int64_t wanted) {
  const int64_t rows = tensor->dim_size(0);
  auto* buffer = dynamic_cast<GrowingBuffer*>(tensorflow::DMAHelper::buffer(tensor));
  if (buffer != nullptr && wanted == rows) return tensorflow::OkStatus();
  TensorShape shape = tensor->shape();
  shape.set_dim(0, 1);
  const int64_t row_bytes = shape.num_elements() * tensorflow::DataTypeSize(tensor->dtype());
  shape.set_dim(0, wanted);
  GrowingBuffer* grown = buffer;
  if (buffer == nullptr) {
    grown = GrowingBuffer::New();
    if (grown == nullptr) return errors::ResourceExhausted("no addresses for a table that grows");
  }
  if (!grown->Extend(wanted * row_bytes)) {
    if (grown != buffer) grown->Unref();
    return errors::ResourceExhausted("no memory for ", wanted, " rows of ", row_bytes, " bytes");
  }
  if (grown == buffer) {
    *tensor = Tensor(tensor->dtype(), shape, grown);
  } else {
    std::memcpy(grown->data(), tensor->data(), rows * row_bytes);
    *tensor = Tensor(tensor->dtype(), shape, grown);
    grown->Unref();  // the tensor holds it
  }
  return tensorflow::OkStatus();
}

}  // namespace headrace
