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

size_t WholePages(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

// More than this no table can hold here.
size_t Physical() { return WholePages(static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE)); }

class GrowingBuffer : public TensorBuffer {
 public:
  // With addresses for as much as the machine holds, or where there are too few of those, for less, but for `bytes` at
  // least. Null where there is not even that.
  static GrowingBuffer* New(size_t bytes) {
    bytes = WholePages(bytes);
    for (size_t wanted = std::max(Physical(), bytes);; wanted = std::max(WholePages(wanted / 2), bytes)) {
      const size_t reserved = wanted + kHugePage;  // one more, to begin on a whole page
      void* start = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (start != MAP_FAILED) return new GrowingBuffer(start, reserved);
      if (wanted == bytes) return nullptr;
    }
  }

  ~GrowingBuffer() override { munmap(start_, reserved_); }

  // Makes at least `bytes` of it usable.
  bool Extend(size_t bytes) {
    if (bytes <= usable_) return true;
    const size_t wanted = WholePages(bytes);
    if (wanted > reserved_ - kHugePage) return false;
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
      : TensorBuffer(reinterpret_cast<void*>(WholePages(reinterpret_cast<uintptr_t>(start)))),
        start_(start),
        reserved_(reserved) {}

  void* const start_;
  const size_t reserved_;
  size_t usable_ = 0;
};

// `tensor` with `wanted` rows, in its own buffer where that can grow.
tensorflow::Status Grown(const Tensor& tensor, int64_t wanted, Tensor* grown) {
  if (tensor.dims() < 1 || tensor.dim_size(0) > wanted) {
    return errors::InvalidArgument("a table cannot grow to ", wanted, " rows from ", tensor.DebugString(0));
  }
  TensorShape shape = tensor.shape();
  shape.set_dim(0, wanted);
  const size_t bytes = shape.num_elements() * tensorflow::DataTypeSize(tensor.dtype());
  auto* buffer = dynamic_cast<GrowingBuffer*>(tensorflow::DMAHelper::buffer(const_cast<Tensor*>(&tensor)));
  if (buffer != nullptr && buffer->Extend(bytes)) {
    *grown = Tensor(tensor.dtype(), shape, buffer);
    return tensorflow::OkStatus();
  }
  GrowingBuffer* larger = GrowingBuffer::New(bytes);
  if (larger == nullptr || !larger->Extend(bytes)) {
    if (larger != nullptr) larger->Unref();
    return errors::ResourceExhausted("no memory for ", wanted, " rows of a table, ", bytes, " bytes");
  }
  std::memcpy(larger->data(), tensor.data(), tensor.TotalBytes());
  *grown = Tensor(tensor.dtype(), shape, larger);
  larger->Unref();  // the tensor holds it
  return tensorflow::OkStatus();
}

}  // namespace

tensorflow::Status Grow(const std::vector<Tensor*>& tensors, int64_t wanted) {
  std::vector<Tensor> grown(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) TF_RETURN_IF_ERROR(Grown(*tensors[t], wanted, &grown[t]));
  for (size_t t = 0; t < tensors.size(); ++t) *tensors[t] = grown[t];
  return tensorflow::OkStatus();
}

}  // namespace headrace
