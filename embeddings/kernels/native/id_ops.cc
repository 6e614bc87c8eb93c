// The ops of dynamic tables: 64-bit ids to rows, rows made for new ids, and the state for checkpoints.
#include <algorithm>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "distinct.h"
#include "growing.h"
#include "held.h"
#include "id_groups.h"
#include "id_table.h"
#include "precision.h"

namespace headrace {

using tensorflow::DataType;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::thread::ThreadPool;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceIdTable")
    .Output("table: resource")
    .Attr("admission: {'all', 'frequency', 'probability'}")
    .Attr("threshold: int")
    .Attr("counters: int")
    .Attr("probability: float")
    .Attr("eviction: {'none', 'ttl', 'lru', 'lfu'}")
    .Attr("steps_to_live: int")
    .Attr("capacity: int")
    .Attr("bucket_bits: int")
    .Attr("key: int")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

REGISTER_OP("HeadraceFind")
    .Input("table: resource")
    .Input("ids: N * int64")
    .Output("rows: N * int64")
    .Attr("N: int >= 1")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceFindOrInsert")
    .Input("table: resource")
    .Input("variables: V * resource")  // identities, rows, then slots
    .Input("ids: N * int64")
    .Input("occurrences: O * int64")  // of each id; none: each came once
    .Output("rows: N * int64")
    .Attr("V: int >= 2")
    .Attr("N: int >= 1")
    .Attr("O: int >= 0")
    .Attr("scale: float")
    .Attr("first_column: int >= 0 = 0")
    .Attr("slots: list(float)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceIdCounts")
    .Input("table: resource")
    .Output("counts: int64")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceIdState")
    .Input("table: resource")
    .Output("ids: int64")
    .Output("rows: int64")
    .Output("frequencies: int64")
    .Output("last_seen: int64")
    .Output("counters: uint8")
    .Output("counted: int64")
    .Output("counts: int64")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnknownShape);

REGISTER_OP("HeadraceRestoreIds")
    .Input("table: resource")
    .Input("ids: int64")
    .Input("frequencies: int64")
    .Input("last_seen: int64")
    .Input("counters: uint8")
    .Input("counted: int64")
    .Input("counts: int64")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

// What happened so far, in the order of embeddings/tables/identity.py's COUNTS.
enum Count { kStep, kRows, kInsertions, kEvictions, kRejected, kCounts };

// Rows and slots that new ids write their initial values to.
struct NewRows {
  int64_t* identities;
  struct Slot {
    void* data;
    DataType dtype;
    int64_t width;
    float initial;
  };
  void* rows;
  DataType dtype;
  int64_t first_column, dim;
  float scale;
  uint64_t key;
  std::vector<Slot> slots;

  void Write(int64_t id, uint32_t row) const {
    identities[row] = id;
    const uint64_t hash = SplitMix64(key + static_cast<uint64_t>(id));
    for (int64_t d = 0; d < dim; ++d) {
      StoreNearest(InitialValue(hash, first_column + d, scale), dtype, row * dim + d, rows);
    }
    for (const Slot& slot : slots) {
      for (int64_t d = 0; d < slot.width; ++d) StoreNearest(slot.initial, slot.dtype, row * slot.width + d, slot.data);
    }
  }
};

class IdTable : public tensorflow::ResourceBase {
 public:
  explicit IdTable(const Policy& policy) : policy_(policy) {
    for (int64_t b = 0; b < policy.buckets(); ++b) buckets_.emplace_back(policy);
  }

  std::string DebugString() const override { return "headrace id table"; }

  void Find(const std::vector<Ids>& features, ThreadPool* pool) {
    tensorflow::tf_shared_lock lock(mutex_);
    for (const Ids& feature : features) {
      pool->ParallelFor(feature.size, 60, [&](int64_t begin, int64_t end) {
        constexpr int64_t kAhead = 16;
        uint64_t hashes[kAhead];
        auto fetch = [&](int64_t i) {
          hashes[i % kAhead] = IdHash(feature.ids[i]);
          buckets_[BucketOf(hashes[i % kAhead])].entries.PrefetchToFind(hashes[i % kAhead]);
        };
        for (int64_t i = begin; i < std::min(begin + kAhead, end); ++i) fetch(i);
        for (int64_t i = begin; i < end; ++i) {
          const uint64_t hash = hashes[i % kAhead];
          const EntryMap& entries = buckets_[BucketOf(hash)].entries;
          const int64_t place = entries.Find(feature.ids[i], hash);
          feature.found[i] = place == EntryMap::kNone ? kOutOfVocabulary : entries.row(place);
          if (i + kAhead < end) fetch(i + kAhead);
        }
      });
    }
  }

  // A step: every id is counted as seen, once, or if `counted` as often as is written where its row is to be; new ones
  // that are admitted get a row. `grow`(rows) makes the variables that large and says where they are.
  template <typename GrowTo>
  Status FindOrInsert(const std::vector<Ids>& features, bool counted, ThreadPool* pool, GrowTo grow) {
    tensorflow::mutex_lock lock(mutex_);
    const int64_t now = ++counts_[kStep];
    const IdGroups by_hash(features, GroupBits(), pool);
    if (!by_hash.ok()) return errors::ResourceExhausted("no memory to group a step's ids");
    const int64_t cost = by_hash.total() / by_hash.size() + 1;
    groups_.resize(by_hash.size());
    pool->ParallelFor(by_hash.size(), cost * 60, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        FindAndAdmit(by_hash.begin(g), by_hash.end(g), counted, g, now, &groups_[g]);
      }
    });

    int64_t admitted = 0;
    for (Group& group : groups_) {
      free_rows_.insert(free_rows_.end(), group.freed.begin(), group.freed.end());
      counts_[kEvictions] += group.freed.size();
      counts_[kRejected] += group.rejected;
      for (const Fresh& fresh : group.fresh) admitted += fresh.admitted;
    }
    const int64_t rows = next_row_ + std::max<int64_t>(admitted - static_cast<int64_t>(free_rows_.size()), 0);
    if (rows >= kNoRow) return errors::ResourceExhausted("a dynamic table holds fewer than 2^32 rows");
    NewRows made;
    made.key = policy_.key;
    TF_RETURN_IF_ERROR(grow(rows, &made));  // before any row is numbered: what fails leaves no row that nobody holds
    // Rows are numbered in the order of groups, whichever thread did them.
    for (Group& group : groups_) {
      for (Fresh& fresh : group.fresh) {
        if (!fresh.admitted) continue;
        if (free_rows_.empty()) {
          fresh.row = static_cast<uint32_t>(next_row_++);
        } else {
          fresh.row = free_rows_.back();
          free_rows_.pop_back();
        }
      }
    }
    counts_[kInsertions] += admitted;
    counts_[kRows] = next_row_ - 1 - static_cast<int64_t>(free_rows_.size());
    pool->ParallelFor(by_hash.size(), cost * 10, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) Insert(groups_[g], static_cast<uint32_t>(now), made);
    });
    return tensorflow::OkStatus();
  }

  std::vector<int64_t> Counts() {
    tensorflow::tf_shared_lock lock(mutex_);
    return std::vector<int64_t>(counts_, counts_ + kCounts);
  }

  // Calls use(entries sorted by id, buckets, counts).
  template <typename Use>
  void State(Use use) {
    tensorflow::tf_shared_lock lock(mutex_);
    std::vector<Entry> all;
    for (const Bucket& bucket : buckets_) {
      bucket.entries.ForEach([&](const Entry& entry) { all.push_back(entry); });
    }
    std::sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
    use(all, buckets_, counts_);
  }

  // Row numbers begin at 1, in the order given.
  Status Restore(const std::vector<Entry>& entries, const Tensor& counters, const Tensor& counted, const Tensor& counts) {
    tensorflow::mutex_lock lock(mutex_);
    std::vector<Bucket> fresh;
    for (int64_t b = 0; b < policy_.buckets(); ++b) fresh.emplace_back(policy_);
    const int64_t cells = static_cast<int64_t>(fresh[0].sketch.counters.size());
    if (counts.NumElements() != kCounts) return errors::InvalidArgument("counts: ", kCounts, " are wanted");
    if (counters.NumElements() == cells * policy_.buckets() && counted.NumElements() == policy_.buckets()) {
      for (int64_t b = 0; b < policy_.buckets(); ++b) {
        const uint8_t* from = counters.flat<uint8_t>().data() + b * cells;
        fresh[b].sketch.counters.assign(from, from + cells);
        fresh[b].sketch.counted = static_cast<uint32_t>(counted.flat<int64_t>()(b));
      }
    }  // else: under another admission or capacity, counting begins anew
    for (const Entry& entry : entries) {
      const uint64_t hash = IdHash(entry.id);
      fresh[BucketOf(hash)].entries.Insert(entry, hash);
    }
    buckets_.swap(fresh);
    free_rows_.clear();
    next_row_ = 1 + static_cast<int64_t>(entries.size());
    for (int c = 0; c < kCounts; ++c) counts_[c] = counts.flat<int64_t>()(c);
    counts_[kRows] = static_cast<int64_t>(entries.size());
    return tensorflow::OkStatus();
  }

 private:
  // What a step found in the buckets of one group.
  struct Group {
    std::vector<Fresh> fresh;
    std::vector<std::pair<int64_t*, uint32_t>> missing;  // place, number in `fresh`
    std::vector<uint32_t> freed;
    int64_t rejected = 0;

    void Clear() {
      fresh.clear();
      missing.clear();
      freed.clear();
      rejected = 0;
    }
  };

  // A thread's own, for the group it is at.
  struct Scratch {
    std::vector<uint64_t> hashes;
    std::vector<uint32_t> missing;
    std::vector<int64_t> came;  // how often each of these did
    DistinctIds distinct;
  };

  int64_t BucketOf(uint64_t hash) const { return Upper(hash, policy_.bucket_bits); }
  int GroupBits() const { return std::min(policy_.bucket_bits, kGroupBits); }

  void FindAndAdmit(const IdGroups::Place* begin, const IdGroups::Place* end, bool counted, int64_t number, int64_t now,
                    Group* group) {
    constexpr int64_t kAhead = 16;
    const int64_t size = end - begin;
    group->Clear();
    Scratch& scratch = OfThread<Scratch>();
    std::vector<uint64_t>& hashes = scratch.hashes;
    std::vector<uint32_t>& missing = scratch.missing;
    hashes.resize(size);
    missing.resize(size + 1);
    std::vector<int64_t>& came = scratch.came;
    came.resize(size + 1);
    for (int64_t i = 0; i < size; ++i) hashes[i] = IdHash(begin[i].id);
    auto fetch = [this, of = hashes.data()](int64_t i) { buckets_[BucketOf(of[i])].entries.Prefetch(of[i]); };
    int64_t count = 0;
    for (int64_t i = 0; i < std::min(kAhead, size); ++i) fetch(i);
    for (int64_t i = 0; i < size; ++i) {
      if (i + kAhead < size) fetch(i + kAhead);
      EntryMap& entries = buckets_[BucketOf(hashes[i])].entries;
      const int64_t times = counted ? *begin[i].found : 1;
      const uint32_t row = entries.See(begin[i].id, hashes[i], static_cast<uint32_t>(now), times);
      came[count] = times;
      *begin[i].found = row;
      missing[count] = static_cast<uint32_t>(i);
      count += row == kNoRow;
    }
    DistinctIds& distinct = scratch.distinct;
    distinct.Begin(count);
    for (int64_t m = 0; m < count; ++m) {
      const IdGroups::Place& here = begin[missing[m]];
      const uint64_t hash = hashes[missing[m]];
      const auto [place, fresh] = distinct.Number(here.id, hash);
      if (fresh) group->fresh.push_back({here.id, hash});
      group->fresh[place].came += came[m];
      group->missing.push_back({here.found, place});
    }
    Admit(number, now, group);
  }

  // Says which of `fresh` get a row.
  void Admit(int64_t number, int64_t now, Group* group) {
    const int64_t first = number << (policy_.bucket_bits - GroupBits());
    const int64_t count = policy_.buckets() >> GroupBits();
    std::vector<int64_t> room(count, 0);
    for (Fresh& fresh : group->fresh) {
      const int64_t bucket = BucketOf(fresh.hash);
      fresh.admitted = buckets_[bucket].Admits(policy_, now, &fresh);
      room[bucket - first] += fresh.admitted;
    }
    for (int64_t b = 0; b < count; ++b) {
      room[b] = buckets_[first + b].MakeRoom(policy_, first + b, room[b], now, &group->freed);
    }
    for (Fresh& fresh : group->fresh) {  // first come, first served
      fresh.admitted = fresh.admitted && --room[BucketOf(fresh.hash) - first] >= 0;
      if (!fresh.admitted) group->rejected += fresh.came;
    }
  }

  void Insert(const Group& group, uint32_t now, const NewRows& made) {
    constexpr size_t kAhead = 8;
    for (size_t f = 0; f < group.fresh.size(); ++f) {
      if (f + kAhead < group.fresh.size()) {
        const uint64_t next = group.fresh[f + kAhead].hash;
        buckets_[BucketOf(next)].entries.Prefetch(next);
      }
      const Fresh& fresh = group.fresh[f];
      if (!fresh.admitted) continue;
      const uint32_t frequency = static_cast<uint32_t>(std::min<int64_t>(fresh.frequency, UINT32_MAX));
      buckets_[BucketOf(fresh.hash)].entries.Insert({fresh.id, fresh.row, frequency, now}, fresh.hash);
      made.Write(fresh.id, fresh.row);
    }
    for (const auto& [place, number] : group.missing) {
      *place = group.fresh[number].admitted ? group.fresh[number].row : kOutOfVocabulary;
    }
  }

  const Policy policy_;
  tensorflow::mutex mutex_;
  std::vector<Bucket> buckets_;
  std::vector<Group> groups_;  // of a step, kept for the next
  std::vector<uint32_t> free_rows_;
  int64_t next_row_ = 1;  // row 0 is that of ids without one
  int64_t counts_[kCounts] = {0};
};

class IdTableOp : public OpKernel {
 public:
  explicit IdTableOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string admission, eviction;
    float probability;
    int64_t key, bits;
    OP_REQUIRES_OK(context, context->GetAttr("admission", &admission));
    OP_REQUIRES_OK(context, context->GetAttr("threshold", &policy_.threshold));
    OP_REQUIRES_OK(context, context->GetAttr("counters", &policy_.counters));
    OP_REQUIRES_OK(context, context->GetAttr("probability", &probability));
    OP_REQUIRES_OK(context, context->GetAttr("eviction", &eviction));
    OP_REQUIRES_OK(context, context->GetAttr("steps_to_live", &policy_.steps_to_live));
    OP_REQUIRES_OK(context, context->GetAttr("capacity", &policy_.capacity));
    OP_REQUIRES_OK(context, context->GetAttr("bucket_bits", &bits));
    OP_REQUIRES_OK(context, context->GetAttr("key", &key));
    OP_REQUIRES(context, bits >= 0 && bits <= 20, errors::InvalidArgument("bucket_bits lies in 0 to 20"));
    if (admission == "frequency") policy_.admission = Admission::kFrequency;
    if (admission == "probability") policy_.admission = Admission::kProbability;
    if (eviction == "ttl") policy_.eviction = Eviction::kTimeToLive;
    if (eviction == "lru") policy_.eviction = Eviction::kLeastRecentlyUsed;
    if (eviction == "lfu") policy_.eviction = Eviction::kLeastFrequentlyUsed;
    policy_.probability = probability;
    policy_.bucket_bits = static_cast<int>(bits);
    policy_.key = static_cast<uint64_t>(key);
  }

  void Compute(OpKernelContext* context) override {
    Tensor handle(tensorflow::DT_RESOURCE, TensorShape({}));
    handle.scalar<tensorflow::ResourceHandle>()() = tensorflow::ResourceHandle::MakeRefCountingHandle(
        new IdTable(policy_), context->device()->name(), {}, {});
    context->set_output(0, handle);
  }

 private:
  Policy policy_;
};

// Reads the ids from inputs [first, first + count) and makes an output for the rows of each.
Status ReadIds(OpKernelContext* context, int first, int count, std::vector<Ids>* features) {
  for (int f = 0; f < count; ++f) {
    const Tensor& ids = context->input(first + f);
    Tensor* rows;
    TF_RETURN_IF_ERROR(context->allocate_output(f, ids.shape(), &rows));
    features->push_back({ids.flat<int64_t>().data(), rows->flat<int64_t>().data(), ids.NumElements()});
  }
  return tensorflow::OkStatus();
}

ThreadPool* PoolOf(OpKernelContext* context) { return context->device()->tensorflow_cpu_worker_threads()->workers; }

using Table = tensorflow::core::RefCountPtr<IdTable>;

class FindOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    Table table;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &table));
    std::vector<Ids> features;
    OP_REQUIRES_OK(context, ReadIds(context, 1, context->num_inputs() - 1, &features));
    table->Find(features, PoolOf(context));
  }
};

class FindOrInsertOp : public OpKernel {
 public:
  explicit FindOrInsertOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("V", &variables_));
    OP_REQUIRES_OK(context, context->GetAttr("O", &occurrences_));
    OP_REQUIRES_OK(context, context->GetAttr("scale", &scale_));
    OP_REQUIRES_OK(context, context->GetAttr("first_column", &first_column_));
    OP_REQUIRES_OK(context, context->GetAttr("slots", &slots_));
    OP_REQUIRES(context, static_cast<int>(slots_.size()) == variables_ - 2,
                errors::InvalidArgument("slots: an initial value for each is wanted"));
  }

  void Compute(OpKernelContext* context) override {
    Table table;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &table));
    std::vector<Ids> features;
    const int count = context->num_inputs() - 1 - variables_ - occurrences_;
    OP_REQUIRES_OK(context, ReadIds(context, 1 + variables_, count, &features));
    OP_REQUIRES(context, occurrences_ == 0 || occurrences_ == count,
                errors::InvalidArgument("occurrences: of every feature or of none"));
    for (int f = 0; f < occurrences_; ++f) {
      const Tensor& of_feature = context->input(1 + variables_ + count + f);
      OP_REQUIRES(context, of_feature.NumElements() == features[f].size,
                  errors::InvalidArgument("occurrences: one for each id is wanted"));
      std::copy_n(of_feature.flat<int64_t>().data(), features[f].size, features[f].found);
    }
    Held held;  // until the new rows are written
    const auto grow = [&](int64_t rows, NewRows* made) -> Status {
      TF_RETURN_IF_ERROR(held.Take(context, 1, variables_));
      return GrowAll(held, rows, made);
    };
    OP_REQUIRES_OK(context, table->FindOrInsert(features, occurrences_ > 0, PoolOf(context), grow));
  }

 private:
  static constexpr int64_t kFewestRows = 1024;

  Status GrowAll(const Held& held, int64_t rows, NewRows* made) const {
    std::vector<Tensor*> tensors;
    for (int v = 0; v < variables_; ++v) {
      Tensor* tensor = held[v]->tensor();
      const bool good = v == 0 ? tensor->dtype() == tensorflow::DT_INT64 : IsPrecision(tensor->dtype());
      if (!good || tensor->dims() < 1) {
        return errors::InvalidArgument("a dynamic table's variable is ", tensor->DebugString(0));
      }
      tensors.push_back(tensor);
    }
    int64_t there = tensors[0]->dim_size(0);  // rows of every variable, in use or not
    if (rows > there) there = std::max<int64_t>({rows, there + there / 8, kFewestRows});
    TF_RETURN_IF_ERROR(Grow(tensors, there));
    for (int v = 0; v < variables_; ++v) held[v]->copy_on_read_mode.store(true);  // they are written in place
    auto width = [&](int v) { return tensors[v]->dims() == 2 ? tensors[v]->dim_size(1) : 1; };
    made->identities = tensors[0]->flat<int64_t>().data();
    made->rows = tensors[1]->data();
    made->dtype = tensors[1]->dtype();
    made->dim = width(1);
    made->first_column = first_column_;
    made->scale = scale_;
    for (int v = 2; v < variables_; ++v) {
      made->slots.push_back({tensors[v]->data(), tensors[v]->dtype(), width(v), slots_[v - 2]});
    }
    return tensorflow::OkStatus();
  }

  int variables_, occurrences_;
  int64_t first_column_;
  float scale_;
  std::vector<float> slots_;
};

template <typename T, typename Value>
Status Output(OpKernelContext* context, int number, int64_t size, Value value) {
  Tensor* tensor;
  TF_RETURN_IF_ERROR(context->allocate_output(number, TensorShape({size}), &tensor));
  auto flat = tensor->flat<T>();
  for (int64_t i = 0; i < size; ++i) flat(i) = static_cast<T>(value(i));
  return tensorflow::OkStatus();
}

class CountsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    Table table;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &table));
    const std::vector<int64_t> counts = table->Counts();
    OP_REQUIRES_OK(context, Output<int64_t>(context, 0, kCounts, [&](int64_t c) { return counts[c]; }));
  }
};

class StateOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    Table table;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &table));
    Status status;
    table->State([&](const std::vector<Entry>& all, const std::vector<Bucket>& buckets, const int64_t* counts) {
      const int64_t size = static_cast<int64_t>(all.size()), count = static_cast<int64_t>(buckets.size());
      const int64_t cells = static_cast<int64_t>(buckets[0].sketch.counters.size());
      status.Update(Output<int64_t>(context, 0, size, [&](int64_t i) { return all[i].id; }));
      status.Update(Output<int64_t>(context, 1, size, [&](int64_t i) { return all[i].row; }));
      status.Update(Output<int64_t>(context, 2, size, [&](int64_t i) { return all[i].frequency; }));
      status.Update(Output<int64_t>(context, 3, size, [&](int64_t i) { return all[i].last_seen; }));
      status.Update(Output<uint8_t>(context, 4, count * cells,
                                    [&](int64_t i) { return buckets[i / cells].sketch.counters[i % cells]; }));
      status.Update(Output<int64_t>(context, 5, count, [&](int64_t b) { return buckets[b].sketch.counted; }));
      status.Update(Output<int64_t>(context, 6, kCounts, [&](int64_t c) { return counts[c]; }));
    });
    OP_REQUIRES_OK(context, status);
  }
};

class RestoreOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    Table table;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &table));
    const Tensor &ids = context->input(1), &frequencies = context->input(2), &last_seen = context->input(3);
    const int64_t size = ids.NumElements();
    OP_REQUIRES(context, frequencies.NumElements() == size && last_seen.NumElements() == size,
                errors::InvalidArgument("ids, frequencies and last_seen are of one size"));
    std::vector<Entry> entries(size);
    for (int64_t i = 0; i < size; ++i) {
      entries[i] = {ids.flat<int64_t>()(i), static_cast<uint32_t>(i + 1),
                    static_cast<uint32_t>(frequencies.flat<int64_t>()(i)),
                    static_cast<uint32_t>(last_seen.flat<int64_t>()(i))};
    }
    OP_REQUIRES_OK(context, table->Restore(entries, context->input(4), context->input(5), context->input(6)));
  }
};

REGISTER_KERNEL_BUILDER(Name("HeadraceIdTable").Device(tensorflow::DEVICE_CPU), IdTableOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceFind").Device(tensorflow::DEVICE_CPU), FindOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceFindOrInsert").Device(tensorflow::DEVICE_CPU), FindOrInsertOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceIdCounts").Device(tensorflow::DEVICE_CPU), CountsOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceIdState").Device(tensorflow::DEVICE_CPU), StateOp);
REGISTER_KERNEL_BUILDER(Name("HeadraceRestoreIds").Device(tensorflow::DEVICE_CPU), RestoreOp);

}  // namespace headrace
