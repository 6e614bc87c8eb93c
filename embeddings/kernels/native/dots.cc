// HeadraceDots: the dot products of every two of N vectors, straight from N tensors [B, dim]; and its gradient. No tensor is
// stacked or gathered: an example's vectors are brought together in the first-level cache, and nowhere else.
#include <algorithm>
#include <cstring>
#include <vector>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "memory.h"

namespace headrace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceDots")
    .Input("vectors: N * float")
    .Output("dots: float")
    .Attr("N: int >= 2")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceDotsGradient")
    .Input("vectors: N * float")
    .Input("gradient: float")
    .Output("gradients: N * float")
    .Attr("N: int >= 2")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

constexpr int64_t kLane = 16;  // floats the compiler keeps in one register, or in a few
using Lane = float __attribute__((vector_size(kLane * sizeof(float)), aligned(4)));
using Four = float __attribute__((vector_size(4 * sizeof(float)), aligned(4)));
using Places = int __attribute__((vector_size(4 * sizeof(int))));

inline Lane Load(const float* from) { return *reinterpret_cast<const Lane*>(from); }
inline void Store(float* to, Lane lane) { *reinterpret_cast<Lane*>(to) = lane; }
inline int64_t WholeLanes(int64_t count) { return (count + kLane - 1) / kLane * kLane; }

// The first `count` floats of a lane.
inline void StoreSome(float* to, Lane lane, int64_t count) {
  if (count >= kLane) {
    Store(to, lane);
  } else {
    float all[kLane];
    Store(all, lane);
    std::memcpy(to, all, count * sizeof(float));
  }
}

#if defined(__clang__)
#define HEADRACE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HEADRACE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Places{__VA_ARGS__})
#endif

// A square of 4 x 4 floats, turned.
inline void Transpose(const float* from, int64_t from_width, float* to, int64_t to_width) {
  Four a[4];
  for (int r = 0; r < 4; ++r) a[r] = *reinterpret_cast<const Four*>(from + r * from_width);
  const Four low = HEADRACE_SHUFFLE(a[0], a[1], 0, 4, 1, 5), low2 = HEADRACE_SHUFFLE(a[2], a[3], 0, 4, 1, 5);
  const Four up = HEADRACE_SHUFFLE(a[0], a[1], 2, 6, 3, 7), up2 = HEADRACE_SHUFFLE(a[2], a[3], 2, 6, 3, 7);
  const Four turned[4] = {
      HEADRACE_SHUFFLE(low, low2, 0, 1, 4, 5), HEADRACE_SHUFFLE(low, low2, 2, 3, 6, 7),
      HEADRACE_SHUFFLE(up, up2, 0, 1, 4, 5), HEADRACE_SHUFFLE(up, up2, 2, 3, 6, 7)};
  for (int r = 0; r < 4; ++r) *reinterpret_cast<Four*>(to + r * to_width) = turned[r];
}

// N tensors [B, dim].
struct Vectors {
  std::vector<const float*> data;
  int64_t rows = 0, dim = 0;

  int64_t count() const { return static_cast<int64_t>(data.size()); }
  int64_t pairs() const { return count() * (count() - 1) / 2; }

  tensorflow::Status Read(OpKernelContext* context) {
    OpInputList list;
    TF_RETURN_IF_ERROR(context->input_list("vectors", &list));
    for (const Tensor& tensor : list) {
      if (tensor.dims() != 2 || tensor.shape() != list[0].shape()) {
        return errors::InvalidArgument("vectors [B, dim] of one shape are wanted; found ", list[0].shape().DebugString(),
                                       " and ", tensor.shape().DebugString());
      }
      data.push_back(tensor.flat<float>().data());
    }
    rows = list[0].dim_size(0);
    dim = list[0].dim_size(1);
    return tensorflow::OkStatus();
  }

  // Example b's vectors side by side, each `width` floats: where they lie they fall on the same few sets of the caches.
  void Copy(int64_t b, int64_t width, float* local) const {
    for (int64_t i = 0; i < count(); ++i) {
      const float* const from = data[i] + b * dim;
      for (int64_t d = 0; d < dim; d += kLane) __builtin_prefetch(from + dim + d);  // the next example's
      std::memcpy(local + i * width, from, dim * sizeof(float));
    }
  }
};

// One example: [pairs] dot products, in the order (1, 0), (2, 0), (2, 1), (3, 0) and so on. local: its vectors, of
// `width` floats; across: room for [width, lanes], the same turned.
void Dots(int64_t count, int64_t width, const float* local, float* across, float* dots) {
  const int64_t lanes = WholeLanes(count);
  for (int64_t i = 0; i < count; i += 4) {
    for (int64_t d = 0; d < width; d += 4) Transpose(local + i * width + d, width, across + d * lanes + i, lanes);
  }
  for (int64_t i = 1; i < count; i += 4) {
    const int64_t block = std::min<int64_t>(4, count - i);
    const float* x[4];
    for (int64_t k = 0; k < 4; ++k) x[k] = local + std::min(i + k, count - 1) * width;
    for (int64_t first = 0; first < i + block - 1; first += kLane) {
      Lane sums[4] = {};
      const float* column = across + first;
      for (int64_t d = 0; d < width; ++d, column += lanes) {
        const Lane other = Load(column);
        for (int k = 0; k < 4; ++k) sums[k] += x[k][d] * other;
      }
      for (int64_t k = 0; k < block; ++k) {
        const int64_t wanted = std::min(kLane, i + k - first);
        if (wanted > 0) StoreSome(dots + (i + k) * (i + k - 1) / 2 + first, sums[k], wanted);
      }
    }
  }
}

class DotsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    Vectors vectors;
    OP_REQUIRES_OK(context, vectors.Read(context));
    const int64_t count = vectors.count(), pairs = vectors.pairs(), width = WholeLanes(vectors.dim);
    Tensor output(StepMemory(), tensorflow::DT_FLOAT, TensorShape({vectors.rows, pairs}));
    OP_REQUIRES(context, output.IsInitialized() || vectors.rows == 0, errors::ResourceExhausted("no memory for dots"));
    context->set_output(0, output);
    if (vectors.rows == 0) return;
    float* const dots = output.flat<float>().data();
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(vectors.rows, pairs * width / 4, [&](int64_t begin, int64_t end) {
      std::vector<float> local((count + 3) * width, 0.0f), across(width * WholeLanes(count), 0.0f);
      for (int64_t b = begin; b < end; ++b) {
        vectors.Copy(b, width, local.data());
        Dots(count, width, local.data(), across.data(), dots + b * pairs);
      }
    });
  }
};

// Some vectors' gradients of one example: kRows rows of the symmetric matrix of gradients times the vectors, kLanes lanes
// of them.
template <int kRows, int kLanes>
void GradientBlock(int64_t count, int64_t width, const float* const* rows, const float* local, Lane (*sums)[kLanes]) {
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kLanes; ++k) sums[r][k] = Lane{};
  }
  for (int64_t j = 0; j < count; ++j) {
    for (int k = 0; k < kLanes; ++k) {
      const Lane vector = Load(local + j * width + k * kLane);
      for (int r = 0; r < kRows; ++r) sums[r][k] += rows[r][j] * vector;
    }
  }
}

class DotsGradientOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    Vectors vectors;
    OP_REQUIRES_OK(context, vectors.Read(context));
    const int64_t count = vectors.count(), pairs = vectors.pairs(), dim = vectors.dim, width = WholeLanes(dim);
    const Tensor* upstream;
    OP_REQUIRES_OK(context, context->input("gradient", &upstream));
    OP_REQUIRES(context, upstream->NumElements() == vectors.rows * pairs,
                errors::InvalidArgument("gradient: [B, pairs] is wanted, not ", upstream->shape().DebugString()));
    std::vector<float*> gradients;
    for (int64_t i = 0; i < count; ++i) {
      Tensor output(StepMemory(), tensorflow::DT_FLOAT, TensorShape({vectors.rows, dim}));
      OP_REQUIRES(context, output.IsInitialized() || output.NumElements() == 0,
                  errors::ResourceExhausted("no memory for gradients of dots"));
      context->set_output(static_cast<int>(i), output);
      gradients.push_back(output.NumElements() ? output.flat<float>().data() : nullptr);
    }
    if (vectors.rows == 0) return;
    const float* const of_dots = upstream->flat<float>().data();
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    pool->ParallelFor(vectors.rows, pairs * width / 2, [&](int64_t begin, int64_t end) {
      // of every two vectors' product, both ways; the diagonal stays 0
      std::vector<float> local(count * width, 0.0f), both(count * count, 0.0f);
      for (int64_t b = begin; b < end; ++b) {
        vectors.Copy(b, width, local.data());
        const float* g = of_dots + b * pairs;
        for (int64_t i = 1; i < count; ++i) {
          for (int64_t j = 0; j < i; ++j, ++g) both[i * count + j] = both[j * count + i] = *g;
        }
        int64_t d = 0;
        for (; d + 4 * kLane <= width; d += 4 * kLane) Columns<4>(vectors, both, &local[d], b, d, gradients);
        for (; d < width; d += kLane) Columns<1>(vectors, both, &local[d], b, d, gradients);
      }
    });
  }

 private:
  // Floats d to d + kLanes * kLane of every gradient of example b.
  template <int kLanes>
  static void Columns(const Vectors& vectors, const std::vector<float>& both, const float* local, int64_t b, int64_t d,
                      const std::vector<float*>& gradients) {
    const int64_t count = vectors.count(), dim = vectors.dim, width = WholeLanes(dim);
    for (int64_t i = 0; i < count; i += 2) {
      const int64_t second = std::min(i + 1, count - 1);
      const float* const rows[2] = {&both[i * count], &both[second * count]};
      Lane sums[2][kLanes];
      GradientBlock<2, kLanes>(count, width, rows, local, sums);
      for (int k = 0; k < kLanes; ++k) {
        const int64_t at = d + k * kLane, some = dim - at;
        if (some <= 0) break;
        StoreSome(gradients[i] + b * dim + at, sums[0][k], some);
        StoreSome(gradients[second] + b * dim + at, sums[second - i][k], some);
      }
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("HeadraceDots").Device(tensorflow::DEVICE_CPU), DotsOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceDotsGradient").Device(tensorflow::DEVICE_CPU), DotsGradientOp);

}  // namespace headrace
