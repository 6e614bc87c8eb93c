// HeadraceLookup: every feature's bags, pooled, in one call; several tables of one width at once.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "bags.h"
#include "memory.h"
#include "precision.h"
#include "rows.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceLookup")
    .Input("tables: T * resource")
    .Input("ids: N * int64")
    .Input("splits: N * int64")
    .Input("weights: N * float")
    .Output("pooled: N * float")
    .Attr("T: int >= 1")
    .Attr("N: int >= 1")
    .Attr("table_of: list(int)")
    .Attr("combiners: list(string)")
    .Attr("feature_names: list(string)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

constexpr int64_t kIdsPerChunk = 2048;
constexpr int64_t kCachedBytes = int64_t{8} << 20;  // what is smaller may stay in the caches for who reads it next

// The bags of one chunk, pooled. kDim: the rows' width where it is common, else 0.
template <typename Stored, int64_t kDim>
void Pool(const Feature& feature, const Chunk& chunk, const void* rows, int64_t any_dim, bool stream, float* output) {
  const int64_t dim = kDim ? kDim : any_dim, row_bytes = dim * sizeof(Stored), ahead = Ahead(row_bytes);
  const int64_t begin = feature.first(chunk.first_bag), end = feature.first(chunk.last_bag);
  const Stored* const table = static_cast<const Stored*>(rows);
  const int64_t* const ids = feature.ids;
  for (int64_t i = begin; i < std::min(begin + ahead, end); ++i) FetchForReading(table + ids[i] * dim, row_bytes);
  if (feature.splits == nullptr && feature.weights == nullptr) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + ahead < end) FetchForReading(table + ids[i + ahead] * dim, row_bytes);
      const Stored* __restrict row = table + ids[i] * dim;
      float* __restrict copy = output + i * dim;
      if constexpr (std::is_same<Stored, float>::value) {
        if (stream) {
          StreamOut(copy, row, dim);
        } else {
          std::memcpy(copy, row, row_bytes);
        }
      } else {
        for (int64_t d = 0; d < dim; ++d) copy[d] = AsFloat(row[d]);
      }
    }
    return;
  }
  for (int64_t bag = chunk.first_bag; bag < chunk.last_bag; ++bag) {
    float* __restrict sum = output + bag * dim;
    std::memset(sum, 0, dim * sizeof(float));
    for (int64_t i = feature.first(bag); i < feature.first(bag + 1); ++i) {
      if (i + ahead < end) FetchForReading(table + ids[i + ahead] * dim, row_bytes);
      const Stored* __restrict row = table + ids[i] * dim;
      const float weight = feature.weights ? feature.weights[i] : 1.0f;
      for (int64_t d = 0; d < dim; ++d) sum[d] += weight * AsFloat(row[d]);
    }
    const float norm = feature.Norm(bag);
    if (norm != 1.0f) {
      for (int64_t d = 0; d < dim; ++d) sum[d] *= norm;
    }
  }
}

using PoolChunk = void (*)(const Feature&, const Chunk&, const void*, int64_t, bool, float*);

template <typename Stored>
PoolChunk PoolChunkOfWidth(int64_t dim) {
  if (dim == 16) return &Pool<Stored, 16>;
  if (dim == 32) return &Pool<Stored, 32>;
  if (dim == 64) return &Pool<Stored, 64>;
  if (dim == 128) return &Pool<Stored, 128>;
  return &Pool<Stored, 0>;
}

PoolChunk PoolChunkOf(tensorflow::DataType precision, int64_t dim) {
  if (precision == tensorflow::DT_BFLOAT16) return PoolChunkOfWidth<BFloat16>(dim);
  if (precision == tensorflow::DT_HALF) return PoolChunkOfWidth<Half>(dim);
  return PoolChunkOfWidth<float>(dim);
}

class LookupOp : public OpKernel {
 public:
  explicit LookupOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
  }

  void Compute(OpKernelContext* context) override {
    const int tables = layout_.tables;
    std::vector<tensorflow::core::RefCountPtr<Var>> held(tables);
    std::vector<tensorflow::tf_shared_lock> locks;
    std::vector<int64_t> vocabulary;
    for (int t = 0; t < tables; ++t) {
      OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, t), &held[t]));
      locks.emplace_back(*held[t]->mu());
    }
    for (int t = 0; t < tables; ++t) {
      const Tensor& table = *held[t]->tensor();
      OP_REQUIRES(context, IsPrecision(table.dtype()) && table.dims() == 2,
                  errors::InvalidArgument("a table is a matrix of floats; this one is ", table.DebugString(0)));
      vocabulary.push_back(table.dim_size(0));
      OP_REQUIRES(context,
                  table.dim_size(1) == held[0]->tensor()->dim_size(1) && table.dtype() == held[0]->tensor()->dtype(),
                  errors::InvalidArgument("tables of one call have one width and precision"));
    }
    const int64_t dim = held[0]->tensor()->dim_size(1);
    std::vector<Feature> features;
    OP_REQUIRES_OK(context, ReadFeatures(context, layout_, tables, &features));

    std::vector<float*> outputs;
    int64_t total = 0, bytes = 0;
    for (int f = 0; f < layout_.features; ++f) {
      Tensor pooled(StepMemory(), tensorflow::DT_FLOAT, TensorShape({features[f].bags, dim}));
      OP_REQUIRES(context, pooled.IsInitialized() || features[f].bags == 0,
                  errors::ResourceExhausted("no memory for the output of feature ", layout_.names[f]));
      outputs.push_back(features[f].bags ? pooled.flat<float>().data() : nullptr);
      context->set_output(f, pooled);
      total += features[f].size;
      bytes += features[f].bags * dim * sizeof(float);
    }
    std::vector<const void*> rows;
    for (int t = 0; t < tables; ++t) rows.push_back(held[t]->tensor()->data());
    const PoolChunk pool_chunk = PoolChunkOf(held[0]->tensor()->dtype(), dim);

    const std::vector<Chunk> chunks = Chunks(features, kIdsPerChunk);
    const bool stream = bytes > kCachedBytes;
    Fault fault;
    auto work = [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const Feature& feature = features[chunks[c].feature];
        if (!CheckChunk(feature, chunks[c], vocabulary[feature.table], &fault)) continue;
        pool_chunk(feature, chunks[c], rows[feature.table], dim, stream, outputs[chunks[c].feature]);
      }
      if (stream) EndStream();
    };
    const int64_t cost = chunks.empty() ? 1 : (total / chunks.size() + 1) * (50 + dim);
    context->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(chunks.size(), cost, work);
    OP_REQUIRES_OK(context, fault.Status(layout_, features, vocabulary));
  }

 private:
  Layout layout_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceLookup").Device(tensorflow::DEVICE_CPU), LookupOp);

}  // namespace headrace
