// HeadracePool: bags pooled from vectors as they came from all ranks, where they lie.
#include <algorithm>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "bags.h"
#include "blocks.h"
#include "distinct.h"
#include "memory.h"
#include "rows.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// received: the vectors that came from other ranks, rank by rank, within a rank stream by stream. Stream s has the columns
// `first_columns[s]` and on, `widths[s]` of them, of the table `table_of_stream[s]`; from rank r, of its distinct ids from
// `starts[s, r]` on, `sizes[s, r]` of them. local: vectors [n, width] that are here: those of stream s, where `local_of[s]`
// >= 0 names some, are of the ids from `starts[s, rank]` on. places: of the bags' ids among their table's distinct ids.
REGISTER_OP("HeadracePool")
    .Input("received: Wire")
    .Input("local: L * float")
    .Input("starts: int64")
    .Input("sizes: int64")
    .Input("places: N * int64")
    .Input("splits: N * int64")
    .Input("weights: N * float")
    .Output("pooled: N * float")
    .Attr("Wire: {float, bfloat16, half}")
    .Attr("L: int >= 0")
    .Attr("T: int >= 1")
    .Attr("N: int >= 1")
    .Attr("table_of: list(int)")
    .Attr("combiners: list(string)")
    .Attr("feature_names: list(string)")
    .Attr("dims: list(int)")
    .Attr("table_of_stream: list(int)")
    .Attr("first_columns: list(int)")
    .Attr("widths: list(int)")
    .Attr("local_of: list(int)")
    .Attr("rank: int >= 0")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

constexpr int64_t kPlacesPerChunk = 1024;
constexpr int64_t kMuchOutput = int64_t{8} << 20;  // bytes; what is smaller may stay in the caches for who reads it next

// Vectors of ids that stand together, one behind the other.
struct Run {
  int64_t first, count;  // among the table's distinct ids
  const void* vectors;
  bool local;  // float, whatever the wire has
};

// Some columns of a table: the runs that have them, in the order of ids.
struct Columns {
  int64_t first, width;
  std::vector<Run> runs;
};

struct Source {
  const void* vector;
  bool local;
};

template <typename Wire>
class PoolOp : public OpKernel {
 public:
  explicit PoolOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
    OP_REQUIRES_OK(context, streams_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("L", &locals_));
    OP_REQUIRES_OK(context, context->GetAttr("dims", &dims_));
    OP_REQUIRES_OK(context, context->GetAttr("table_of_stream", &table_of_));
    OP_REQUIRES_OK(context, context->GetAttr("local_of", &local_of_));
    OP_REQUIRES_OK(context, context->GetAttr("rank", &rank_));
    const size_t streams = streams_.widths.size();
    OP_REQUIRES(context, table_of_.size() == streams && local_of_.size() == streams,
                errors::InvalidArgument("table_of_stream and local_of: one for each stream is wanted"));
    OP_REQUIRES(context, dims_.size() == static_cast<size_t>(layout_.tables),
                errors::InvalidArgument("dims: one for each table is wanted"));
    for (size_t s = 0; s < streams; ++s) {
      OP_REQUIRES(context, table_of_[s] >= 0 && table_of_[s] < layout_.tables && local_of_[s] < locals_,
                  errors::InvalidArgument("stream ", s, ": no table ", table_of_[s], " or local ", local_of_[s]));
      OP_REQUIRES(context, streams_.first_columns[s] + streams_.widths[s] <= dims_[table_of_[s]],
                  errors::InvalidArgument("stream ", s, ": its table has ", dims_[table_of_[s]], " columns"));
    }
  }

  void Compute(OpKernelContext* context) override {
    std::vector<std::vector<Columns>> tables(layout_.tables);
    std::vector<int64_t> vocabulary(layout_.tables, 0);
    OP_REQUIRES_OK(context, FindRuns(context, &tables, &vocabulary));
    std::vector<Feature> features;
    OP_REQUIRES_OK(context, ReadFeatures(context, layout_, 1 + locals_ + 2, &features));
    std::vector<float*> outputs;
    int64_t total = 0, bytes = 0;
    for (int f = 0; f < layout_.features; ++f) {
      const int64_t dim = dims_[features[f].table];
      Tensor pooled(StepMemory(), tensorflow::DT_FLOAT, TensorShape({features[f].bags, dim}));
      OP_REQUIRES(context, pooled.IsInitialized() || features[f].bags == 0,
                  errors::ResourceExhausted("no memory for the output of feature ", layout_.names[f]));
      outputs.push_back(features[f].bags ? pooled.flat<float>().data() : nullptr);
      context->set_output(f, pooled);
      total += features[f].size * dim;
      bytes += features[f].bags * dim * sizeof(float);
    }
    const std::vector<Chunk> chunks = Chunks(features, kPlacesPerChunk);
    const bool stream = bytes > kMuchOutput;
    Fault fault;
    auto work = [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const Feature& feature = features[chunks[c].feature];
        if (!CheckChunk(feature, chunks[c], vocabulary[feature.table], &fault)) continue;
        for (const Columns& columns : tables[feature.table]) {
          PoolColumns(feature, chunks[c], columns, dims_[feature.table], stream, outputs[chunks[c].feature]);
        }
      }
      if (stream) EndStream();
    };
    const int64_t cost = chunks.empty() ? 1 : total / static_cast<int64_t>(chunks.size()) + 50000;
    context->device()->tensorflow_cpu_worker_threads()->workers->ParallelFor(chunks.size(), cost, work);
    OP_REQUIRES_OK(context, fault.Status(layout_, features, vocabulary));
  }

 private:
  // Of each table where its vectors lie, and how many distinct ids it has. Fails where they do not cover these once.
  tensorflow::Status FindRuns(OpKernelContext* context, std::vector<std::vector<Columns>>* tables,
                              std::vector<int64_t>* vocabulary) const {
    const Tensor &received = context->input(0), &starts = context->input(1 + locals_), &sizes = context->input(2 + locals_);
    const int64_t streams = streams_.count(), ranks = sizes.dims() == 2 ? sizes.dim_size(1) : 0;
    TF_RETURN_IF_ERROR(CheckBlocks("starts", starts, streams));
    TF_RETURN_IF_ERROR(CheckBlocks("sizes", sizes, streams));
    if (starts.shape() != sizes.shape()) return errors::InvalidArgument("starts and sizes: of one shape");
    if (rank_ >= ranks) return errors::InvalidArgument("rank ", rank_, " of ", ranks);
    const auto start = starts.matrix<int64_t>(), size = sizes.matrix<int64_t>();
    std::vector<Columns*> columns_of(streams);
    for (int64_t s = 0; s < streams; ++s) (*tables)[table_of_[s]].reserve(streams);
    for (int64_t s = 0; s < streams; ++s) {
      std::vector<Columns>& of_table = (*tables)[table_of_[s]];
      auto found = std::find_if(of_table.begin(), of_table.end(),
                                [&](const Columns& columns) { return columns.first == streams_.first_columns[s]; });
      if (found == of_table.end()) {
        of_table.push_back({streams_.first_columns[s], streams_.widths[s], {}});
        found = of_table.end() - 1;
      }
      if (found->width != streams_.widths[s]) return errors::InvalidArgument("stream ", s, ": columns overlap");
      columns_of[s] = &*found;
      if (local_of_[s] < 0) continue;
      const Tensor& local = context->input(1 + local_of_[s]);
      if (local.dims() != 2 || local.dim_size(1) != streams_.widths[s]) {
        return errors::InvalidArgument("stream ", s, ": vectors of ", streams_.widths[s], " are wanted, not ",
                                       local.shape().DebugString());
      }
      if (local.dim_size(0) > 0) found->runs.push_back({start(s, rank_), local.dim_size(0), local.data(), true});
    }
    const Wire* from = received.flat<Wire>().data();
    int64_t left = received.NumElements();
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t s = 0; s < streams; ++s) {
        if (size(s, r) == 0) continue;
        if (size(s, r) > left / streams_.widths[s]) return Uncovered(received, sizes);
        columns_of[s]->runs.push_back({start(s, r), size(s, r), from, false});
        from += size(s, r) * streams_.widths[s];
        left -= size(s, r) * streams_.widths[s];
      }
    }
    if (left != 0) return Uncovered(received, sizes);
    for (int t = 0; t < layout_.tables; ++t) {
      int64_t covered = 0;
      for (Columns& columns : (*tables)[t]) {
        covered += columns.width;
        std::sort(columns.runs.begin(), columns.runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
        int64_t next = 0;
        for (const Run& run : columns.runs) {
          if (run.first != next) return errors::InvalidArgument("table ", t, ": who has its id ", next, " is not said");
          next += run.count;
        }
        if (&columns == &(*tables)[t].front()) (*vocabulary)[t] = next;
        if ((*vocabulary)[t] != next) return errors::InvalidArgument("table ", t, ": its columns are of different ids");
      }
      if (covered != dims_[t]) return errors::InvalidArgument("table ", t, ": columns are missing");
    }
    return tensorflow::OkStatus();
  }

  void PoolColumns(const Feature& feature, const Chunk& chunk, const Columns& columns, int64_t dim, bool stream,
                   float* output) const {
    const int64_t begin = feature.first(chunk.first_bag), end = feature.first(chunk.last_bag), width = columns.width;
    std::vector<Source>& sources = OfThread<std::vector<Source>>();
    sources.resize(end - begin);
    for (int64_t i = begin; i < end; ++i) sources[i - begin] = SourceOf(columns, feature.ids[i]);
    const Source* const source_of = sources.data() - begin;
    const int64_t row_bytes = width * sizeof(Wire), ahead = Ahead(row_bytes);
    for (int64_t i = begin; i < std::min(begin + ahead, end); ++i) FetchForReading(source_of[i].vector, row_bytes);
    const bool whole = width == dim;
    for (int64_t bag = chunk.first_bag; bag < chunk.last_bag; ++bag) {
      float* const sum = output + bag * dim + columns.first;
      const int64_t first = feature.first(bag), last = feature.first(bag + 1);
      const bool plain = feature.splits == nullptr && feature.weights == nullptr;
      if (!plain) std::memset(sum, 0, width * sizeof(float));
      for (int64_t i = first; i < last; ++i) {
        if (i + ahead < end) FetchForReading(source_of[i + ahead].vector, row_bytes);
        const bool as_float = std::is_same<Wire, float>::value || source_of[i].local;
        if (plain && as_float && stream && whole) {
          StreamOut(sum, static_cast<const float*>(source_of[i].vector), width);
        } else if (plain && as_float) {
          std::memcpy(sum, source_of[i].vector, width * sizeof(float));
        } else if (plain) {
          const Wire* __restrict vector = static_cast<const Wire*>(source_of[i].vector);
          for (int64_t d = 0; d < width; ++d) sum[d] = AsFloat(vector[d]);
        } else {
          const float weight = feature.weights ? feature.weights[i] : 1.0f;
          if (as_float) {
            Add(weight, static_cast<const float*>(source_of[i].vector), width, sum);
          } else {
            Add(weight, static_cast<const Wire*>(source_of[i].vector), width, sum);
          }
        }
      }
      const float norm = feature.Norm(bag);
      if (norm != 1.0f) {
        for (int64_t d = 0; d < width; ++d) sum[d] *= norm;
      }
    }
  }

  template <typename Stored>
  static void Add(float weight, const Stored* __restrict vector, int64_t width, float* __restrict sum) {
    for (int64_t d = 0; d < width; ++d) sum[d] += weight * AsFloat(vector[d]);
  }

  static Source SourceOf(const Columns& columns, int64_t place) {
    const Run* run = columns.runs.data();
    const Run* const end = run + columns.runs.size();
    if (columns.runs.size() <= 8) {
      while (place >= run->first + run->count) ++run;
    } else {
      run = std::upper_bound(run, end, place, [](int64_t p, const Run& other) { return p < other.first; }) - 1;
    }
    const int64_t number = (place - run->first) * columns.width;
    if (run->local) return {static_cast<const float*>(run->vectors) + number, true};
    return {static_cast<const Wire*>(run->vectors) + number, false};
  }

  Layout layout_;
  Streams streams_;
  int locals_;
  int64_t rank_;
  std::vector<int64_t> dims_, table_of_, local_of_;
};

#define REGISTER_WIRE(wire) \
  REGISTER_KERNEL_BUILDER(Name("HeadracePool").Device(tensorflow::DEVICE_CPU).TypeConstraint<wire>("Wire"), PoolOp<wire>)

REGISTER_WIRE(float);
REGISTER_WIRE(BFloat16);
REGISTER_WIRE(Half);

}  // namespace headrace
