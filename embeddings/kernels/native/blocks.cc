// HeadracePack and HeadraceUnpack: between the rows of streams and one buffer for all ranks, block by block.
#include "blocks.h"

#include <algorithm>
#include <cstring>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "memory.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// payload: [n, unit], rank by rank, within a rank stream by stream: of stream s its `sizes[s, r]` rows that begin at
// `starts[s, r]` of the piece that holds them, its columns of them. stochastic: 16 bits are rounded by a hash of where a
// number stands in its piece, the same for whoever is sent it, and of all that is sent.
REGISTER_OP("HeadracePack")
    .Input("pieces: P * Plain")
    .Input("starts: int64")
    .Input("sizes: int64")
    .Output("payload: Wire")
    .Attr("P: int >= 0")
    .Attr("Plain: {float, int64}")
    .Attr("Wire: {float, bfloat16, half, int64}")
    .Attr("piece_of: list(int)")
    .Attr("first_columns: list(int)")
    .Attr("widths: list(int)")
    .Attr("unit: int >= 1")
    .Attr("stochastic: bool")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

// received: as packed. pieces: of each stream its rows from all ranks.
REGISTER_OP("HeadraceUnpack")
    .Input("received: Wire")
    .Input("sizes: int64")
    .Output("pieces: S * Plain")
    .Attr("S: int >= 1")
    .Attr("Wire: {float, bfloat16, half, int64}")
    .Attr("Plain: {float, int64}")
    .Attr("first_columns: list(int)")
    .Attr("widths: list(int)")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

constexpr int64_t kNumbersPerMove = 16384;

// Rows of `width` numbers from one place, where they stand `from_stride` apart, to another.
template <typename From, typename To>
struct Move {
  const From* from;
  To* to;
  int64_t rows, width, from_stride;
  int64_t first_row = 0;  // in its piece
  uint64_t key = 0;       // of the piece and the column that it begins with
};

inline void Convert(const float* from, float* to, int64_t n) { std::memcpy(to, from, n * sizeof(float)); }
inline void Convert(const int64_t* from, int64_t* to, int64_t n) { std::memcpy(to, from, n * sizeof(int64_t)); }
template <typename Wire>
void Convert(const float* __restrict from, Wire* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<Wire>(from[i]);
}
template <typename Wire>
void Convert(const Wire* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = AsFloat(from[i]);
}

template <typename From, typename To>
class Moves {
 public:
  void Add(Move<From, To> move) {
    const int64_t most = std::max<int64_t>(kNumbersPerMove / move.width, 1);
    for (int64_t row = 0; row < move.rows; row += most) {
      Move<From, To> some = move;
      some.from += row * move.from_stride;
      some.to += row * move.width;
      some.rows = std::min(most, move.rows - row);
      some.first_row += row;
      moves_.push_back(some);
    }
  }

  void Run(tensorflow::thread::ThreadPool* pool) const {
    ForEach(pool, [](const Move<From, To>& move, int64_t) {
      if (move.width == move.from_stride) {
        Convert(move.from, move.to, move.rows * move.width);
      } else {
        for (int64_t row = 0; row < move.rows; ++row) {
          Convert(move.from + row * move.from_stride, move.to + row * move.width, move.width);
        }
      }
    });
  }

  // Rounds stochastically, unit by unit.
  void RunRounded(int64_t unit, tensorflow::thread::ThreadPool* pool) const {
    std::vector<uint64_t> sums(moves_.size());
    ForEach(pool, [&](const Move<From, To>& move, int64_t m) {
      uint64_t sum = 0;
      for (int64_t row = 0; row < move.rows; ++row) {
        const From* const from = move.from + row * move.from_stride;
        for (int64_t d = 0; d < move.width; ++d) sum += BitsOf(from[d]);
      }
      sums[m] = sum;
    });
    uint64_t of_all = 0;  // a sum of integers: the same in any order
    for (uint64_t sum : sums) of_all += sum;
    ForEach(pool, [&](const Move<From, To>& move, int64_t) {
      const int64_t units = move.width / unit;
      for (int64_t u = 0; u < move.rows * units; ++u) {
        const int64_t number = move.first_row * units + u;
        StoreRounded(move.from + u / units * move.from_stride + u % units * unit, unit,
                     RoundingHash(move.key, number, static_cast<int64_t>(of_all), 0), move.to + u * unit);
      }
    });
  }

 private:
  template <typename Use>
  void ForEach(tensorflow::thread::ThreadPool* pool, Use use) const {
    pool->ParallelFor(moves_.size(), kNumbersPerMove / 2, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) use(moves_[m], m);
    });
  }

  std::vector<Move<From, To>> moves_;
};

template <typename Plain, typename Wire>
class PackOp : public OpKernel {
 public:
  explicit PackOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, streams_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("P", &pieces_));
    OP_REQUIRES_OK(context, context->GetAttr("piece_of", &piece_of_));
    OP_REQUIRES_OK(context, context->GetAttr("unit", &unit_));
    OP_REQUIRES_OK(context, context->GetAttr("stochastic", &stochastic_));
    OP_REQUIRES(context, piece_of_.size() == streams_.widths.size(),
                errors::InvalidArgument("piece_of: one for each stream is wanted"));
    for (int64_t s = 0; s < streams_.count(); ++s) {
      OP_REQUIRES(context, piece_of_[s] >= -1 && piece_of_[s] < pieces_,
                  errors::InvalidArgument("piece_of: no piece ", piece_of_[s]));
      OP_REQUIRES(context, streams_.widths[s] % unit_ == 0,
                  errors::InvalidArgument("stream ", s, ": ", streams_.widths[s], " columns in units of ", unit_));
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &starts = context->input(pieces_), &sizes = context->input(pieces_ + 1);
    const int64_t streams = streams_.count();
    OP_REQUIRES_OK(context, CheckBlocks("starts", starts, streams));
    OP_REQUIRES_OK(context, CheckBlocks("sizes", sizes, streams));
    OP_REQUIRES(context, starts.shape() == sizes.shape(), errors::InvalidArgument("starts and sizes: of one shape"));
    const auto start = starts.matrix<int64_t>(), size = sizes.matrix<int64_t>();
    const int64_t ranks = sizes.dim_size(1);
    int64_t total = 0;
    for (int64_t s = 0; s < streams; ++s) {
      const int64_t piece = piece_of_[s], columns = streams_.first_columns[s] + streams_.widths[s];
      for (int64_t r = 0; r < ranks; ++r) {
        if (size(s, r) == 0) continue;
        OP_REQUIRES(context, piece >= 0, errors::InvalidArgument("stream ", s, " has no rows here, ", size(s, r), " asked"));
        const Tensor& rows = context->input(piece);
        OP_REQUIRES(context, rows.dims() == 2 && rows.dim_size(1) >= columns,
                    errors::InvalidArgument("stream ", s, ": ", columns, " columns are wanted, not ",
                                            rows.shape().DebugString()));
        OP_REQUIRES(context, size(s, r) <= rows.dim_size(0) && start(s, r) <= rows.dim_size(0) - size(s, r),
                    errors::InvalidArgument("stream ", s, ": rows ", start(s, r), " and on, ", size(s, r),
                                            " of them, of ", rows.dim_size(0)));
        total += size(s, r) * streams_.widths[s];
      }
    }
    Tensor payload(StepMemory(), tensorflow::DataTypeToEnum<Wire>::value, TensorShape({total / unit_, unit_}));
    OP_REQUIRES(context, payload.IsInitialized() || total == 0,
                errors::ResourceExhausted("no memory for ", total, " numbers to send"));
    context->set_output(0, payload);
    if (total == 0) return;
    Wire* to = payload.flat<Wire>().data();
    Moves<Plain, Wire> moves;
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t s = 0; s < streams; ++s) {
        if (size(s, r) == 0) continue;
        const Tensor& rows = context->input(piece_of_[s]);
        const int64_t stride = rows.dim_size(1);
        const Plain* from = rows.flat<Plain>().data() + start(s, r) * stride + streams_.first_columns[s];
        moves.Add({from, to, size(s, r), streams_.widths[s], stride, start(s, r), KeyOf(s)});
        to += size(s, r) * streams_.widths[s];
      }
    }
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    if constexpr (sizeof(Wire) == 2) {
      if (stochastic_) {
        moves.RunRounded(unit_, pool);
        return;
      }
    }
    moves.Run(pool);
  }

 private:
  uint64_t KeyOf(int64_t stream) const {
    return (static_cast<uint64_t>(piece_of_[stream]) << 32) + static_cast<uint64_t>(streams_.first_columns[stream]);
  }

  Streams streams_;
  int64_t pieces_, unit_;
  bool stochastic_;
  std::vector<int64_t> piece_of_;
};

template <typename Plain, typename Wire>
class UnpackOp : public OpKernel {
 public:
  explicit UnpackOp(OpKernelConstruction* context) : OpKernel(context) {
    int64_t outputs;
    OP_REQUIRES_OK(context, streams_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("S", &outputs));
    OP_REQUIRES(context, outputs == streams_.count(), errors::InvalidArgument("widths: one for each stream is wanted"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &received = context->input(0), &sizes = context->input(1);
    const int64_t streams = streams_.count();
    OP_REQUIRES_OK(context, CheckBlocks("sizes", sizes, streams));
    const auto size = sizes.matrix<int64_t>();
    const int64_t ranks = sizes.dim_size(1);
    std::vector<Plain*> to(streams, nullptr);
    int64_t total = 0;
    for (int64_t s = 0; s < streams; ++s) {
      int64_t rows = 0;
      for (int64_t r = 0; r < ranks; ++r) rows += size(s, r);
      total += rows * streams_.widths[s];
      // what did not come need not be reserved
      OP_REQUIRES(context, total <= received.NumElements(), Uncovered(received, sizes));
      Tensor piece(StepMemory(), tensorflow::DataTypeToEnum<Plain>::value, TensorShape({rows, streams_.widths[s]}));
      OP_REQUIRES(context, piece.IsInitialized() || rows == 0,
                  errors::ResourceExhausted("no memory for ", rows, " rows that came"));
      if (rows > 0) to[s] = piece.flat<Plain>().data();
      context->set_output(s, piece);
    }
    OP_REQUIRES(context, total == received.NumElements(), Uncovered(received, sizes));
    const Wire* from = received.flat<Wire>().data();
    Moves<Wire, Plain> moves;
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t s = 0; s < streams; ++s) {
        const int64_t width = streams_.widths[s], count = size(s, r) * width;
        if (count == 0) continue;
        moves.Add({from, to[s], size(s, r), width, width});
        from += count;
        to[s] += count;
      }
    }
    moves.Run(context->device()->tensorflow_cpu_worker_threads()->workers);
  }

 private:
  Streams streams_;
};

#define REGISTER_WIRE(plain, wire)                                             \
  REGISTER_KERNEL_BUILDER(Name("HeadracePack")                                 \
                              .Device(tensorflow::DEVICE_CPU)                  \
                              .TypeConstraint<plain>("Plain")                  \
                              .TypeConstraint<wire>("Wire"),                   \
                          PackOp<plain, wire>);                                \
  REGISTER_KERNEL_BUILDER(Name("HeadraceUnpack")                               \
                              .Device(tensorflow::DEVICE_CPU)                  \
                              .TypeConstraint<plain>("Plain")                  \
                              .TypeConstraint<wire>("Wire"),                   \
                          UnpackOp<plain, wire>)

REGISTER_WIRE(float, float);
REGISTER_WIRE(float, BFloat16);
REGISTER_WIRE(float, Half);
REGISTER_WIRE(int64_t, int64_t);

}  // namespace headrace
