// HeadraceArrivedIds: the ids that came from all ranks, stream by stream, as numbers of rows.
#include <algorithm>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "blocks.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// received: [n, 1] ids, or [n, 2] and how often each came; rank by rank, within a rank stream by stream. How a stream's
// ids become rows: "ids": as they are; "buckets": `known` [2^k] is where the rows of the ids with equal last k bits begin,
// in the order of ids; "places": where they stand in `known`, which rises.
REGISTER_OP("HeadraceArrivedIds")
    .Input("received: int64")
    .Input("sizes: int64")
    .Input("known: S * int64")
    .Output("rows: S * int64")
    .Output("counts: S * int64")
    .Attr("S: int >= 1")
    .Attr("numbered_by: list({'ids', 'buckets', 'places'})")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

class ArrivedIdsOp : public OpKernel {
 public:
  explicit ArrivedIdsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("S", &streams_));
    OP_REQUIRES_OK(context, context->GetAttr("numbered_by", &numbered_by_));
    OP_REQUIRES(context, static_cast<int64_t>(numbered_by_.size()) == streams_,
                errors::InvalidArgument("numbered_by: one for each stream is wanted"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &received = context->input(0), &sizes = context->input(1);
    OP_REQUIRES_OK(context, CheckBlocks("sizes", sizes, streams_));
    OP_REQUIRES(context, received.dims() == 2 && (received.dim_size(1) == 1 || received.dim_size(1) == 2),
                errors::InvalidArgument("received: [n, 1] or [n, 2] is wanted, not ", received.shape().DebugString()));
    const int64_t width = received.dim_size(1), ranks = sizes.dim_size(1);
    const auto size = sizes.matrix<int64_t>();
    std::vector<int64_t*> rows(streams_), counts(streams_);
    int64_t total = 0;
    for (int64_t s = 0; s < streams_; ++s) {
      int64_t count = 0;
      for (int64_t r = 0; r < ranks; ++r) count += size(s, r);
      total += count;
      OP_REQUIRES(context, total <= received.dim_size(0), Uncovered(received, sizes));
      Tensor *of_stream, *came;
      OP_REQUIRES_OK(context, context->allocate_output(s, TensorShape({count}), &of_stream));
      OP_REQUIRES_OK(context, context->allocate_output(streams_ + s, TensorShape({width == 2 ? count : 0}), &came));
      rows[s] = of_stream->flat<int64_t>().data();
      counts[s] = width == 2 ? came->flat<int64_t>().data() : nullptr;
    }
    OP_REQUIRES(context, total == received.dim_size(0), Uncovered(received, sizes));
    const int64_t* from = received.flat<int64_t>().data();
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t s = 0; s < streams_; ++s) {
        const int64_t count = size(s, r);
        if (count == 0) continue;
        OP_REQUIRES_OK(context, Number(s, context->input(2 + s), from, count, width, rows[s]));
        if (width == 2) {
          for (int64_t i = 0; i < count; ++i) counts[s][i] = from[i * 2 + 1];
          counts[s] += count;
        }
        rows[s] += count;
        from += count * width;
      }
    }
  }

 private:
  tensorflow::Status Number(int64_t stream, const Tensor& known, const int64_t* ids, int64_t count, int64_t stride,
                            int64_t* rows) const {
    const int64_t* const begin = known.flat<int64_t>().data();
    const int64_t* const end = begin + known.NumElements();
    if (numbered_by_[stream] == "ids") {
      for (int64_t i = 0; i < count; ++i) rows[i] = ids[i * stride];
    } else if (numbered_by_[stream] == "buckets") {
      const int64_t buckets = known.NumElements();
      if (buckets == 0 || (buckets & (buckets - 1)) != 0) {
        return errors::InvalidArgument("stream ", stream, ": a power of two of buckets is wanted, not ", buckets);
      }
      int bits = 0;
      while ((int64_t{1} << bits) < buckets) ++bits;
      for (int64_t i = 0; i < count; ++i) rows[i] = begin[ids[i * stride] & (buckets - 1)] + (ids[i * stride] >> bits);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t* const place = std::lower_bound(begin, end, ids[i * stride]);
        if (place == end || *place != ids[i * stride]) {
          return errors::InvalidArgument("stream ", stream, " does not hold id ", ids[i * stride]);
        }
        rows[i] = place - begin;
      }
    }
    return tensorflow::OkStatus();
  }

  int64_t streams_;
  std::vector<std::string> numbered_by_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceArrivedIds").Device(tensorflow::DEVICE_CPU), ArrivedIdsOp);

}  // namespace headrace
