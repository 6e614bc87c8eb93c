// HeadraceSums: the gradients of bags, summed over each of their tables' distinct ids: what an exchange sends back.
#include <algorithm>
#include <cstring>
#include <vector>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "bags.h"
#include "memory.h"
#include "rows.h"
#include "summed_rows.h"

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

constexpr int64_t kIdsPerCheck = 8192;
// Adds a feature's gradients to the sums of some rows. kDim: the table's width where the compiler may know it, else 0.
// seen: of each row, a byte, whether it has a sum.
template <int64_t kDim>
void Add(const Feature& feature, const float* gradients, const SummedRows& rows, int64_t of_any, float* sums, uint8_t* seen) {
  const int64_t dim = kDim ? kDim : of_any, ahead = Ahead(dim * sizeof(float));
  const uint64_t count = static_cast<uint64_t>(rows.count);
  for (int64_t bag = 0; bag < feature.bags; ++bag) {
    const int64_t begin = feature.first(bag), end = feature.first(bag + 1);
    if (begin == end) continue;
    const float norm = feature.Norm(bag);
    for (int64_t i = begin; i < end; ++i) {
      if (i + ahead < feature.size) {
        const int64_t next = feature.ids[i + ahead] - rows.first;
        if (static_cast<uint64_t>(next) < count) FetchForWriting(sums + (rows.first + next) * dim, dim * sizeof(float));
      }
      const int64_t row = feature.ids[i];
      if (static_cast<uint64_t>(row - rows.first) >= count) continue;
      const float share = feature.weights ? norm * feature.weights[i] : norm;
      if (seen[row]) {
        AddTo(sums + row * dim, gradients + bag * dim, share, dim);
      } else {
        PutTo(sums + row * dim, gradients + bag * dim, share, dim);
        seen[row] = 1;
      }
    }
  }
}

using AddFeature = decltype(&Add<0>);

AddFeature AddOfDim(int64_t dim) {
  switch (dim) {
    case 8: return Add<8>;
    case 16: return Add<16>;
    case 32: return Add<32>;
    case 64: return Add<64>;
    case 128: return Add<128>;
    default: return Add<0>;
  }
}

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
    std::vector<float*> sums;
    std::vector<int64_t> rows;
    std::vector<StepBlock<uint8_t>> seen;
    for (int t = 0; t < tables; ++t) {
      rows.push_back(counts.flat<int64_t>()(t));
      OP_REQUIRES(context, rows[t] >= 0, errors::InvalidArgument("counts: ", rows[t], " is negative"));
      Tensor of_table(StepMemory(), tensorflow::DT_FLOAT, TensorShape({rows[t], dims_[t]}));
      seen.push_back(NewStepBlock<uint8_t>(rows[t]));
      OP_REQUIRES(context, (of_table.IsInitialized() || rows[t] == 0) && seen[t] != nullptr,
                  errors::ResourceExhausted("no memory for the sums of ", rows[t], " ids"));
      context->set_output(t, of_table);
      std::memset(seen[t].get(), 0, rows[t]);
      sums.push_back(rows[t] ? of_table.flat<float>().data() : nullptr);
    }
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    OP_REQUIRES_OK(context, Check(read, rows, pool));

    std::vector<std::vector<int>> features_of(tables);
    for (int f = 0; f < features; ++f) features_of[read[f].table].push_back(f);
    std::vector<int64_t> ids(tables, 0);
    for (const Feature& feature : read) ids[feature.table] += feature.size;
    const std::vector<SummedRows> units = CutRows(rows, ids, pool->NumThreads());
    const int64_t cost = units.empty() ? 1 : total / static_cast<int64_t>(units.size()) * 200 + 1000;
    pool->ParallelFor(units.size(), cost, [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u) {
        const SummedRows& unit = units[u];
        const int64_t dim = dims_[unit.of];
        float* const of_table = sums[unit.of];
        uint8_t* const seen_of = seen[unit.of].get();
        const AddFeature add = AddOfDim(dim);
        for (int f : features_of[unit.of]) add(read[f], gradients[f], unit, dim, of_table, seen_of);
        for (int64_t row = unit.first; row < unit.first + unit.count; ++row) {  // of an id that no bag has
          if (!seen_of[row]) std::memset(of_table + row * dim, 0, dim * sizeof(float));
        }
      }
    });
  }

 private:
  tensorflow::Status Check(const std::vector<Feature>& features, const std::vector<int64_t>& rows,
                           tensorflow::thread::ThreadPool* pool) const {
    Fault fault;
    const std::vector<Chunk> chunks = Chunks(features, kIdsPerCheck);
    pool->ParallelFor(chunks.size(), kIdsPerCheck, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const Feature& feature = features[chunks[c].feature];
        CheckChunk(feature, chunks[c], rows[feature.table], &fault);
      }
    });
    return fault.Status(layout_, features, rows);
  }

  Layout layout_;
  std::vector<int64_t> dims_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceSums").Device(tensorflow::DEVICE_CPU), SumsOp);

}  // namespace headrace
