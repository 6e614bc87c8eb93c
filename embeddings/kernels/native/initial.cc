// HeadraceInitialRows and HeadraceFilled: the buffers of new tables and slot variables, on huge pages.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "memory.h"

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
    .Output("rows: float")
    .Attr("vocabulary_size: int >= 1")
    .Attr("dim: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceFilled")
    .Input("value: float")
    .Output("filled: float")
    .Attr("shape: shape")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

uint64_t SplitMix64(uint64_t counter) {
  uint64_t mixed = counter + 0x9E3779B97F4A7C15ull;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ull;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBull;
  return mixed ^ (mixed >> 31);
}

class InitialRowsOp : public OpKernel {
 public:
  explicit InitialRowsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("vocabulary_size", &vocabulary_size_));
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
  }

  void Compute(OpKernelContext* context) override {
    const uint64_t key = static_cast<uint64_t>(context->input(0).scalar<int64_t>()());
    const float scale = context->input(1).scalar<float>()();
    Tensor rows(TableMemory(), tensorflow::DT_FLOAT, TensorShape({vocabulary_size_, dim_}));
    OP_REQUIRES(context, rows.IsInitialized(),
                errors::ResourceExhausted("no memory for a table of ", vocabulary_size_, " rows of ", dim_, " floats"));
    float* data = rows.flat<float>().data();
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(vocabulary_size_, 10 + 4 * dim_, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const uint64_t counter = SplitMix64(key + static_cast<uint64_t>(row));
        for (int64_t d = 0; d < dim_; ++d) {
          const float upper = static_cast<float>(static_cast<int32_t>(SplitMix64(counter + d) >> 40));
          data[row * dim_ + d] = (upper * 0x1p-23f - 1.0f) * scale;
        }
      }
    });
    context->set_output(0, rows);
  }

 private:
  int64_t vocabulary_size_, dim_;
};

class FilledOp : public OpKernel {
 public:
  explicit FilledOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("shape", &shape_));
  }

  void Compute(OpKernelContext* context) override {
    const float value = context->input(0).scalar<float>()();
    Tensor filled(TableMemory(), tensorflow::DT_FLOAT, shape_);
    OP_REQUIRES(context, filled.IsInitialized() || shape_.num_elements() == 0,
                errors::ResourceExhausted("no memory for a slot variable of shape ", shape_.DebugString()));
    float* data = filled.flat<float>().data();
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(shape_.num_elements(), 1,
                      [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, value); });
    context->set_output(0, filled);
  }

 private:
  TensorShape shape_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceInitialRows").Device(tensorflow::DEVICE_CPU), InitialRowsOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceFilled").Device(tensorflow::DEVICE_CPU), FilledOp);

}  // namespace headrace
