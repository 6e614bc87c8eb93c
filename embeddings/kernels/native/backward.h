// The rows of a step: each one's gradient summed over its occurrences, clipped, and given to the optimizer.
#ifndef HEADRACE_BACKWARD_H_
#define HEADRACE_BACKWARD_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "distinct.h"
#include "grouping.h"
#include "optimizers.h"
#include "precision.h"
#include "rows.h"

namespace headrace {

constexpr int kMostSlots = 2;
constexpr int64_t kDistinctPerChunk = 4096;

// One table in memory, and its step. Sums and formulas are in float32 whatever the precision of what is stored.
struct TableState {
  void* rows;
  void* slots[kMostSlots];
  tensorflow::DataType precision, slot_precision;
  const int64_t* identities;  // the id of each row; null: its number
  uint64_t key;               // of stochastic rounding
  int64_t update;
  Step step;
  float norm_scale;  // what clipping by norm leaves of the gradient

  bool clips() const { return norm_scale != 1.0f || std::isfinite(step.clipvalue); }
};

// Rows and slots as they are in memory: float32.
template <typename Optimizer, int64_t kDim>
struct PlainRows {
  static constexpr int64_t kWidth = kDim;

  static void Take(const TableState& table, int64_t row, const float* gradient, int64_t dim, float*) {
    float* slots[kMostSlots];
    for (int s = 0; s < Optimizer::kSlots; ++s) slots[s] = Slot(table, s, row, dim);
    Optimizer::Apply(table.step, static_cast<float*>(table.rows) + row * dim, slots, gradient, dim);
  }

  static void Fetch(const TableState& table, int64_t row, int64_t dim) {
    FetchForWriting(static_cast<float*>(table.rows) + row * dim, dim * sizeof(float));
    for (int s = 0; s < Optimizer::kSlots; ++s) {
      FetchForWriting(Slot(table, s, row, dim), (Optimizer::kWide[s] ? dim : 1) * sizeof(float));
    }
  }

 private:
  static float* Slot(const TableState& table, int s, int64_t row, int64_t dim) {
    return static_cast<float*>(table.slots[s]) + row * (Optimizer::kWide[s] ? dim : 1);
  }
};

// Rows or slots of 16 bits: read into floats, and written back with stochastic rounding.
template <typename Optimizer>
struct RoundedRows {
  static constexpr int64_t kWidth = 0;

  // scratch: (1 + kMostSlots) * dim floats.
  static void Take(const TableState& table, int64_t row, const float* gradient, int64_t dim, float* scratch) {
    void* const stored = Place(table.rows, table.precision, row * dim);
    float* slots[kMostSlots];
    LoadFloats(stored, table.precision, dim, scratch);
    for (int s = 0; s < Optimizer::kSlots; ++s) {
      const int64_t width = Optimizer::kWide[s] ? dim : 1;
      slots[s] = scratch + (1 + s) * dim;
      LoadFloats(Place(table.slots[s], table.slot_precision, row * width), table.slot_precision, width, slots[s]);
    }
    Optimizer::Apply(table.step, scratch, slots, gradient, dim);
    const int64_t id = table.identities ? table.identities[row] : row;
    StoreFloats(scratch, dim, RoundingHash(table.key, id, table.update, 0), table.precision, stored);
    for (int s = 0; s < Optimizer::kSlots; ++s) {
      const int64_t width = Optimizer::kWide[s] ? dim : 1;
      StoreFloats(slots[s], width, RoundingHash(table.key, id, table.update, 1 + s), table.slot_precision,
                  Place(table.slots[s], table.slot_precision, row * width));
    }
  }

  static void Fetch(const TableState& table, int64_t row, int64_t dim) {
    FetchForWriting(Place(table.rows, table.precision, row * dim), dim * BytesOf(table.precision));
    for (int s = 0; s < Optimizer::kSlots; ++s) {
      const int64_t width = Optimizer::kWide[s] ? dim : 1;
      FetchForWriting(Place(table.slots[s], table.slot_precision, row * width), width * BytesOf(table.slot_precision));
    }
  }

 private:
  static void* Place(void* from, tensorflow::DataType type, int64_t number) {
    return static_cast<char*>(from) + number * BytesOf(type);
  }
};

// `gradients[f]`: [bags, dim] of feature f. sums: room for the grouping's, [sums, dim].
template <typename Rows>
class Backward {
 public:
  Backward(const std::vector<Feature>& features, const std::vector<const float*>& gradients,
           std::vector<TableState>& tables, int64_t dim, float* sums)
      : features_(features), gradients_(gradients), tables_(tables), any_dim_(dim), sums_(sums) {}

  // Takes the step on every row.
  void Run(Grouping* grouping, tensorflow::thread::ThreadPool* pool, int64_t total) {
    const std::vector<Chunk>& chunks = grouping->chunks();
    const int64_t chunk_cost = (total / (chunks.size() + 1) + 1) * (40 + 2 * any_dim_);
    pool->ParallelFor(chunks.size(), chunk_cost, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) SumRepeats(*grouping, c);
    });
    const int64_t parts = grouping->parts(), cost = (total / parts + 1) * (60 + 2 * any_dim_);
    if (std::any_of(tables_.begin(), tables_.end(), [](const auto& t) { return std::isfinite(t.step.clipnorm); })) {
      ScaleByNorm(grouping, pool, cost);
    }
    pool->ParallelFor(parts, cost, [&](int64_t begin, int64_t end) {
      std::vector<float>& scratch = OfThread<Scratch>().row;
      scratch.resize((1 + kMostSlots) * dim());
      for (int64_t p = begin; p < end; ++p) {
        SumRows<true>(grouping->part(p), [&](const TableState& table, int64_t row, const float* gradient) {
          Rows::Take(table, row, gradient, dim(), scratch.data());
        });
      }
    });
    // What occurs once needs no sum: it is taken as the gradients lie in memory.
    pool->ParallelFor(chunks.size(), chunk_cost, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) TakeSingles(*grouping, chunks[c]);
    });
  }

  // Takes the step on rows that each occur once, without bags or weights.
  void RunDistinct(tensorflow::thread::ThreadPool* pool, int64_t total) {
    const std::vector<Chunk> chunks = Chunks(features_, kDistinctPerChunk);
    const int64_t cost = (total / static_cast<int64_t>(chunks.size()) + 1) * (40 + 2 * any_dim_);
    if (std::any_of(tables_.begin(), tables_.end(), [](const auto& t) { return std::isfinite(t.step.clipnorm); })) {
      std::vector<double> squares(chunks.size(), 0.0);
      pool->ParallelFor(chunks.size(), cost, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
          const float* const gradients = gradients_[chunks[c].feature];
          for (int64_t i = chunks[c].first_bag; i < chunks[c].last_bag; ++i) {
            squares[c] += SquaredNorm(gradients + i * dim(), dim());
          }
        }
      });
      std::vector<double> of_tables(tables_.size(), 0.0);
      for (size_t c = 0; c < chunks.size(); ++c) of_tables[features_[chunks[c].feature].table] += squares[c];
      ScaleBy(of_tables);
    }
    pool->ParallelFor(chunks.size(), cost, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const Chunk& chunk = chunks[c];
        Take(chunk.feature, chunk.last_bag - chunk.first_bag, [&](int64_t i) { return chunk.first_bag + i; });
      }
    });
  }

 private:
  // A thread's own, kept between calls.
  struct Scratch {
    std::vector<uint32_t> places, free_places, singles;
    std::vector<float> sums, clipped, row;
  };

  int64_t dim() const { return Rows::kWidth ? Rows::kWidth : any_dim_; }

  // The norm of a table's whole gradient is known only when all of it is summed: once for it, once to take the step.
  void ScaleByNorm(Grouping* grouping, tensorflow::thread::ThreadPool* pool, int64_t cost) {
    std::vector<std::vector<double>> squares(tables_.size(), std::vector<double>(kHashBins, 0.0));
    pool->ParallelFor(grouping->parts(), cost, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        SumRows<false>(grouping->part(p), [&](const TableState& state, int64_t row, const float* gradient) {
          const int table = static_cast<int>(&state - tables_.data());
          // A bin's rows are all of one part, and come in one order: its sum is the same for any number of parts.
          squares[table][HashBin(KeyOf(table, row))] += SquaredNorm(gradient, dim());
        });
      }
    });
    std::vector<double> of_tables(tables_.size(), 0.0);
    for (size_t t = 0; t < tables_.size(); ++t) {
      for (double square : squares[t]) of_tables[t] += square;
    }
    ScaleBy(of_tables);
  }

  // squares: of each table, its whole gradient's squared norm.
  void ScaleBy(const std::vector<double>& squares) {
    for (size_t t = 0; t < tables_.size(); ++t) {
      const double norm = std::sqrt(squares[t]);
      const float most = tables_[t].step.clipnorm;
      // a norm that is not finite makes the whole step so, as the twin's
      if (std::isfinite(most) && !(norm <= most)) tables_[t].norm_scale = static_cast<float>(most / norm);
    }
  }

  // What a chunk's ids that come more than once in it sum to.
  void SumRepeats(const Grouping& grouping, int64_t chunk) {
    const int f = grouping.chunks()[chunk].feature;
    const Feature& feature = features_[f];
    const float* const gradients = gradients_[f];
    const bool shared = feature.splits != nullptr || feature.weights != nullptr;
    int64_t bag_of_norm = -1;
    float norm = 1.0f;
    grouping.ForEachSummed(feature, chunk, [&](int64_t bag, int64_t i, int64_t number, bool first) {
      if (shared && bag != bag_of_norm) {
        norm = feature.Norm(bag);
        bag_of_norm = bag;
      }
      const float share = feature.weights ? feature.weights[i] * norm : norm;
      const float* __restrict g = gradients + bag * dim();
      float* __restrict sum = sums_ + number * dim();
      if (first) {
        for (int64_t d = 0; d < dim(); ++d) sum[d] = share * g[d];
      } else {
        for (int64_t d = 0; d < dim(); ++d) sum[d] += share * g[d];
      }
    });
  }

  // Calls `use(table, row, gradient)` for each row of a part that the part has to sum, its gradient clipped. One pass
  // over the occurrences as they came: a row that occurs once is used at once, one that occurs more often is summed in
  // a place of its own until its last occurrence.
  template <bool kFetches, typename Use>
  void SumRows(Part part, Use use) {
    Scratch& scratch = OfThread<Scratch>();
    uint32_t* const counts = part.Number();
    scratch.places.assign(part.rows(), UINT32_MAX);
    scratch.free_places.clear();
    scratch.clipped.resize(dim());
    std::vector<float>& sums = scratch.sums;
    std::vector<uint32_t>& free_places = scratch.free_places;
    uint32_t* const place_of_row = scratch.places.data();
    float* const clipped = scratch.clipped.data();
    const int64_t row_bytes = dim() * sizeof(float);
    const uint32_t ahead = static_cast<uint32_t>(Ahead(row_bytes));
    uint32_t places = 0;
    for (size_t f = 0; f < features_.size(); ++f) {
      const TableState& table = tables_[features_[f].table];
      const float* const gradient_of_bag = gradients_[f];
      const uint32_t begin = part.begin(f), end = part.end(f);
      auto gradient_of = [&](const Occurrence& o) {
        return o.source < kSummed ? gradient_of_bag + o.source * dim() : sums_ + (o.source & ~kSummed) * dim();
      };
      auto fetch = [&](uint32_t o) {
        const Occurrence& next = part.occurrences[o];
        FetchForReading(gradient_of(next), row_bytes);
        if (kFetches && counts[next.row] == 1) Rows::Fetch(table, IdOf(next.key), dim());
      };
      for (uint32_t o = begin; o < std::min(begin + ahead, end); ++o) fetch(o);
      for (uint32_t o = begin; o < end; ++o) {
        if (o + ahead < end) fetch(o + ahead);
        const Occurrence& here = part.occurrences[o];
        const float share = part.shares ? part.shares[o] : 1.0f;
        const float* __restrict g = gradient_of(here);
        const uint32_t left = counts[here.row]--;
        uint32_t& place = place_of_row[here.row];
        if (place == UINT32_MAX && left == 1) {
          use(table, IdOf(here.key), Clipped(table, share, g, clipped));
          continue;
        }
        if (place == UINT32_MAX) {
          if (free_places.empty()) {
            place = places++;
            if (sums.size() < static_cast<size_t>(places) * dim()) {
              sums.resize(std::max<size_t>(2 * sums.size(), 64 * dim()));
            }
          } else {
            place = free_places.back();
            free_places.pop_back();
          }
          float* __restrict sum = sums.data() + place * dim();
          for (int64_t d = 0; d < dim(); ++d) sum[d] = share * g[d];
          continue;
        }
        float* __restrict sum = sums.data() + place * dim();
        for (int64_t d = 0; d < dim(); ++d) sum[d] += share * g[d];
        if (left == 1) {
          use(table, IdOf(here.key), Clipped(table, 1.0f, sum, clipped));
          free_places.push_back(place);
        }
      }
    }
  }

  void TakeSingles(const Grouping& grouping, const Chunk& chunk) {
    const Feature& feature = features_[chunk.feature];
    const uint8_t* const single = grouping.singles(chunk.feature);
    if (single == nullptr) return;
    Scratch& scratch = OfThread<Scratch>();
    scratch.singles.resize(chunk.last_bag - chunk.first_bag);
    uint32_t* const places = scratch.singles.data();
    int64_t count = 0;
    for (int64_t bag = chunk.first_bag; bag < chunk.last_bag; ++bag) {
      places[count] = static_cast<uint32_t>(bag);
      count += single[bag];
    }
    Take(chunk.feature, count, [&](int64_t i) { return places[i]; });
  }

  // The step on rows that occur once: of a feature the ids at so many places, `place_of` says which.
  template <typename PlaceOf>
  void Take(int f, int64_t count, PlaceOf place_of) {
    Scratch& scratch = OfThread<Scratch>();
    scratch.clipped.resize(dim());
    scratch.row.resize((1 + kMostSlots) * dim());
    const Feature& feature = features_[f];
    const TableState& table = tables_[feature.table];
    const float* const gradients = gradients_[f];
    const int64_t row_bytes = dim() * sizeof(float), ahead = Ahead(row_bytes);
    auto fetch = [&](int64_t i) {
      FetchForReading(gradients + place_of(i) * dim(), row_bytes);
      Rows::Fetch(table, feature.ids[place_of(i)], dim());
    };
    for (int64_t i = 0; i < std::min(ahead, count); ++i) fetch(i);
    for (int64_t i = 0; i < count; ++i) {
      if (i + ahead < count) fetch(i + ahead);
      const float* gradient = gradients + place_of(i) * dim();
      Rows::Take(table, feature.ids[place_of(i)], Clipped(table, 1.0f, gradient, scratch.clipped.data()), dim(),
                 scratch.row.data());
    }
  }

  // The gradient times share, clipped: itself where nothing is to do.
  const float* Clipped(const TableState& table, float share, const float* __restrict g, float* __restrict result) const {
    const float factor = share * table.norm_scale, clip = table.step.clipvalue;
    if (share == 1.0f && !table.clips()) return g;
    for (int64_t d = 0; d < dim(); ++d) result[d] = std::min(std::max(factor * g[d], -clip), clip);
    return result;
  }

  const std::vector<Feature>& features_;
  const std::vector<const float*>& gradients_;
  std::vector<TableState>& tables_;
  const int64_t any_dim_;
  float* const sums_;
};

}  // namespace headrace

#endif  // HEADRACE_BACKWARD_H_
