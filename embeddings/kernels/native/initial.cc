// HeadraceInitialRows and HeadraceFilled: the buffers of new tables and slot variables, on huge pages.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "memory.h"
#include "precision.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceInitialRows")
    .Input("key: int64")
    .Input("scale: float")
    .Input("ids: int64")
    .Output("rows: dtype")
    .Attr("dtype: {float, bfloat16, half}")
    .Attr("vocabulary_size: int >= 1")
    .Attr("first_column: int >= 0 = 0")
    .Attr("dim: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceFilled")
    .Input("value: float")
    .Output("filled: dtype")
    .Attr("dtype: {float, bfloat16, half}")
    .Attr("shape: shape")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

class InitialRowsOp : public OpKernel {
 public:
  explicit InitialRowsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("vocabulary_size", &vocabulary_size_));
    OP_REQUIRES_OK(context, context->GetAttr("first_column", &first_column_));
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(context, context->GetAttr("dtype", &dtype_));
  }

  void Compute(OpKernelContext* context) override {
    const uint64_t key = static_cast<uint64_t>(context->input(0).scalar<int64_t>()());
    const float scale = context->input(1).scalar<float>()();
    const Tensor& ids = context->input(2);  // of each row; none: its number
    OP_REQUIRES(context, ids.NumElements() == 0 || ids.NumElements() == vocabulary_size_,
                errors::InvalidArgument("ids: one for each of the ", vocabulary_size_, " rows, or none"));
    const int64_t* const id_of = ids.NumElements() ? ids.flat<int64_t>().data() : nullptr;
    Tensor rows(TableMemory(), dtype_, TensorShape({vocabulary_size_, dim_}));
    OP_REQUIRES(context, rows.IsInitialized(),
                errors::ResourceExhausted("no memory for a table of ", vocabulary_size_, " rows of ", dim_));
    void* const data = rows.data();
    const int64_t dim = dim_, first = first_column_;
    const tensorflow::DataType dtype = dtype_;
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(vocabulary_size_, 10 + 4 * dim_, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const uint64_t hash = SplitMix64(key + static_cast<uint64_t>(id_of ? id_of[row] : row));
        for (int64_t d = 0; d < dim; ++d) StoreNearest(InitialValue(hash, first + d, scale), dtype, row * dim + d, data);
      }
    });
    context->set_output(0, rows);
  }

 private:
  int64_t vocabulary_size_, first_column_, dim_;
  tensorflow::DataType dtype_;
};

class FilledOp : public OpKernel {
 public:
  explicit FilledOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("shape", &shape_));
    OP_REQUIRES_OK(context, context->GetAttr("dtype", &dtype_));
  }

  void Compute(OpKernelContext* context) override {
    const float value = context->input(0).scalar<float>()();
    Tensor filled(TableMemory(), dtype_, shape_);
    OP_REQUIRES(context, filled.IsInitialized() || shape_.num_elements() == 0,
                errors::ResourceExhausted("no memory for a slot variable of shape ", shape_.DebugString()));
    void* const data = filled.data();
    const tensorflow::DataType dtype = dtype_;
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(shape_.num_elements(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) StoreNearest(value, dtype, i, data);
    });
    context->set_output(0, filled);
  }

 private:
  TensorShape shape_;
  tensorflow::DataType dtype_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceInitialRows").Device(tensorflow::DEVICE_CPU), InitialRowsOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceFilled").Device(tensorflow::DEVICE_CPU), FilledOp);

}  // namespace headrace
