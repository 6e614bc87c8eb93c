// HeadraceUpdate: the backward pass of HeadraceLookup. Sums each row's gradient over its occurrences and takes one
// optimizer step on it, in place. HeadraceStep: the same of rows that each occur once.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "backward.h"
#include "bags.h"
#include "grouping.h"
#include "held.h"
#include "memory.h"

namespace headrace {

using tensorflow::DataType;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
namespace errors = tensorflow::errors;

#define HEADRACE_OP(name)                  \
  REGISTER_OP(name)                        \
      .Input("tables: T * resource") \
      .Input("slots: S * resource") \
      .Input("identities: I * resource") \
      .Input("updates: T * resource") \
      .Input("ids: N * int64") \
      .Input("splits: N * int64") \
      .Input("weights: N * float") \
      .Input("gradients: N * float") \
      .Input("steps: float") \
      .Attr("T: int >= 1") \
      .Attr("S: int >= 0") \
      .Attr("I: int >= 0") \
      .Attr("N: int >= 1") \
      .Attr("optimizer: {'SGD', 'Adagrad', 'RowWiseAdagrad', 'Adam', 'FTRL'}") \
      .Attr("keys: list(int)") \
      .Attr("table_of: list(int)") \
      .Attr("combiners: list(string)") \
      .Attr("feature_names: list(string)") \
      .SetIsStateful() \
      .SetShapeFn(tensorflow::shape_inference::NoOutputs)

HEADRACE_OP("HeadraceUpdate");
HEADRACE_OP("HeadraceStep");

// Makes a variable's buffer its own: whoever else holds it keeps the old values.
tensorflow::Status Exclusive(Var* variable) {
  if (variable->copy_on_read_mode.load()) return tensorflow::OkStatus();
  Tensor* tensor = variable->tensor();
  if (!tensor->RefCountIsOne()) {
    Tensor own(TableMemory(), tensor->dtype(), tensor->shape());
    if (!own.IsInitialized()) return errors::ResourceExhausted("no memory for a copy of ", tensor->DebugString(0));
    std::memcpy(own.data(), tensor->data(), tensor->TotalBytes());
    *tensor = own;
  }
  variable->copy_on_read_mode.store(true);  // from now on who reads the variable whole gets a copy
  return tensorflow::OkStatus();
}

// grouping: null: every row occurs once.
using Compute = void (*)(const std::vector<Feature>&, const std::vector<const float*>&, std::vector<TableState>&,
                         int64_t dim, Grouping*, float* sums, tensorflow::thread::ThreadPool*, int64_t total);

template <typename Rows>
void RunRows(const std::vector<Feature>& features, const std::vector<const float*>& gradients,
             std::vector<TableState>& tables, int64_t dim, Grouping* grouping, float* sums,
             tensorflow::thread::ThreadPool* pool, int64_t total) {
  Backward<Rows> backward(features, gradients, tables, dim, sums);
  grouping ? backward.Run(grouping, pool, total) : backward.RunDistinct(pool, total);
}

// An optimizer's code, for the widths that are common and for any.
struct Methods {
  int slots;
  bool wide[kMostSlots];
  Compute (*of)(bool plain, int64_t dim);
};

template <typename Optimizer>
Methods MethodsOf() {
  Methods methods{Optimizer::kSlots, {false, false}, [](bool plain, int64_t dim) -> Compute {
                    if (!plain) return &RunRows<RoundedRows<Optimizer>>;
                    if (dim == 16) return &RunRows<PlainRows<Optimizer, 16>>;
                    if (dim == 32) return &RunRows<PlainRows<Optimizer, 32>>;
                    if (dim == 64) return &RunRows<PlainRows<Optimizer, 64>>;
                    if (dim == 128) return &RunRows<PlainRows<Optimizer, 128>>;
                    return &RunRows<PlainRows<Optimizer, 0>>;
                  }};
  for (int s = 0; s < Optimizer::kSlots; ++s) methods.wide[s] = Optimizer::kWide[s];
  return methods;
}

Methods MethodsNamed(const std::string& optimizer) {
  if (optimizer == "SGD") return MethodsOf<Sgd>();
  if (optimizer == "Adagrad") return MethodsOf<Adagrad>();
  if (optimizer == "RowWiseAdagrad") return MethodsOf<RowWiseAdagrad>();
  if (optimizer == "Adam") return MethodsOf<Adam>();
  return MethodsOf<Ftrl>();
}

template <bool kDistinct>
class UpdateOp : public OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
    std::string optimizer;
    int slots;
    OP_REQUIRES_OK(context, context->GetAttr("optimizer", &optimizer));
    OP_REQUIRES_OK(context, context->GetAttr("S", &slots));
    OP_REQUIRES_OK(context, context->GetAttr("I", &identities_));
    OP_REQUIRES_OK(context, context->GetAttr("keys", &keys_));
    methods_ = MethodsNamed(optimizer);
    OP_REQUIRES(context, slots == layout_.tables * methods_.slots,
                errors::InvalidArgument(slots, " slot variables, ", layout_.tables * methods_.slots, " are wanted"));
    OP_REQUIRES(context, identities_ == 0 || identities_ == layout_.tables,
                errors::InvalidArgument("identities: of every table or of none"));
    OP_REQUIRES(context, keys_.size() == static_cast<size_t>(layout_.tables),
                errors::InvalidArgument("keys: one a table"));
  }

  void Compute(OpKernelContext* context) override {
    const int tables = layout_.tables, first_update = tables * (1 + methods_.slots) + identities_;
    const int variables = first_update + tables;
    Held held;
    OP_REQUIRES_OK(context, held.Take(context, 0, variables));
    std::vector<Feature> features;
    OP_REQUIRES_OK(context, ReadFeatures(context, layout_, variables, &features));
    const Tensor& numbers = context->input(variables + 4 * layout_.features);
    OP_REQUIRES(context, numbers.NumElements() == tables * kNumbers,
                errors::InvalidArgument("steps: ", kNumbers, " numbers a table are wanted"));
    int64_t dim;
    std::vector<TableState> states;
    std::vector<int64_t> vocabulary;
    OP_REQUIRES_OK(context, ReadTables(held, first_update, numbers.flat<float>().data(), &dim, &states, &vocabulary));

    std::vector<const float*> gradients;
    int64_t total = 0;
    for (int f = 0; f < layout_.features; ++f) {
      const Tensor& gradient = context->input(variables + 3 * layout_.features + f);
      OP_REQUIRES(context, gradient.NumElements() == features[f].bags * dim,
                  errors::InvalidArgument("feature ", layout_.names[f], ": its gradient has the shape ",
                                          gradient.shape().DebugString()));
      gradients.push_back(gradient.flat<float>().data());
      total += features[f].size;
    }
    OP_REQUIRES(context, total < kSummed, errors::InvalidArgument("fewer than 2^31 ids a step are wanted"));

    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    if (total > 0) {
      if constexpr (kDistinct) {
        OP_REQUIRES_OK(context, CheckDistinct(features, vocabulary, pool));
        methods_.of(IsPlain(states), dim)(features, gradients, states, dim, nullptr, nullptr, pool, total);
      } else {
        const bool by_norm = std::any_of(states.begin(), states.end(),
                                         [](const TableState& state) { return std::isfinite(state.step.clipnorm); });
        Fault fault;
        Grouping grouping(features, vocabulary, !by_norm, pool, &fault);
        OP_REQUIRES_OK(context, fault.Status(layout_, features, vocabulary));
        OP_REQUIRES(context, grouping.ok(), errors::ResourceExhausted("no memory to group ", total, " ids"));
        const StepBlock<float> sums = NewStepBlock<float>(grouping.sums() * dim);
        OP_REQUIRES(context, sums != nullptr,
                    errors::ResourceExhausted("no memory to sum the gradients of ", total, " ids"));
        methods_.of(IsPlain(states), dim)(features, gradients, states, dim, &grouping, sums.get(), pool, total);
      }
    }
    std::vector<bool> counted(tables, false);
    for (int table : layout_.table_of) {
      if (counted[table]) continue;
      counted[table] = true;
      Tensor next(tensorflow::DT_INT64, {});  // whoever read the last number keeps it
      next.scalar<int64_t>()() = states[table].update + 1;
      *held[first_update + table]->tensor() = next;
    }
  }

 private:
  bool IsPlain(const std::vector<TableState>& states) const {
    return std::all_of(states.begin(), states.end(), [this](const TableState& state) {
      return state.precision == tensorflow::DT_FLOAT &&
             (methods_.slots == 0 || state.slot_precision == tensorflow::DT_FLOAT);
    });
  }

  // Rows are inside their tables, and each feature is rows alone.
  tensorflow::Status CheckDistinct(const std::vector<Feature>& features, const std::vector<int64_t>& vocabulary,
                                   tensorflow::thread::ThreadPool* pool) const {
    for (const Feature& feature : features) {
      if (feature.splits || feature.weights) return errors::InvalidArgument("distinct rows come without bags or weights");
    }
    Fault fault;
    const std::vector<Chunk> chunks = Chunks(features, kDistinctPerChunk);
    pool->ParallelFor(chunks.size(), kDistinctPerChunk, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const Feature& feature = features[chunks[c].feature];
        CheckChunk(feature, chunks[c], vocabulary[feature.table], &fault);
      }
    });
    return fault.Status(layout_, features, vocabulary);
  }

  tensorflow::Status ReadTables(const Held& held, int first_update, const float* numbers, int64_t* dim,
                                std::vector<TableState>* states, std::vector<int64_t>* vocabulary) const {
    const int tables = layout_.tables;
    *dim = held[0]->tensor()->dims() == 2 ? held[0]->tensor()->dim_size(1) : -1;
    for (int t = 0; t < tables; ++t) {
      TableState state{};
      const Tensor& rows = *held[t]->tensor();
      const Tensor& update = *held[first_update + t]->tensor();
      if (rows.dims() != 2 || rows.dim_size(1) != *dim || !IsPrecision(rows.dtype())) {
        return errors::InvalidArgument("tables of one call are matrices of one width; found ", rows.DebugString(0));
      }
      if (update.dtype() != tensorflow::DT_INT64 || update.NumElements() != 1) {
        return errors::InvalidArgument("updates: one int64 is wanted; found ", update.DebugString(0));
      }
      const int64_t count = rows.dim_size(0);
      TF_RETURN_IF_ERROR(Exclusive(held[t]));
      state.rows = held[t]->tensor()->data();
      state.precision = rows.dtype();
      for (int s = 0; s < methods_.slots; ++s) {  // slot by slot, each for every table
        const int v = (1 + s) * tables + t;
        const Tensor& slot = *held[v]->tensor();
        if (slot.NumElements() != count * (methods_.wide[s] ? *dim : 1) || !IsPrecision(slot.dtype())) {
          return errors::InvalidArgument("a slot variable does not have its shape: ", slot.DebugString(0));
        }
        TF_RETURN_IF_ERROR(Exclusive(held[v]));
        state.slots[s] = held[v]->tensor()->data();
        if (s > 0 && slot.dtype() != state.slot_precision) {
          return errors::InvalidArgument("a table's slot variables are of one precision; found ", slot.DebugString(0));
        }
        state.slot_precision = slot.dtype();
      }
      if (identities_) {
        const Tensor& identities = *held[(1 + methods_.slots) * tables + t]->tensor();
        if (identities.dtype() != tensorflow::DT_INT64 || identities.NumElements() < count) {
          return errors::InvalidArgument("identities: an int64 for each row is wanted; found ",
                                         identities.DebugString(0));
        }
        state.identities = identities.flat<int64_t>().data();
      }
      state.key = static_cast<uint64_t>(keys_[t]);
      state.update = update.flat<int64_t>()(0);
      std::memcpy(&state.step, numbers + t * kNumbers, sizeof(Step));
      state.norm_scale = 1.0f;
      states->push_back(state);
      vocabulary->push_back(count);
    }
    return tensorflow::OkStatus();
  }

  Layout layout_;
  Methods methods_;
  int identities_ = 0;
  std::vector<int64_t> keys_;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceUpdate").Device(tensorflow::DEVICE_CPU), UpdateOp<false>);
REGISTER_KERNEL_BUILDER(Name("HeadraceStep").Device(tensorflow::DEVICE_CPU), UpdateOp<true>);

}  // namespace headrace
