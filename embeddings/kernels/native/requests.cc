// HeadraceRequests: what an exchange asks for, of every table: each id once, or the ids of a bag together, those of one
// rank behind one another.
#include <algorithm>
#include <memory>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "bags.h"
#include "distinct.h"
#include "id_groups.h"
#include "owner_pooling.h"
#include "owners.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
namespace errors = tensorflow::errors;

// sent: of each table [n, 1], ids, with kJoins those that the request of the id before asks for too; or counted [n, 2], and
// how often each came. id_splits, splits: [T, ranks + 2], where each rank's ids and requests begin. places: of each feature
// the requests of its bags' ids; where a feature may be pooled at its owner, they are bags by place_splits, and norms are
// their combiner's. vocabulary: how many ids each table has; -1: any. common: ids that no rank owns, in rising order.
REGISTER_OP("HeadraceRequests")
    .Input("ids: N * int64")
    .Input("splits: N * int64")
    .Input("weights: N * float")
    .Input("owners: T * int64")
    .Input("common: T * int64")
    .Output("sent: T * int64")
    .Output("id_splits: int64")
    .Output("request_splits: int64")
    .Output("places: N * int64")
    .Output("place_splits: N * int64")
    .Output("norms: N * float")
    .Attr("N: int >= 1")
    .Attr("T: int >= 1")
    .Attr("table_of: list(int)")
    .Attr("combiners: list(string)")
    .Attr("feature_names: list(string)")
    .Attr("modulo: list(bool)")
    .Attr("vocabulary: list(int)")
    .Attr("row_bytes: list(int)")
    .Attr("ranks: int >= 1")
    .Attr("counted: bool")
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

constexpr int64_t kIdsPerCheck = 8192;

class RequestsOp : public OpKernel {
 public:
  explicit RequestsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
    OP_REQUIRES_OK(context, context->GetAttr("modulo", &modulo_));
    OP_REQUIRES_OK(context, context->GetAttr("vocabulary", &vocabulary_));
    OP_REQUIRES_OK(context, context->GetAttr("row_bytes", &row_bytes_));
    OP_REQUIRES_OK(context, context->GetAttr("ranks", &ranks_));
    OP_REQUIRES_OK(context, context->GetAttr("counted", &counted_));
    const size_t tables = static_cast<size_t>(layout_.tables);
    OP_REQUIRES(context, modulo_.size() == tables && vocabulary_.size() == tables && row_bytes_.size() == tables,
                errors::InvalidArgument("modulo, vocabulary and row_bytes: one for each table is wanted"));
  }

  void Compute(OpKernelContext* context) override {
    const int features = layout_.features, tables = layout_.tables;
    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    Step step;
    step.routed.resize(features);
    step.pieces.resize(tables);
    OP_REQUIRES_OK(context, ReadFeatures(context, layout_, 0, &step.features));
    OP_REQUIRES_OK(context, CheckIds(step.features, pool));
    for (int t = 0; t < tables; ++t) {
      const Tensor &owners = context->input(3 * features + t), &common = context->input(3 * features + tables + t);
      OP_REQUIRES_OK(context, CheckOwners(owners, ranks_));
      step.owner_of.emplace_back(owners, common, modulo_[t], ranks_);
    }
    for (int f = 0; f < features; ++f) OP_REQUIRES_OK(context, RouteFeature(context, f, pool, &step));
    OP_REQUIRES_OK(context, FindDistinct(pool, &step));
    OP_REQUIRES_OK(context, LayOut(context, &step));
    WriteDistinct(pool, &step);
    WriteBags(pool, &step);
  }

 private:
  // The unit of work: ids of one table whose hashes begin alike, each once. at: by owner, how many; then where the next of
  // them goes among the table's requests.
  struct Unit {
    int table;
    int64_t group;
    std::vector<int64_t> ids;
    std::vector<uint32_t> counts;
    std::vector<int64_t> at;
  };

  // Where what is found of a feature goes. bags: null, where each of its ids is asked for by itself. Of each chunk of
  // bags: id_at, request_at [chunk, rank], place_at, common_at.
  struct Routed {
    std::unique_ptr<PooledAtOwner> bags;
    int64_t* places = nullptr;
    int64_t* splits = nullptr;
    float* norms = nullptr;
    StepBlock<int64_t> common, common_found;  // its ids that no rank owns, and their requests
    std::vector<int64_t> id_at, request_at, place_at, common_at;
  };

  // What one call finds out, table by table and feature by feature.
  struct Step {
    std::vector<Feature> features;
    std::vector<OwnerOf> owner_of;
    std::vector<Routed> routed;
    std::vector<std::vector<Ids>> pieces;  // of each table, what is asked for id by id
    std::vector<std::unique_ptr<IdGroups>> groups;
    std::vector<Unit> units;      // table by table
    std::vector<int64_t*> sent;   // of each table
    std::vector<int64_t> behind;  // [table, owner]: how far its ids are behind its requests, where an owner's begin
    int64_t cost = 1;             // of a unit
  };

  // Decides whether a feature's bags are pooled at their owner, and makes its outputs.
  tensorflow::Status RouteFeature(OpKernelContext* context, int f, tensorflow::thread::ThreadPool* pool, Step* step) const {
    const Feature& feature = step->features[f];
    const int features = layout_.features, first = layout_.tables + 2;
    const bool may_pool = feature.splits != nullptr;
    Routed& routed = step->routed[f];
    int64_t places = feature.size, common = 0;
    if (may_pool) {
      routed.bags = std::make_unique<PooledAtOwner>(feature, step->owner_of[feature.table], ranks_, pool);
      if (!routed.bags->MovesLess(row_bytes_[feature.table])) routed.bags.reset();
    }
    if (routed.bags) {
      places = 0;
      for (int64_t c = 0; c < routed.bags->chunks(); ++c) {
        routed.place_at.push_back(places);
        routed.common_at.push_back(common);
        for (int64_t r = 0; r < ranks_; ++r) places += routed.bags->requests(c, r);
        places += routed.bags->common(c);
        common += routed.bags->common(c);
      }
      routed.common = NewStepBlock<int64_t>(common);
      routed.common_found = NewStepBlock<int64_t>(common);
      if (!routed.common || !routed.common_found) return errors::ResourceExhausted("no memory for ", common, " ids");
      for (int64_t c = 0; common > 0 && c < routed.bags->chunks(); ++c) {
        routed.bags->CopyCommon(c, routed.common.get() + routed.common_at[c]);
      }
    }
    Tensor *found, *splits, *norms;
    const bool normed = may_pool && feature.combiner != Combiner::kSum;
    const TensorShape shape = may_pool ? TensorShape({places}) : context->input(f).shape();
    const int64_t ends = may_pool ? feature.bags + 1 : 0;
    TF_RETURN_IF_ERROR(context->allocate_output(first + f, shape, &found));
    TF_RETURN_IF_ERROR(context->allocate_output(first + features + f, TensorShape({ends}), &splits));
    TF_RETURN_IF_ERROR(context->allocate_output(first + 2 * features + f, TensorShape({normed ? places : 0}), &norms));
    routed.places = found->flat<int64_t>().data();
    routed.splits = splits->flat<int64_t>().data();
    routed.norms = normed ? norms->flat<float>().data() : nullptr;
    if (may_pool) {
      std::copy(feature.splits, feature.splits + ends, routed.splits);
      routed.splits[feature.bags] = places;
    }
    if (routed.bags) {
      step->pieces[feature.table].push_back({routed.common.get(), routed.common_found.get(), common});
    } else {
      step->pieces[feature.table].push_back({feature.ids, routed.places, feature.size});
    }
    return tensorflow::OkStatus();
  }

  // Groups of each table's ids, each id once, numbered in its unit.
  tensorflow::Status FindDistinct(tensorflow::thread::ThreadPool* pool, Step* step) const {
    int64_t ids = 0;
    for (int t = 0; t < layout_.tables; ++t) {
      int64_t of_table = 0;
      for (const Ids& piece : step->pieces[t]) of_table += piece.size;
      step->groups.push_back(std::make_unique<IdGroups>(step->pieces[t], GroupBits(of_table), pool));
      if (!step->groups[t]->ok()) return errors::ResourceExhausted("no memory to group ", of_table, " ids");
      for (int64_t g = 0; g < step->groups[t]->size(); ++g) {
        step->units.push_back({t, g, {}, {}, std::vector<int64_t>(ranks_ + 1, 0)});
      }
      ids += of_table;
    }
    step->cost = (ids / static_cast<int64_t>(step->units.size()) + 1) * 40;
    pool->ParallelFor(step->units.size(), step->cost, [&](int64_t begin, int64_t end) {
      CountedIds& counting = OfThread<CountedIds>();
      DistinctIds& numbers = OfThread<DistinctIds>();
      for (int64_t u = begin; u < end; ++u) {
        Unit& unit = step->units[u];
        const IdGroups& of_table = *step->groups[unit.table];
        const OwnerOf& owner = step->owner_of[unit.table];
        const auto *at = of_table.begin(unit.group), *last = of_table.end(unit.group);
        if (counted_) {
          counting.Begin(last - at);
          for (; at != last; ++at) *at->found = counting.Count(at->id, IdHash(at->id));
          unit.ids = counting.ids();
          unit.counts = counting.counts();
        } else {
          numbers.Begin(last - at);
          for (; at != last; ++at) *at->found = numbers.Number(at->id, IdHash(at->id)).first;
          unit.ids = numbers.ids();
        }
        for (int64_t id : unit.ids) ++unit.at[owner(id)];
      }
    });
    return tensorflow::OkStatus();
  }

  // Where everything goes: of a table rank by rank; of a rank its distinct ids unit by unit, then what is asked for
  // together, feature by feature and chunk by chunk.
  tensorflow::Status LayOut(OpKernelContext* context, Step* step) const {
    const int tables = layout_.tables;
    const int64_t held = ranks_ + 1;
    Tensor *id_splits, *request_splits;
    TF_RETURN_IF_ERROR(context->allocate_output(tables, TensorShape({tables, held + 1}), &id_splits));
    TF_RETURN_IF_ERROR(context->allocate_output(tables + 1, TensorShape({tables, held + 1}), &request_splits));
    for (Routed& routed : step->routed) {
      if (!routed.bags) continue;
      routed.id_at.resize(routed.bags->chunks() * ranks_);
      routed.request_at.resize(routed.bags->chunks() * ranks_);
    }
    size_t first = 0;
    for (int t = 0; t < tables; ++t) {
      size_t last = first;
      while (last < step->units.size() && step->units[last].table == t) ++last;
      int64_t ids = 0, requests = 0;
      for (int64_t r = 0; r < held; ++r) {
        id_splits->matrix<int64_t>()(t, r) = ids;
        request_splits->matrix<int64_t>()(t, r) = requests;
        step->behind.push_back(ids - requests);
        for (size_t u = first; u < last; ++u) {
          const int64_t here = step->units[u].at[r];
          step->units[u].at[r] = requests;
          requests += here;
          ids += here;
        }
        for (int f = 0; r < ranks_ && f < layout_.features; ++f) {
          Routed& routed = step->routed[f];
          if (!routed.bags || layout_.table_of[f] != t) continue;
          for (int64_t c = 0; c < routed.bags->chunks(); ++c) {
            routed.id_at[c * ranks_ + r] = ids;
            routed.request_at[c * ranks_ + r] = requests;
            ids += routed.bags->ids(c, r);
            requests += routed.bags->requests(c, r);
          }
        }
      }
      id_splits->matrix<int64_t>()(t, held) = ids;
      request_splits->matrix<int64_t>()(t, held) = requests;
      Tensor* of_table;
      TF_RETURN_IF_ERROR(context->allocate_output(t, TensorShape({ids, counted_ ? 2 : 1}), &of_table));
      step->sent.push_back(of_table->flat<int64_t>().data());
      first = last;
    }
    return tensorflow::OkStatus();
  }

  void WriteDistinct(tensorflow::thread::ThreadPool* pool, Step* step) const {
    const int64_t width = counted_ ? 2 : 1;
    pool->ParallelFor(step->units.size(), step->cost, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> where;
      for (int64_t u = begin; u < end; ++u) {
        Unit& unit = step->units[u];
        const IdGroups& of_table = *step->groups[unit.table];
        const OwnerOf& owner_of = step->owner_of[unit.table];
        int64_t* const sent = step->sent[unit.table];
        const int64_t* const behind = &step->behind[unit.table * (ranks_ + 1)];
        where.resize(unit.ids.size());
        for (size_t i = 0; i < unit.ids.size(); ++i) {
          const int64_t owner = owner_of(unit.ids[i]);
          where[i] = unit.at[owner]++;
          const int64_t place = where[i] + behind[owner];
          sent[place * width] = unit.ids[i];
          if (counted_) sent[place * width + 1] = unit.counts[i];
        }
        for (auto* at = of_table.begin(unit.group); at != of_table.end(unit.group); ++at) *at->found = where[*at->found];
      }
    });
  }

  void WriteBags(tensorflow::thread::ThreadPool* pool, Step* step) const {
    std::vector<std::pair<int, int64_t>> chunks;
    for (int f = 0; f < layout_.features; ++f) {
      for (int64_t c = 0; step->routed[f].bags && c < step->routed[f].bags->chunks(); ++c) chunks.push_back({f, c});
    }
    pool->ParallelFor(chunks.size(), kIdsPerCheck * 10, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto [f, c] = chunks[i];
        Routed& to = step->routed[f];
        to.bags->WriteChunk(c, &to.id_at[c * ranks_], &to.request_at[c * ranks_], step->sent[layout_.table_of[f]],
                            counted_ ? 2 : 1, to.common_found.get() + to.common_at[c], to.place_at[c], to.places, to.splits);
      }
    });
    for (int f = 0; f < layout_.features; ++f) {
      const Routed& routed = step->routed[f];
      if (routed.norms == nullptr) continue;
      for (int64_t bag = 0; bag < step->features[f].bags; ++bag) {
        std::fill(routed.norms + routed.splits[bag], routed.norms + routed.splits[bag + 1], step->features[f].Norm(bag));
      }
    }
  }

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

  Layout layout_;
  std::vector<bool> modulo_;
  std::vector<int64_t> vocabulary_, row_bytes_;
  int64_t ranks_;
  bool counted_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceRequests").Device(tensorflow::DEVICE_CPU), RequestsOp);

}  // namespace headrace
