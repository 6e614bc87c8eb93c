// HeadraceMerge: the gradients that came to a rank, those of one row summed.
#include <algorithm>
#include <memory>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "blocks.h"
#include "distinct.h"
#include "id_groups.h"
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

// received: as packed; of stream s `sizes[s, r]` rows came from rank r. Those from `rank` itself did not travel where
// `own_of[s]` >= 0: they are rows of that `own`, from `own_starts[s]` on, the stream's columns. rows: of each stream, whose
// gradients these are, in the order of ranks; with splits, each gradient's rows are those between two of them. distinct: each of them once, in an order that `rows` alone decides; sums:
// [distinct, width], in the order of ranks.
REGISTER_OP("HeadraceMerge")
    .Input("rows: S * int64")
    .Input("splits: S * int64")
    .Input("received: Wire")
    .Input("sizes: int64")
    .Input("own: P * float")
    .Input("own_starts: int64")
    .Output("distinct: S * int64")
    .Output("sums: S * float")
    .Attr("S: int >= 1")
    .Attr("P: int >= 0")
    .Attr("Wire: {float, bfloat16, half}")
    .Attr("own_of: list(int)")
    .Attr("rank: int >= 0")
    .Attr("first_columns: list(int)")
    .Attr("widths: list(int)")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

template <typename Wire>
class MergeOp : public OpKernel {
 public:
  explicit MergeOp(OpKernelConstruction* context) : OpKernel(context) {
    int64_t outputs;
    OP_REQUIRES_OK(context, streams_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("S", &outputs));
    OP_REQUIRES_OK(context, context->GetAttr("P", &owns_));
    OP_REQUIRES_OK(context, context->GetAttr("own_of", &own_of_));
    OP_REQUIRES_OK(context, context->GetAttr("rank", &rank_));
    OP_REQUIRES(context, outputs == streams_.count() && own_of_.size() == streams_.widths.size(),
                errors::InvalidArgument("widths and own_of: one for each stream is wanted"));
    for (int64_t own : own_of_) OP_REQUIRES(context, own < owns_, errors::InvalidArgument("own_of: no piece ", own));
  }

  void Compute(OpKernelContext* context) override {
    const int64_t streams = streams_.count();
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    std::vector<std::vector<Block>> blocks(streams);  // of each stream, in the order of ranks
    OP_REQUIRES_OK(context, FindBlocks(context, &blocks));

    std::vector<StepBlock<int64_t>> places;
    std::vector<std::unique_ptr<IdGroups>> groups;
    std::vector<Unit> units;
    std::vector<int64_t> came(streams);
    for (int64_t s = 0; s < streams; ++s) {
      const Tensor& rows = context->input(s);
      came[s] = rows.NumElements();
      places.push_back(NewStepBlock<int64_t>(came[s]));
      OP_REQUIRES(context, places[s] != nullptr, errors::ResourceExhausted("no memory for ", came[s], " rows"));
      const std::vector<Ids> piece{{rows.flat<int64_t>().data(), places[s].get(), came[s]}};
      groups.push_back(std::make_unique<IdGroups>(piece, GroupBits(came[s]), pool));
      OP_REQUIRES(context, groups[s]->ok(), errors::ResourceExhausted("no memory to group ", came[s], " rows"));
      for (int64_t g = 0; g < groups[s]->size(); ++g) units.push_back({s, g, 0, {}});
    }
    int64_t total = 0;
    for (int64_t of_stream : came) total += of_stream;
    const int64_t cost = (total / static_cast<int64_t>(units.size()) + 1) * 20;
    pool->ParallelFor(units.size(), cost, [&](int64_t begin, int64_t end) {
      DistinctIds& numbers = OfThread<DistinctIds>();
      for (int64_t u = begin; u < end; ++u) {
        const IdGroups& of_stream = *groups[units[u].stream];
        const auto *at = of_stream.begin(units[u].group), *last = of_stream.end(units[u].group);
        numbers.Begin(last - at);
        for (; at != last; ++at) *at->found = numbers.Number(at->id, IdHash(at->id)).first;
        units[u].rows = numbers.ids();
      }
    });

    std::vector<int64_t> counts(streams, 0);
    for (Unit& unit : units) {
      unit.first = counts[unit.stream];
      counts[unit.stream] += unit.rows.size();
    }
    std::vector<int64_t*> distinct(streams);
    std::vector<float*> sums(streams, nullptr);
    std::vector<StepBlock<uint8_t>> seen;
    for (int64_t s = 0; s < streams; ++s) {
      Tensor* of_stream;
      OP_REQUIRES_OK(context, context->allocate_output(s, TensorShape({counts[s]}), &of_stream));
      distinct[s] = of_stream->flat<int64_t>().data();
      Tensor summed(StepMemory(), tensorflow::DT_FLOAT, TensorShape({counts[s], streams_.widths[s]}));
      seen.push_back(NewStepBlock<uint8_t>(counts[s]));
      OP_REQUIRES(context, (summed.IsInitialized() || counts[s] == 0) && seen[s] != nullptr,
                  errors::ResourceExhausted("no memory for the sums of ", counts[s], " rows"));
      if (counts[s] > 0) sums[s] = summed.flat<float>().data();
      context->set_output(streams + s, summed);
      std::memset(seen[s].get(), 0, counts[s]);
    }
    pool->ParallelFor(units.size(), cost / 4 + 1, [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u) {
        const Unit& unit = units[u];
        const IdGroups& of_stream = *groups[unit.stream];
        std::copy(unit.rows.begin(), unit.rows.end(), distinct[unit.stream] + unit.first);
        if (unit.first == 0) continue;
        for (auto* at = of_stream.begin(unit.group); at != of_stream.end(unit.group); ++at) *at->found += unit.first;
      }
    });
    const std::vector<SummedRows> parts = CutRows(counts, came, pool->NumThreads());
    const int64_t cost_of_part = parts.empty() ? 1 : total / static_cast<int64_t>(parts.size()) * 200 + 1000;
    pool->ParallelFor(parts.size(), cost_of_part, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t s = parts[p].of;
        const int64_t* const splits = SplitsOf(context, s);
        int64_t first = 0;
        for (const Block& block : blocks[s]) {
          if (block.own != nullptr) {
            Sum(block.own, block, first, splits, places[s].get(), parts[p], streams_.widths[s], sums[s], seen[s].get());
          } else {
            Sum(block.from, block, first, splits, places[s].get(), parts[p], streams_.widths[s], sums[s], seen[s].get());
          }
          first += block.count;
        }
      }
    });
  }

 private:
  // What came from one rank, `stride` numbers from row to row: where the wire left it, or of this rank's own.
  struct Block {
    const Wire* from;
    const float* own;
    int64_t count, stride;
  };

  // Rows of one stream whose hashes begin alike; first: where they begin among its distinct ones.
  struct Unit {
    int64_t stream, group, first;
    std::vector<int64_t> rows;
  };

  tensorflow::Status FindBlocks(OpKernelContext* context, std::vector<std::vector<Block>>* blocks) const {
    const int64_t streams = streams_.count();
    const Tensor &received = context->input(2 * streams), &sizes = context->input(2 * streams + 1);
    const Tensor& own_starts = context->input(2 * streams + 2 + owns_);
    TF_RETURN_IF_ERROR(CheckBlocks("sizes", sizes, streams));
    if (own_starts.NumElements() != streams) return errors::InvalidArgument("own_starts: one for each stream is wanted");
    const auto size = sizes.matrix<int64_t>();
    const Wire* from = received.flat<Wire>().data();
    int64_t left = received.NumElements();
    for (int64_t r = 0; r < sizes.dim_size(1); ++r) {
      for (int64_t s = 0; s < streams; ++s) {
        const int64_t count = size(s, r), width = streams_.widths[s];
        if (count == 0) continue;
        if (r == rank_ && own_of_[s] >= 0) {
          const Tensor& own = context->input(2 * streams + 2 + own_of_[s]);
          const int64_t first = own_starts.flat<int64_t>()(s), column = streams_.first_columns[s];
          if (own.dims() != 2 || own.dim_size(1) < column + width || first < 0 || count > own.dim_size(0) - first) {
            return errors::InvalidArgument("stream ", s, ": rows ", first, " and on, ", count, " of them, ", column + width,
                                           " columns: not in the own piece, ", own.shape().DebugString());
          }
          const int64_t stride = own.dim_size(1);
          (*blocks)[s].push_back({nullptr, own.flat<float>().data() + first * stride + column, count, stride});
        } else {
          if (count > left / width) return Uncovered(received, sizes);
          (*blocks)[s].push_back({from, nullptr, count, width});
          from += count * width;
          left -= count * width;
        }
      }
    }
    if (left != 0) return Uncovered(received, sizes);
    for (int64_t s = 0; s < streams; ++s) {
      int64_t count = 0;
      for (const Block& block : (*blocks)[s]) count += block.count;
      const int64_t rows = context->input(s).NumElements();
      const int64_t* const splits = SplitsOf(context, s);
      const int64_t wanted = splits ? context->input(streams + s).NumElements() - 1 : rows;
      if (count != wanted) {
        return errors::InvalidArgument("stream ", s, ": ", wanted, " rows or bags of them, and ", count, " gradients");
      }
      bool good = splits == nullptr || (splits[0] == 0 && splits[count] == rows);
      for (int64_t i = 0; splits && i < count; ++i) good &= splits[i] <= splits[i + 1];
      if (!good) return errors::InvalidArgument("stream ", s, ": splits must rise from 0 to the number of rows, ", rows);
    }
    return tensorflow::OkStatus();
  }

  // [gradients + 1] of a stream; null: each gradient is of one row.
  const int64_t* SplitsOf(OpKernelContext* context, int64_t stream) const {
    const Tensor& splits = context->input(streams_.count() + stream);
    return splits.NumElements() ? splits.flat<int64_t>().data() : nullptr;
  }

  // Adds a block's gradients, of which the first is the stream's `first`-th, to the sums of their rows.
  template <typename From>
  static void Sum(const From* from, const Block& block, int64_t first, const int64_t* splits, const int64_t* places,
                  const SummedRows& part, int64_t width, float* sums, uint8_t* seen) {
    const int64_t ahead = Ahead(width * sizeof(float));
    const int64_t last = splits ? splits[first + block.count] : first + block.count;
    for (int64_t i = 0; i < block.count; ++i) {
      const From* const gradient = from + i * block.stride;
      const int64_t begin = splits ? splits[first + i] : first + i, end = splits ? splits[first + i + 1] : begin + 1;
      for (int64_t at = begin; at < end; ++at) {
        if (at + ahead < last) FetchForWriting(sums + places[at + ahead] * width, width * sizeof(float));
        const int64_t row = places[at];
        if (static_cast<uint64_t>(row - part.first) >= static_cast<uint64_t>(part.count)) continue;
        if (seen[row]) {
          AddTo(sums + row * width, gradient, 1.0f, width);
        } else {
          PutTo(sums + row * width, gradient, 1.0f, width);
          seen[row] = 1;
        }
      }
    }
  }

  Streams streams_;
  int64_t owns_, rank_;
  std::vector<int64_t> own_of_;
};

#define REGISTER_WIRE(wire) \
  REGISTER_KERNEL_BUILDER(  \
      Name("HeadraceMerge").Device(tensorflow::DEVICE_CPU).TypeConstraint<wire>("Wire"), MergeOp<wire>)

REGISTER_WIRE(float);
REGISTER_WIRE(BFloat16);
REGISTER_WIRE(Half);

}  // namespace headrace
