// The variables of a call, held and locked for writing.
#ifndef HEADRACE_HELD_H_
#define HEADRACE_HELD_H_

#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace headrace {

// Locks are taken in the order of the inputs, which is that of every op of ours; none of TensorFlow's own ops locks
// several of these variables at once.
class Held {
 public:
  tensorflow::Status Take(tensorflow::OpKernelContext* context, int first, int count) {
    held_.resize(count);
    for (int v = 0; v < count; ++v) {
      TF_RETURN_IF_ERROR(LookupResource(context, tensorflow::HandleFromInput(context, first + v), &held_[v]));
    }
    for (auto& variable : held_) locks_.emplace_back(*variable->mu());
    return tensorflow::OkStatus();
  }

  tensorflow::Var* operator[](int v) const { return held_[v].get(); }

 private:
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> held_;
  std::vector<tensorflow::mutex_lock> locks_;
};

}  // namespace headrace

#endif  // HEADRACE_HELD_H_
