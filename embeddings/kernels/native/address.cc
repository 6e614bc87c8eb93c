// HeadraceAddresses: where variables lie in memory, for who reads them from a frozen copy of this process.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;

REGISTER_OP("HeadraceAddresses")
    .Input("variables: N * resource")
    .Output("addresses: int64")
    .Attr("N: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

class AddressesOp : public OpKernel {
 public:
  explicit AddressesOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    Tensor* addresses;
    const int count = context->num_inputs();
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({count}), &addresses));
    for (int v = 0; v < count; ++v) {
      tensorflow::core::RefCountPtr<Var> variable;
      OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, v), &variable));
      tensorflow::tf_shared_lock lock(*variable->mu());
      addresses->flat<int64_t>()(v) = reinterpret_cast<int64_t>(variable->tensor()->data());
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("HeadraceAddresses").Device(tensorflow::DEVICE_CPU), AddressesOp);

}  // namespace headrace
