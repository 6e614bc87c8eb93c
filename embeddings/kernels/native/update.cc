// HeadraceUpdate: the backward pass of HeadraceLookup. Sums each row's gradient over its occurrences and takes one
// optimizer step on it, in one pass over memory.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/shape_inference.h"

#include "bags.h"
#include "grouping.h"
#include "memory.h"
#include "optimizers.h"
#include "rows.h"

namespace headrace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
namespace errors = tensorflow::errors;

REGISTER_OP("HeadraceUpdate")
    .Input("tables: T * resource")
    .Input("slots: S * resource")
    .Input("ids: N * int64")
    .Input("splits: N * int64")
    .Input("weights: N * float")
    .Input("gradients: N * float")
    .Input("steps: float")
    .Attr("T: int >= 1")
    .Attr("S: int >= 0")
    .Attr("N: int >= 1")
    .Attr("optimizer: {'SGD', 'Adagrad', 'RowWiseAdagrad'}")
    .Attr("table_of: list(int)")
    .Attr("combiners: list(string)")
    .Attr("feature_names: list(string)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

constexpr int kNumbers = 4;  // columns of `steps`: those of Step, then clipvalue and clipnorm

struct TableStep {
  Step step;
  float clipvalue, clipnorm;

  explicit TableStep(const float* numbers)
      : step{numbers[0], numbers[1]}, clipvalue(numbers[2]), clipnorm(numbers[3]) {}
};

// A variable's floats, its own: whoever else holds the buffer keeps the old values.
tensorflow::Status Exclusive(Var* variable, float** data) {
  Tensor* tensor = variable->tensor();
  if (tensor->dtype() != tensorflow::DT_FLOAT) {
    return errors::InvalidArgument("a table and its slot variables are float32; this one is ", tensor->DebugString(0));
  }
  if (!variable->copy_on_read_mode.load()) {
    if (!tensor->RefCountIsOne()) {
      Tensor own(TableMemory(), tensor->dtype(), tensor->shape());
      if (!own.IsInitialized()) return errors::ResourceExhausted("no memory for a copy of ", tensor->DebugString(0));
      std::memcpy(own.data(), tensor->data(), tensor->TotalBytes());
      *tensor = own;
    }
    variable->copy_on_read_mode.store(true);  // from now on who reads the variable whole gets a copy
  }
  *data = tensor->flat<float>().data();
  return tensorflow::OkStatus();
}

// The backward pass under one optimizer.
template <typename Optimizer>
struct Backward {
  static constexpr int kSlots = Optimizer::kSlots;

  static void Compute(OpKernelContext* context, const Layout& layout) {
    const int tables = layout.tables, variables = tables * (1 + Optimizer::kSlots);
    std::vector<tensorflow::core::RefCountPtr<Var>> held(variables);
    for (int v = 0; v < variables; ++v) {
      OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, v), &held[v]));
    }
    std::vector<tensorflow::mutex_lock> locks;
    for (auto& variable : held) locks.emplace_back(*variable->mu());
    std::vector<float*> data(variables);
    std::vector<int64_t> vocabulary;
    const int64_t dim = held[0]->tensor()->dims() == 2 ? held[0]->tensor()->dim_size(1) : -1;
    for (int v = 0; v < variables; ++v) {
      const Tensor& tensor = *held[v]->tensor();
      const bool wide = v < tables || Optimizer::kWide[v / tables - 1];  // slot by slot, each for every table
      const int64_t rows = v < tables ? tensor.dim_size(0) : vocabulary[v % tables];
      OP_REQUIRES(context, dim >= 0 && tensor.NumElements() == rows * (wide ? dim : 1),
                  errors::InvalidArgument("tables of one call have one width, and slots their shape; found ",
                                          tensor.DebugString(0)));
      if (v < tables) vocabulary.push_back(rows);
      OP_REQUIRES_OK(context, Exclusive(held[v].get(), &data[v]));
    }

    std::vector<Feature> features;
    OP_REQUIRES_OK(context, ReadFeatures(context, layout, variables, &features));
    std::vector<const float*> gradients;
    int64_t total = 0;
    for (int f = 0; f < layout.features; ++f) {
      const Tensor& gradient = context->input(variables + 3 * layout.features + f);
      OP_REQUIRES(context, gradient.NumElements() == features[f].bags * dim,
                  errors::InvalidArgument("feature ", layout.names[f], ": its gradient has the shape ",
                                          gradient.shape().DebugString()));
      gradients.push_back(gradient.flat<float>().data());
      total += features[f].size;
    }
    if (total == 0) return;
    OP_REQUIRES(context, total < UINT32_MAX, errors::InvalidArgument("fewer than 2^32 ids a step are wanted"));
    const Tensor& numbers = context->input(variables + 4 * layout.features);
    OP_REQUIRES(context, numbers.NumElements() == tables * kNumbers,
                errors::InvalidArgument("steps: ", kNumbers, " numbers a table are wanted"));
    std::vector<TableStep> steps;
    for (int t = 0; t < tables; ++t) steps.emplace_back(numbers.flat<float>().data() + t * kNumbers);

    auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
    Fault fault;
    Grouping grouping(features, vocabulary, pool, &fault);
    OP_REQUIRES_OK(context, fault.Status(layout, features, vocabulary));
    Pass pass{grouping, features, gradients, data, steps, tables, dim};
    const int64_t parts = grouping.parts(), cost = (total / parts + 1) * (60 + 2 * dim);
    if (std::any_of(steps.begin(), steps.end(), [](const TableStep& step) { return std::isfinite(step.clipnorm); })) {
      // The norm of a table's whole gradient is known only when all of it is summed: once for it, once to take the step.
      std::vector<std::vector<double>> squares(tables, std::vector<double>(kHashBins, 0.0));
      pool->ParallelFor(parts, cost, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
          pass.template Rows<false>(p, [&](int table, int64_t id, const float* g) {
            // A bin's rows are all of one part, and come in one order: its sum is the same for any number of parts.
            squares[table][HashBin(KeyOf(table, id))] += SquaredNorm(g, dim);
          });
        }
      });
      for (int t = 0; t < tables; ++t) {
        double norm = 0.0;
        for (double square : squares[t]) norm += square;
        norm = std::sqrt(norm);
        if (norm > steps[t].clipnorm) pass.scale[t] = static_cast<float>(steps[t].clipnorm / norm);
      }
    }
    pool->ParallelFor(parts, cost, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        pass.template Rows<true>(p, [&](int table, int64_t id, const float* g) { pass.Take(table, id, g); });
      }
    });
  }

  // A thread's own, kept between calls.
  struct Scratch {
    std::vector<uint32_t> table, counts, places, free_places;
    std::vector<int64_t> keys;
    std::vector<float> sums, clipped;
  };

  struct Pass {
    Grouping& grouping;
    const std::vector<Feature>& features;
    const std::vector<const float*>& gradients;
    const std::vector<float*>& data;
    const std::vector<TableStep>& steps;
    int tables;
    int64_t dim;
    std::vector<float> scale = std::vector<float>(tables, 1.0f);

    float* Slot(int s, int table, int64_t id) const {
      return data[tables + s * tables + table] + id * (Optimizer::kWide[s] ? dim : 1);
    }

    void Take(int table, int64_t id, const float* gradient) const {
      float* slots[kSlots + 1];
      for (int s = 0; s < kSlots; ++s) slots[s] = Slot(s, table, id);
      Optimizer::Apply(steps[table].step, data[table] + id * dim, slots, gradient, dim);
    }

    void Fetch(int table, int64_t id) const {
      FetchForWriting(data[table] + id * dim, dim * sizeof(float));
      for (int s = 0; s < kSlots; ++s) {
        FetchForWriting(Slot(s, table, id), (Optimizer::kWide[s] ? dim : 1) * sizeof(float));
      }
    }

    // Calls `use(table, id, gradient)` for each row of a part, its gradient summed and clipped. One pass over the
    // occurrences as they came: gradients are read in their order; a row that occurs once is used at once, one that
    // occurs more often is summed in a place of its own until its last occurrence.
    template <bool kWrites, typename Use>
    void Rows(int64_t p, Use use) {
      thread_local Scratch scratch;
      Part part = grouping.part(p);
      const int count = static_cast<int>(features.size());
      part.Number(count, &scratch.table, &scratch.keys, &scratch.counts);
      scratch.places.assign(scratch.keys.size(), UINT32_MAX);
      scratch.free_places.clear();
      scratch.clipped.resize(dim);
      std::vector<float>& sums = scratch.sums;
      std::vector<uint32_t>& free_places = scratch.free_places;
      uint32_t* const counts = scratch.counts.data();
      uint32_t* const place_of_row = scratch.places.data();
      float* const clipped = scratch.clipped.data();
      uint32_t places = 0;
      const uint32_t ahead = static_cast<uint32_t>(Ahead(dim * sizeof(float)));
      const int64_t row_bytes = dim * sizeof(float);
      for (int f = 0; f < count; ++f) {
        const int table = features[f].table;
        const uint32_t begin = part.feature_starts[f], end = part.feature_starts[f + 1];
        const float* gradient_of_bag = gradients[f];
        auto fetch = [&](uint32_t o) {
          const Occurrence& next = part.occurrences[o];
          FetchForReading(gradient_of_bag + next.bag * dim, row_bytes);
          if (kWrites && counts[next.row] == 1) Fetch(table, IdOf(next.key));
        };
        for (uint32_t o = begin; o < std::min(begin + ahead, end); ++o) fetch(o);
        for (uint32_t o = begin; o < end; ++o) {
          if (o + ahead < end) fetch(o + ahead);
          const Occurrence& here = part.occurrences[o];
          const float share = part.shares ? part.shares[o] : 1.0f;
          const float* __restrict g = gradient_of_bag + here.bag * dim;
          const uint32_t left = counts[here.row]--;
          uint32_t& place = place_of_row[here.row];
          if (place == UINT32_MAX && left == 1) {
            use(table, IdOf(here.key), Clipped(table, share, g, clipped));
            continue;
          }
          if (place == UINT32_MAX) {
            if (free_places.empty()) {
              place = places++;
              if (sums.size() < static_cast<size_t>(places) * dim) sums.resize(std::max<size_t>(2 * sums.size(), 64 * dim));
            } else {
              place = free_places.back();
              free_places.pop_back();
            }
            float* __restrict sum = sums.data() + place * dim;
            for (int64_t d = 0; d < dim; ++d) sum[d] = share * g[d];
            continue;
          }
          float* __restrict sum = sums.data() + place * dim;
          for (int64_t d = 0; d < dim; ++d) sum[d] += share * g[d];
          if (left == 1) {
            use(table, IdOf(here.key), Clipped(table, 1.0f, sum, clipped));
            free_places.push_back(place);
          }
        }
      }
    }

    // The gradient times share, clipped: itself where nothing is to do.
    const float* Clipped(int table, float share, const float* __restrict g, float* __restrict result) const {
      const float clip = steps[table].clipvalue, factor = share * scale[table];
      if (factor == 1.0f && !std::isfinite(clip)) return g;
      for (int64_t d = 0; d < dim; ++d) result[d] = std::min(std::max(factor * g[d], -clip), clip);
      return result;
    }
  };
};

class UpdateOp : public OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, layout_.Read(context));
    std::string optimizer;
    OP_REQUIRES_OK(context, context->GetAttr("optimizer", &optimizer));
    int slots;
    OP_REQUIRES_OK(context, context->GetAttr("S", &slots));
    if (optimizer == "SGD") {
      Use<Sgd>(context, slots);
    } else if (optimizer == "Adagrad") {
      Use<Adagrad>(context, slots);
    } else {
      Use<RowWiseAdagrad>(context, slots);
    }
  }

  void Compute(OpKernelContext* context) override { compute_(context, layout_); }

 private:
  template <typename Optimizer>
  void Use(OpKernelConstruction* context, int slots) {
    const int wanted = layout_.tables * Optimizer::kSlots;
    OP_REQUIRES(context, slots == wanted,
                errors::InvalidArgument(slots, " slot variables, ", wanted, " are wanted"));
    compute_ = &Backward<Optimizer>::Compute;
  }

  Layout layout_;
  void (*compute_)(OpKernelContext*, const Layout&) = nullptr;
};

REGISTER_KERNEL_BUILDER(Name("HeadraceUpdate").Device(tensorflow::DEVICE_CPU), UpdateOp);

}  // namespace headrace
