// HeadraceArrivedIds: the ids that came from all ranks, stream by stream, as numbers of rows.
#include <algorithm>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "blocks.h"
#include "owner_pooling.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// received: [n, 1] ids, or [n, 2] and how often each came; rank by rank, within a rank stream by stream. splits: where
// `joins` says that ids with kJoins belong to the request of the id before, where each request begins and the last one's
// end; of other streams nothing. How a stream's ids become rows: "ids": as they are; "buckets": `known` [2^k] is where the rows of the ids with equal last k bits begin,
// in the order of ids; "places": where they stand in `known`, which rises.
REGISTER_OP("HeadraceArrivedIds")
    .Input("received: int64")
    .Input("sizes: int64")
    .Input("known: S * int64")
    .Output("rows: S * int64")
    .Output("counts: S * int64")
    .Output("splits: S * int64")
    .Attr("S: int >= 1")
    .Attr("joins: list(bool)")
    .Attr("numbered_by: list({'ids', 'buckets', 'places'})")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

class ArrivedIdsOp : public OpKernel {
 public:
  explicit ArrivedIdsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("S", &streams_));
    OP_REQUIRES_OK(context, context->GetAttr("numbered_by", &numbered_by_));
    OP_REQUIRES_OK(context, context->GetAttr("joins", &joins_));
    OP_REQUIRES(context, static_cast<int64_t>(numbered_by_.size()) == streams_ && joins_.size() == numbered_by_.size(),
                errors::InvalidArgument("numbered_by and joins: one for each stream is wanted"));
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
    std::vector<int64_t*> splits;
    OP_REQUIRES_OK(context, NewSplits(context, &splits));
    std::vector<int64_t> at(streams_, 0);
    const int64_t* from = received.flat<int64_t>().data();
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t s = 0; s < streams_; ++s) {
        const int64_t count = size(s, r);
        if (count == 0) continue;
        const int64_t* ids = from;
        int64_t stride = width;
        if (splits[s] != nullptr) {  // without their marks they stand where rows will
          for (int64_t i = 0; i < count; ++i) {
            if (!(from[i * width] & kJoins)) *splits[s]++ = at[s] + i;
            rows[s][i] = from[i * width] & ~kJoins;
          }
          ids = rows[s];
          stride = 1;
        }
        OP_REQUIRES_OK(context, Number(s, context->input(2 + s), ids, count, stride, rows[s]));
        at[s] += count;
        if (width == 2) {
          for (int64_t i = 0; i < count; ++i) counts[s][i] = from[i * 2 + 1];
          counts[s] += count;
        }
        rows[s] += count;
        from += count * width;
      }
    }
    for (int64_t s = 0; s < streams_; ++s) {
      if (splits[s] != nullptr) *splits[s] = at[s];
    }
  }

 private:
  // Of each stream that joins ids, the output that says where its requests begin; of others null.
  tensorflow::Status NewSplits(OpKernelContext* context, std::vector<int64_t*>* splits) const {
    const Tensor &received = context->input(0), &sizes = context->input(1);
    const int64_t width = received.dim_size(1);
    std::vector<int64_t> requests(streams_, 0);
    const int64_t* from = received.flat<int64_t>().data();
    for (int64_t r = 0; r < sizes.dim_size(1); ++r) {
      for (int64_t s = 0; s < streams_; ++s) {
        const int64_t count = sizes.matrix<int64_t>()(s, r);
        if (joins_[s]) {
          if (count > 0 && (*from & kJoins)) return errors::InvalidArgument("stream ", s, ": a request without a first id");
          for (int64_t i = 0; i < count; ++i) requests[s] += !(from[i * width] & kJoins);
        }
        from += count * width;
      }
    }
    for (int64_t s = 0; s < streams_; ++s) {
      Tensor* of_stream;
      const TensorShape shape({joins_[s] ? requests[s] + 1 : 0});
      TF_RETURN_IF_ERROR(context->allocate_output(2 * streams_ + s, shape, &of_stream));
      splits->push_back(joins_[s] ? of_stream->flat<int64_t>().data() : nullptr);
    }
    return tensorflow::OkStatus();
  }

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
  std::vector<bool> joins_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceArrivedIds").Device(tensorflow::DEVICE_CPU), ArrivedIdsOp);

}  // namespace headrace
