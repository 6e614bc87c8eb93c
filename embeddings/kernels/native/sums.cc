// HeadraceSums: the gradients of bags, summed over each of their tables' distinct ids: what an exchange sends back.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "backward.h"
#include "bags.h"
#include "grouping.h"
#include "memory.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// places: of the bags' ids among the distinct ids of their table, of which there are `counts[t]`. sums: of each table
// [counts[t], dims[t]].
REGISTER_OP("HeadraceSums")
    .Input("places: N * int64")
    .Input("splits: N * int64")
    .Input("weights: N * float")
    .Input("gradients: N * float")
    .Input("counts: int64")
    .Output("sums: T * float")
    .Attr("T: int >= 1")
    .Attr("N: int >= 1")
    .Attr("table_of: list(int)")
    .Attr("combiners: list(string)")
    .Attr("feature_names: list(string)")
    .Attr("dims: list(int)")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

// A step that only keeps the gradient: rows are the sums, and slot 0 says of each, a byte, whether it has one.
template <int64_t kDim>
struct KeptRows {
  static constexpr int64_t kWidth = kDim;

  static void Take(const TableState& table, int64_t row, const float* gradient, int64_t dim, float*) {
    std::memcpy(static_cast<float*>(table.rows) + row * dim, gradient, dim * sizeof(float));
    static_cast<uint8_t*>(table.slots[0])[row] = 1;
  }

  static void Fetch(const TableState& table, int64_t row, int64_t dim) {
    FetchForWriting(static_cast<float*>(table.rows) + row * dim, dim * sizeof(float));
  }
};

class SumsOp : public OpKernel {
 public:
  explicit SumsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("dims", &dims_));
    OP_REQUIRES(context, dims_.size() == static_cast<size_t>(layout_.tables),
                errors::InvalidArgument("dims: one for each table is wanted"));
    for (int64_t dim : dims_) OP_REQUIRES(context, dim > 0, errors::InvalidArgument("dims: ", dim));
  }

  void Compute(OpKernelContext* context) override {
    const int features = layout_.features, tables = layout_.tables;
    const Tensor& counts = context->input(4 * features);
    OP_REQUIRES(context, counts.NumElements() == tables,
                errors::InvalidArgument("counts: one for each of ", tables, " tables is wanted"));
    std::vector<Feature> read;
    OP_REQUIRES_OK(context, ReadFeatures(context, layout_, 0, &read));
    std::vector<const float*> gradients;
    int64_t total = 0;
    for (int f = 0; f < features; ++f) {
      const Tensor& gradient = context->input(3 * features + f);
      OP_REQUIRES(context, gradient.NumElements() == read[f].bags * dims_[read[f].table],
                  errors::InvalidArgument("feature ", layout_.names[f], ": its gradient has the shape ",
                                          gradient.shape().DebugString()));
      gradients.push_back(gradient.flat<float>().data());
      total += read[f].size;
    }
    OP_REQUIRES(context, total < kSummed, errors::InvalidArgument("fewer than 2^31 ids a step are wanted"));

    std::vector<TableState> states(tables);
    std::vector<int64_t> rows;
    std::vector<StepBlock<uint8_t>> kept;
    for (int t = 0; t < tables; ++t) {
      rows.push_back(counts.flat<int64_t>()(t));
      OP_REQUIRES(context, rows[t] >= 0, errors::InvalidArgument("counts: ", rows[t], " is negative"));
      Tensor sums(StepMemory(), tensorflow::DT_FLOAT, TensorShape({rows[t], dims_[t]}));
      kept.push_back(NewStepBlock<uint8_t>(rows[t]));
      OP_REQUIRES(context, (sums.IsInitialized() || rows[t] == 0) && kept[t] != nullptr,
                  errors::ResourceExhausted("no memory for the sums of ", rows[t], " ids"));
      context->set_output(t, sums);
      std::memset(kept[t].get(), 0, rows[t]);
      TableState& state = states[t];
      state = {};
      state.rows = rows[t] ? sums.flat<float>().data() : nullptr;
      state.slots[0] = kept[t].get();
      state.step.clipvalue = state.step.clipnorm = INFINITY;
      state.norm_scale = 1.0f;
    }

    // Tables of one width at a time: what sums them knows it.
    std::vector<int64_t> widths(dims_);
    std::sort(widths.begin(), widths.end());
    widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    for (int64_t dim : widths) {
      std::vector<int> chosen;
      for (int f = 0; f < features; ++f) {
        if (dims_[read[f].table] == dim && read[f].size > 0) chosen.push_back(f);
      }
      if (!chosen.empty()) OP_REQUIRES_OK(context, Sum(dim, chosen, read, gradients, rows, states, pool));
    }
    for (int t = 0; t < tables; ++t) {
      float* const sums = static_cast<float*>(states[t].rows);
      for (int64_t row = 0; row < rows[t]; ++row) {
        if (!kept[t][row]) std::memset(sums + row * dims_[t], 0, dims_[t] * sizeof(float));
      }
    }
  }

 private:
  tensorflow::Status Sum(int64_t dim, const std::vector<int>& chosen, const std::vector<Feature>& all,
                         const std::vector<const float*>& gradients_of_all, const std::vector<int64_t>& rows,
                         std::vector<TableState>& states, tensorflow::thread::ThreadPool* pool) const {
    std::vector<Feature> features;
    std::vector<const float*> gradients;
    Layout layout;
    int64_t total = 0;
    for (int f : chosen) {
      features.push_back(all[f]);
      gradients.push_back(gradients_of_all[f]);
      layout.names.push_back(layout_.names[f]);
      total += all[f].size;
    }
    Fault fault;
    Grouping grouping(features, rows, true, pool, &fault);
    TF_RETURN_IF_ERROR(fault.Status(layout, features, rows));
    if (!grouping.ok()) return errors::ResourceExhausted("no memory to group ", total, " ids");
    const StepBlock<float> sums = NewStepBlock<float>(grouping.sums() * dim);
    if (sums == nullptr) return errors::ResourceExhausted("no memory to sum the gradients of ", total, " ids");
    auto run = [&](auto backward) { backward.Run(&grouping, pool, total); };
    if (dim == 16) {
      run(Backward<KeptRows<16>>(features, gradients, states, dim, sums.get()));
    } else if (dim == 32) {
      run(Backward<KeptRows<32>>(features, gradients, states, dim, sums.get()));
    } else if (dim == 64) {
      run(Backward<KeptRows<64>>(features, gradients, states, dim, sums.get()));
    } else if (dim == 128) {
      run(Backward<KeptRows<128>>(features, gradients, states, dim, sums.get()));
    } else {
      run(Backward<KeptRows<0>>(features, gradients, states, dim, sums.get()));
    }
    return tensorflow::OkStatus();
  }

  Layout layout_;
  std::vector<int64_t> dims_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceSums").Device(tensorflow::DEVICE_CPU), SumsOp);

}  // namespace headrace
