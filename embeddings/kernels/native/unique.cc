// HeadraceUniqueByOwner: what an exchange sends: each id once, those of one rank together.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "distinct.h"
#include "id_groups.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceUniqueByOwner")
    .Input("ids: int64")
    .Input("owners: int64")
    .Output("distinct: int64")
    .Output("splits: int64")
    .Output("places: int64")
    .Attr("ranks: int >= 1")
    .Attr("modulo: bool = false")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

class UniqueByOwnerOp : public OpKernel {
 public:
  explicit UniqueByOwnerOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(context, context->GetAttr("modulo", &modulo_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &ids = context->input(0), &owners = context->input(1);
    int bucket_bits = 0;
    while ((int64_t{1} << bucket_bits) < owners.NumElements()) ++bucket_bits;
    OP_REQUIRES(context, (int64_t{1} << bucket_bits) == owners.NumElements(),
                errors::InvalidArgument("owners: a power of two of buckets is wanted, not ", owners.NumElements()));
    const int64_t* const owner_of = owners.flat<int64_t>().data();
    for (int64_t b = 0; b < owners.NumElements(); ++b) {
      OP_REQUIRES(context, owner_of[b] >= 0 && owner_of[b] < ranks_,
                  errors::InvalidArgument("owners: bucket ", b, " is given to rank ", owner_of[b], " of ", ranks_));
    }
    const uint64_t mask = static_cast<uint64_t>(owners.NumElements()) - 1;
    auto owner = [owner_of, bucket_bits, mask, modulo = modulo_](int64_t id) {
      return owner_of[modulo ? static_cast<int64_t>(static_cast<uint64_t>(id) & mask) : Upper(IdHash(id), bucket_bits)];
    };
    Tensor* places;
    OP_REQUIRES_OK(context, context->allocate_output(2, ids.shape(), &places));
    int64_t* const place = places->flat<int64_t>().data();
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    const IdGroups groups({{ids.flat<int64_t>().data(), place, ids.NumElements()}}, kGroupBits, pool);
    OP_REQUIRES(context, groups.ok(), errors::ResourceExhausted("no memory to group ", ids.NumElements(), " ids"));
    const int64_t cost = (groups.total() / groups.size() + 1) * 40;

    std::vector<std::vector<int64_t>> distinct(groups.size());  // of each group
    std::vector<int64_t> sizes(groups.size() * ranks_, 0);      // [group, rank]
    pool->ParallelFor(groups.size(), cost, [&](int64_t begin, int64_t end) {
      DistinctIds& numbers = OfThread<DistinctIds>();
      for (int64_t g = begin; g < end; ++g) {
        numbers.Begin(groups.end(g) - groups.begin(g));
        for (auto* at = groups.begin(g); at != groups.end(g); ++at) {
          *at->found = numbers.Number(at->id, IdHash(at->id)).first;
        }
        distinct[g] = numbers.ids();
        for (int64_t id : distinct[g]) ++sizes[g * ranks_ + owner(id)];
      }
    });

    Tensor* splits;
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({ranks_ + 1}), &splits));
    int64_t total = 0;
    for (int64_t r = 0; r < ranks_; ++r) {
      splits->flat<int64_t>()(r) = total;
      for (int64_t g = 0; g < groups.size(); ++g) {
        const int64_t here = sizes[g * ranks_ + r];
        sizes[g * ranks_ + r] = total;
        total += here;
      }
    }
    splits->flat<int64_t>()(ranks_) = total;
    Tensor* all;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({total}), &all));
    int64_t* const sorted = all->flat<int64_t>().data();
    pool->ParallelFor(groups.size(), cost, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> where;
      for (int64_t g = begin; g < end; ++g) {
        where.resize(distinct[g].size());
        for (size_t i = 0; i < distinct[g].size(); ++i) {
          where[i] = sizes[g * ranks_ + owner(distinct[g][i])]++;
          sorted[where[i]] = distinct[g][i];
        }
        for (auto* at = groups.begin(g); at != groups.end(g); ++at) *at->found = where[*at->found];
      }
    });
  }

 private:
  int64_t ranks_;
  bool modulo_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceUniqueByOwner").Device(tensorflow::DEVICE_CPU), UniqueByOwnerOp);

}  // namespace headrace
