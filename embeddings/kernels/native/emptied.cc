// HeadraceEmptied: the variables of a dynamic table with so many rows of zeros, in buffers that grow, before a checkpoint
// is read into them. What they held is given back first: two are never there at once.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "growing.h"
#include "held.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceEmptied")
    .Input("variables: V * resource")
    .Input("rows: int64")
    .Attr("V: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

class EmptiedOp : public OpKernel {
 public:
  explicit EmptiedOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("V", &variables_));
  }

  void Compute(OpKernelContext* context) override {
    const int64_t rows = context->input(variables_).scalar<int64_t>()();
    OP_REQUIRES(context, rows >= 0, errors::InvalidArgument("rows: ", rows));
    Held held;
    OP_REQUIRES_OK(context, held.Take(context, 0, variables_));
    for (int v = 0; v < variables_; ++v) {
      Tensor* tensor = held[v]->tensor();
      OP_REQUIRES(context, tensor->dims() >= 1,
                  errors::InvalidArgument("a dynamic table's variable is ", tensor->DebugString(0)));
      TensorShape none = tensor->shape();
      none.set_dim(0, 0);
      *tensor = Tensor(tensor->dtype(), none);
      held[v]->copy_on_read_mode.store(true);  // it will be written in place
      OP_REQUIRES_OK(context, Grow({tensor}, rows));
    }
  }

 private:
  int variables_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceEmptied").Device(tensorflow::DEVICE_CPU), EmptiedOp);

}  // namespace headrace
