// The ops: a group of ranks, its channels, and a communicator's four calls.
#include <fcntl.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <numeric>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/register_types.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "calls.h"
#include "sums.h"

namespace headrace {

using tensorflow::DEVICE_CPU;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// Bytes are copied and numbers are summed: both want to know what is plain.
#define HEADRACE_NUMBERS                                                                                       \
  "{float, double, half, bfloat16, int8, int16, int32, int64, uint8, uint16, uint32, uint64}"

REGISTER_OP("HeadraceSharedGroup")
    .Output("group: int64")
    .Attr("files: list(int)")
    .Attr("rank: int >= 0")
    .Attr("file_bytes: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_OP("HeadraceSharedChannel")
    .Output("channel: resource")
    .Attr("group: int >= 0")
    .Attr("label: string")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_OP("HeadraceSharedAllToAll")
    .Input("channel: resource")
    .Input("rows: T")
    .Input("sizes: int64")
    .Output("received: T")
    .Attr("T: " HEADRACE_NUMBERS)
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceSharedAllGather")
    .Input("channel: resource")
    .Input("value: T")
    .Output("gathered: T")
    .Attr("T: " HEADRACE_NUMBERS)
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceSharedAllReduce")
    .Input("channel: resource")
    .Input("value: T")
    .Output("sum: T")
    .Attr("T: " HEADRACE_NUMBERS)
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceSharedBroadcast")
    .Input("channel: resource")
    .Input("value: T")
    .Output("same: T")
    .Attr("T: " HEADRACE_NUMBERS)
    .Attr("root: int >= 0")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

namespace {

std::mutex groups_mutex;

std::vector<Group*>& Groups() {  // they live as long as the process, their threads with them
  static auto* groups = new std::vector<Group*>;
  return *groups;
}

// A rank holds a lock on its file's first byte for as long as its process lives.
bool IsLocked(int file) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_len = 1;
  return fcntl(file, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

int64_t BytesOf(const Tensor& value) {
  return value.NumElements() * tensorflow::DataTypeSize(value.dtype());
}

const char* DataOf(const Tensor& value) { return static_cast<const char*>(value.data()); }
char* DataOf(Tensor* value) { return static_cast<char*>(value->data()); }

std::string Words(const char* call, const Tensor& value) {
  return std::string(call) + " of " + tensorflow::DataTypeString(value.dtype()) + " " + value.shape().DebugString();
}

}  // namespace

class SharedGroupOp : public OpKernel {
 public:
  explicit SharedGroupOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("files", &files_));
    OP_REQUIRES_OK(context, context->GetAttr("rank", &rank_));
    OP_REQUIRES_OK(context, context->GetAttr("file_bytes", &file_bytes_));
    OP_REQUIRES(context, rank_ < static_cast<int64_t>(files_.size()), errors::InvalidArgument("no rank ", rank_));
  }

  void Compute(OpKernelContext* context) override {
    std::vector<char*> mapped;
    for (int file : files_) {
      void* const place = mmap(nullptr, file_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
      if (place == MAP_FAILED) {
        const int reason = errno;
        for (char* before : mapped) munmap(before, file_bytes_);
        context->SetStatus(errors::ResourceExhausted("memory of ", file_bytes_, " bytes cannot be mapped (",
                                                     strerror(reason), ")"));
        return;
      }
#ifdef MADV_HUGEPAGE
      madvise(place, file_bytes_, MADV_HUGEPAGE);  // a refusal costs speed, nothing else
#endif
      madvise(place, file_bytes_, MADV_DONTDUMP);
      mapped.push_back(static_cast<char*>(place));
    }
    auto alive = [files = files_](int rank) { return IsLocked(files[rank]); };
    auto* const group = new Group(rank_, mapped, files_[rank_], file_bytes_, alive);
    Tensor* number;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &number));
    std::lock_guard<std::mutex> guard(groups_mutex);
    number->scalar<int64_t>()() = Groups().size();
    Groups().push_back(group);
  }

 private:
  std::vector<int> files_;
  int64_t rank_, file_bytes_;
};

class SharedChannelOp : public OpKernel {
 public:
  explicit SharedChannelOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("group", &group_));
    OP_REQUIRES_OK(context, context->GetAttr("label", &name_));
  }

  void Compute(OpKernelContext* context) override {
    Group* group = nullptr;
    {
      std::lock_guard<std::mutex> guard(groups_mutex);
      if (group_ < static_cast<int64_t>(Groups().size())) group = Groups()[group_];
    }
    OP_REQUIRES(context, group != nullptr, errors::InvalidArgument("no group ", group_));
    Channel* const channel = group->ChannelOf(name_);
    OP_REQUIRES(context, channel != nullptr,
                errors::ResourceExhausted(name_, ": a group has room for ", kChannels, " exchanges"));
    Tensor* handle;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &handle));
    handle->scalar<tensorflow::ResourceHandle>()() = tensorflow::ResourceHandle::MakeRefCountingHandle(
        new ChannelResource(group, channel), context->device()->name());
  }

 private:
  int64_t group_;
  std::string name_;
};

// Rows to whom `sizes` says. A payload is the parts for the others, in rank order.
class AllToAll : public OpRound {
 public:
  using Options = NoOptions;
  AllToAll(OpKernelContext* context, tensorflow::AsyncOpKernel::DoneCallback done, Group* group, const Options&)
      : OpRound(context, std::move(done), group) {}

  absl::Status Prepare() override {
    const Tensor &rows = context_->input(1), &sizes = context_->input(2);
    const int64_t ranks = group_->size(), rank = group_->rank();
    if (sizes.shape() != TensorShape({ranks, ranks})) {
      return errors::InvalidArgument("sizes have shape ", sizes.shape().DebugString(), ", not [", ranks, ",", ranks, "]");
    }
    if (rows.dims() < 1) return errors::InvalidArgument("a scalar has no rows");
    sizes_ = sizes.matrix<int64_t>().data();
    int64_t sent = 0, received = 0;
    for (int64_t i = 0; i < ranks * ranks; ++i) {
      if (sizes_[i] < 0) return errors::InvalidArgument("sizes are not below 0: ", sizes.SummarizeValue(64));
    }
    for (int64_t r = 0; r < ranks; ++r) {
      sent += Size(rank, r);
      received += Size(r, rank);
    }
    if (sent != rows.dim_size(0)) {
      return errors::InvalidArgument("sizes do not cover the rows: ", sent, " of ", rows.dim_size(0));
    }
    TensorShape row = rows.shape(), result = rows.shape();
    row.RemoveDim(0);
    result.set_dim(0, received);
    row_bytes_ = row.num_elements() * tensorflow::DataTypeSize(rows.dtype());
    TF_RETURN_IF_ERROR(Allocate(result));
    Say(Call::kAllToAll, rows, row, Digest(sizes_, ranks * ranks * sizeof(int64_t)),
        "all_to_all of " + tensorflow::DataTypeString(rows.dtype()) + " rows " + row.DebugString() + " by sizes " +
            sizes.SummarizeValue(9));
    message.bytes = (sent - Size(rank, rank)) * row_bytes_;
    return absl::OkStatus();
  }

  void Fill(char* payload) override {
    const char* const rows = DataOf(context_->input(1));
    const int64_t own = Before(group_->rank(), group_->rank()), after = own + Size(group_->rank(), group_->rank());
    Copy(payload, rows, own * row_bytes_);
    Copy(payload + own * row_bytes_, rows + after * row_bytes_, BytesOf(context_->input(1)) - after * row_bytes_);
  }

  void Take(int sender, const char* payload) override {
    const int64_t rank = group_->rank(), count = Size(sender, rank);
    int64_t first = Before(sender, rank);
    if (sender == rank) payload = DataOf(context_->input(1));
    if (sender < rank) first -= Size(sender, sender);  // which its payload leaves out
    Copy(DataOf(&output_) + taken_ * row_bytes_, payload + first * row_bytes_, count * row_bytes_);
    taken_ += count;
  }

 private:
  int64_t Size(int64_t sender, int64_t receiver) const { return sizes_[sender * group_->size() + receiver]; }
  int64_t Before(int64_t sender, int64_t receiver) const {
    return std::accumulate(sizes_ + sender * group_->size(), sizes_ + sender * group_->size() + receiver, int64_t{0});
  }

  const int64_t* sizes_ = nullptr;
  int64_t row_bytes_ = 0, taken_ = 0;
};

// Every rank's value, of one shape, in rank order.
class AllGather : public OpRound {
 public:
  using Options = NoOptions;
  AllGather(OpKernelContext* context, tensorflow::AsyncOpKernel::DoneCallback done, Group* group, const Options&)
      : OpRound(context, std::move(done), group) {}

  absl::Status Prepare() override {
    const Tensor& value = context_->input(1);
    if (value.dims() < 1) return errors::InvalidArgument("a scalar has no rows");
    TensorShape result = value.shape();
    result.set_dim(0, value.dim_size(0) * group_->size());
    TF_RETURN_IF_ERROR(Allocate(result));
    Say(Call::kAllGather, value, value.shape(), 0, Words("all_gather", value));
    message.bytes = BytesOf(value);
    return absl::OkStatus();
  }

  void Fill(char* payload) override { Copy(payload, DataOf(context_->input(1)), message.bytes); }

  void Take(int rank, const char* payload) override {
    Copy(DataOf(&output_) + rank * message.bytes, payload, message.bytes);
  }

};

// The sum over ranks: each rank reads all values and makes it for itself.
class AllReduce : public OpRound {
 public:
  using Options = NoOptions;
  AllReduce(OpKernelContext* context, tensorflow::AsyncOpKernel::DoneCallback done, Group* group, const Options&)
      : OpRound(context, std::move(done), group) {}

  absl::Status Prepare() override {
    const Tensor& value = context_->input(1);
    TF_RETURN_IF_ERROR(Allocate(value.shape()));
    Say(Call::kAllReduce, value, value.shape(), 0, Words("all_reduce", value));
    message.bytes = BytesOf(value);
    return absl::OkStatus();
  }

  void Fill(char* payload) override { Copy(payload, DataOf(context_->input(1)), message.bytes); }
  void Take(int rank, const char* payload) override {
    payloads_.push_back(rank == group_->rank() ? DataOf(context_->input(1)) : payload);
  }

  void Finish() override {
    const Tensor& value = context_->input(1);
    const int64_t bytes_each = tensorflow::DataTypeSize(value.dtype()) * group_->size();
    Parallel(value.NumElements(), bytes_each, [&](int64_t begin, int64_t end) {
      switch (value.dtype()) {
#define HEADRACE_SUM(T)                                     \
  case tensorflow::DataTypeToEnum<T>::value:                \
    SumRanks<T>(payloads_, DataOf(&output_), begin, end);    \
    break;
        TF_CALL_REAL_NUMBER_TYPES(HEADRACE_SUM)
#undef HEADRACE_SUM
        default:
          break;  // the op takes no other
      }
    });
  }

 private:
  std::vector<const char*> payloads_;
};

// The value of one rank; the others send nothing, and say so.
class Broadcast : public OpRound {
 public:
  struct Options {
    explicit Options(OpKernelConstruction* context) { OP_REQUIRES_OK(context, context->GetAttr("root", &root)); }
    int64_t root = 0;
  };
  Broadcast(OpKernelContext* context, tensorflow::AsyncOpKernel::DoneCallback done, Group* group,
            const Options& options)
      : OpRound(context, std::move(done), group), root_(options.root) {}

  absl::Status Prepare() override {
    const Tensor& value = context_->input(1);
    if (root_ >= group_->size()) return errors::InvalidArgument("no rank ", root_);
    TF_RETURN_IF_ERROR(Allocate(value.shape()));
    Say(Call::kBroadcast, value, value.shape(), root_, Words("broadcast", value) + " from rank " + std::to_string(root_));
    message.bytes = group_->rank() == root_ ? BytesOf(value) : 0;
    return absl::OkStatus();
  }

  void Fill(char* payload) override { Copy(payload, DataOf(context_->input(1)), message.bytes); }

  void Take(int rank, const char* payload) override {
    if (rank == root_) Copy(DataOf(&output_), payload, BytesOf(output_));
  }

 private:
  const int64_t root_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceSharedGroup").Device(DEVICE_CPU), SharedGroupOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceSharedChannel").Device(DEVICE_CPU), SharedChannelOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceSharedAllToAll").Device(DEVICE_CPU), CallOp<AllToAll>);
REGISTER_KERNEL_BUILDER(Name("HeadraceSharedAllGather").Device(DEVICE_CPU), CallOp<AllGather>);
REGISTER_KERNEL_BUILDER(Name("HeadraceSharedAllReduce").Device(DEVICE_CPU), CallOp<AllReduce>);
REGISTER_KERNEL_BUILDER(Name("HeadraceSharedBroadcast").Device(DEVICE_CPU), CallOp<Broadcast>);

}  // namespace headrace
