// HeadraceDistinctByOwner: what an exchange sends, of every table: each id once, those of one rank together.
#include <algorithm>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "bags.h"
#include "distinct.h"
#include "id_groups.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// distinct: of each table [u, 1], its ids; or counted [u, 2], and how often each came. vocabulary: how many ids each table
// has; -1: any. common: ids that no rank owns, in rising order.
REGISTER_OP("HeadraceDistinctByOwner")
    .Input("ids: N * int64")
    .Input("owners: T * int64")
    .Input("common: T * int64")
    .Output("distinct: T * int64")
    .Output("splits: int64")
    .Output("places: N * int64")
    .Attr("N: int >= 1")
    .Attr("T: int >= 1")
    .Attr("table_of: list(int)")
    .Attr("feature_names: list(string)")
    .Attr("modulo: list(bool)")
    .Attr("vocabulary: list(int)")
    .Attr("ranks: int >= 1")
    .Attr("counted: bool")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

constexpr int64_t kIdsPerCheck = 8192;

// Who holds an id: a rank; or one behind them, for ids that are common.
class OwnerOf {
 public:
  OwnerOf(const Tensor& owners, const Tensor& common, bool modulo, int64_t ranks)
      : owners_(owners.flat<int64_t>().data()),
        mask_(static_cast<uint64_t>(owners.NumElements()) - 1),
        common_(common.flat<int64_t>().data()),
        common_end_(common_ + common.NumElements()),
        modulo_(modulo),
        ranks_(ranks) {
    while ((int64_t{1} << bits_) < owners.NumElements()) ++bits_;
  }

  int64_t operator()(int64_t id) const {
    if (common_ != common_end_ && std::binary_search(common_, common_end_, id)) return ranks_;
    return owners_[modulo_ ? static_cast<int64_t>(static_cast<uint64_t>(id) & mask_) : Upper(IdHash(id), bits_)];
  }

 private:
  const int64_t* const owners_;
  const uint64_t mask_;
  const int64_t* const common_;
  const int64_t* const common_end_;
  const bool modulo_;
  const int64_t ranks_;
  int bits_ = 0;
};

class DistinctByOwnerOp : public OpKernel {
 public:
  explicit DistinctByOwnerOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("N", &layout_.features));
    OP_REQUIRES_OK(context, context->GetAttr("T", &layout_.tables));
    OP_REQUIRES_OK(context, context->GetAttr("table_of", &layout_.table_of));
    OP_REQUIRES_OK(context, context->GetAttr("feature_names", &layout_.names));
    OP_REQUIRES_OK(context, context->GetAttr("modulo", &modulo_));
    OP_REQUIRES_OK(context, context->GetAttr("vocabulary", &vocabulary_));
    OP_REQUIRES_OK(context, context->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(context, context->GetAttr("counted", &counted_));
    OP_REQUIRES_OK(context, layout_.CheckFeatures());
    const size_t tables = static_cast<size_t>(layout_.tables);
    OP_REQUIRES(context, modulo_.size() == tables && vocabulary_.size() == tables,
                errors::InvalidArgument("modulo and vocabulary: one for each table is wanted"));
  }

  void Compute(OpKernelContext* context) override {
    const int features = layout_.features, tables = layout_.tables;
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    std::vector<Feature> read;
    std::vector<std::vector<Ids>> pieces(tables);
    for (int f = 0; f < features; ++f) {
      const Tensor& ids = context->input(f);
      Tensor* places;
      OP_REQUIRES_OK(context, context->allocate_output(tables + 1 + f, ids.shape(), &places));
      const int table = layout_.table_of[f];
      pieces[table].push_back({ids.flat<int64_t>().data(), places->flat<int64_t>().data(), ids.NumElements()});
      read.push_back({ids.flat<int64_t>().data(), nullptr, nullptr, ids.NumElements(), ids.NumElements(), table,
                      Combiner::kNone});
    }
    OP_REQUIRES_OK(context, CheckIds(read, pool));

    std::vector<OwnerOf> owner_of;
    std::vector<std::unique_ptr<IdGroups>> groups;
    std::vector<Unit> units;
    int64_t ids = 0;
    for (int t = 0; t < tables; ++t) {
      const Tensor &owners = context->input(features + t), &common = context->input(features + tables + t);
      OP_REQUIRES_OK(context, CheckOwners(owners));
      owner_of.emplace_back(owners, common, modulo_[t], ranks_);
      int64_t of_table = 0;
      for (const Ids& piece : pieces[t]) of_table += piece.size;
      groups.push_back(std::make_unique<IdGroups>(pieces[t], GroupBits(of_table), pool));
      OP_REQUIRES(context, groups[t]->ok(), errors::ResourceExhausted("no memory to group ", of_table, " ids"));
      for (int64_t g = 0; g < groups[t]->size(); ++g) units.push_back({t, g});
      ids += of_table;
    }
    const int64_t held = ranks_ + 1, cost = (ids / static_cast<int64_t>(units.size()) + 1) * 40;
    std::vector<std::vector<int64_t>> distinct(units.size());  // of each unit
    std::vector<std::vector<uint32_t>> counts(units.size());
    std::vector<int64_t> sizes(units.size() * held, 0);  // [unit, owner]: how many, then where they begin
    pool->ParallelFor(units.size(), cost, [&](int64_t begin, int64_t end) {
      CountedIds& counting = OfThread<CountedIds>();
      DistinctIds& numbers = OfThread<DistinctIds>();
      for (int64_t u = begin; u < end; ++u) {
        const IdGroups& of_table = *groups[units[u].table];
        const OwnerOf& owner = owner_of[units[u].table];
        const int64_t group = units[u].group;
        const int64_t ids_here = of_table.end(group) - of_table.begin(group);
        if (counted_) {
          counting.Begin(ids_here);
          for (auto* at = of_table.begin(group); at != of_table.end(group); ++at) {
            *at->found = counting.Count(at->id, IdHash(at->id));
          }
          distinct[u] = counting.ids();
          counts[u] = counting.counts();
        } else {
          numbers.Begin(ids_here);
          for (auto* at = of_table.begin(group); at != of_table.end(group); ++at) {
            *at->found = numbers.Number(at->id, IdHash(at->id)).first;
          }
          distinct[u] = numbers.ids();
        }
        for (int64_t id : distinct[u]) ++sizes[u * held + owner(id)];
      }
    });

    Tensor* splits;
    OP_REQUIRES_OK(context, context->allocate_output(tables, TensorShape({tables, held + 1}), &splits));
    auto split_at = splits->matrix<int64_t>();
    const int64_t width = counted_ ? 2 : 1;
    std::vector<int64_t*> sorted(tables);
    for (size_t first = 0; first < units.size();) {
      const int table = units[first].table;
      size_t last = first;
      while (last < units.size() && units[last].table == table) ++last;
      int64_t total = 0;
      for (int64_t r = 0; r < held; ++r) {
        split_at(table, r) = total;
        for (size_t u = first; u < last; ++u) {
          const int64_t here = sizes[u * held + r];
          sizes[u * held + r] = total;
          total += here;
        }
      }
      split_at(table, held) = total;
      Tensor* of_table;
      OP_REQUIRES_OK(context, context->allocate_output(table, TensorShape({total, width}), &of_table));
      sorted[table] = of_table->flat<int64_t>().data();
      first = last;
    }
    pool->ParallelFor(units.size(), cost, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> where;
      for (int64_t u = begin; u < end; ++u) {
        const IdGroups& of_table = *groups[units[u].table];
        const OwnerOf& owner = owner_of[units[u].table];
        int64_t* const of_owners = sorted[units[u].table];
        where.resize(distinct[u].size());
        for (size_t i = 0; i < distinct[u].size(); ++i) {
          where[i] = sizes[u * held + owner(distinct[u][i])]++;
          of_owners[where[i] * width] = distinct[u][i];
          if (counted_) of_owners[where[i] * width + 1] = counts[u][i];
        }
        const int64_t group = units[u].group;
        for (auto* at = of_table.begin(group); at != of_table.end(group); ++at) *at->found = where[*at->found];
      }
    });
  }

 private:
  // The unit of work: ids of one table whose hashes begin alike.
  struct Unit {
    int table;
    int64_t group;
  };

  tensorflow::Status CheckIds(const std::vector<Feature>& features, tensorflow::thread::ThreadPool* pool) const {
    Fault fault;
    const std::vector<Chunk> chunks = Chunks(features, kIdsPerCheck);
    pool->ParallelFor(chunks.size(), kIdsPerCheck, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const Feature& feature = features[chunks[c].feature];
        const int64_t vocabulary = vocabulary_[feature.table];
        if (vocabulary >= 0) CheckChunk(feature, chunks[c], vocabulary, &fault);
      }
    });
    return fault.Status(layout_, features, vocabulary_);
  }

  tensorflow::Status CheckOwners(const Tensor& owners) const {
    const int64_t buckets = owners.NumElements();
    if (buckets == 0 || (buckets & (buckets - 1)) != 0) {
      return errors::InvalidArgument("owners: a power of two of buckets is wanted, not ", buckets);
    }
    for (int64_t b = 0; b < buckets; ++b) {
      const int64_t owner = owners.flat<int64_t>()(b);
      if (owner < 0 || owner >= ranks_) {
        return errors::InvalidArgument("owners: bucket ", b, " is given to rank ", owner, " of ", ranks_);
      }
    }
    return tensorflow::OkStatus();
  }

  Layout layout_;
  std::vector<bool> modulo_;
  std::vector<int64_t> vocabulary_;
  int64_t ranks_;
  bool counted_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceDistinctByOwner").Device(tensorflow::DEVICE_CPU), DistinctByOwnerOp);

}  // namespace headrace
