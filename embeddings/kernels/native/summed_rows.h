// Gradients summed by row, row by row in the order they come, by any number of threads to the same bits.
#ifndef HEADRACE_SUMMED_ROWS_H_
#define HEADRACE_SUMMED_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "precision.h"

namespace headrace {

// Some rows of one matrix of sums, the `of`-th: the unit of work. Units are cut by the number of threads, but whoever sums
// a unit goes through all that comes to its matrix, in order: the bits of a row do not depend on the cut.
struct SummedRows {
  int of;
  int64_t first, count;
};

// Every row in one unit. rows, comers: of each matrix, its rows and how many gradients come to them.
inline std::vector<SummedRows> CutRows(const std::vector<int64_t>& rows, const std::vector<int64_t>& comers, int threads) {
  constexpr int64_t kComersPerUnit = 4096;  // as many as make a unit worth its start
  int64_t total = 0;
  for (int64_t of_matrix : comers) total += of_matrix;
  const int64_t fair = threads > 1 ? std::max(kComersPerUnit, total / (4 * threads)) : std::max<int64_t>(total, 1);
  std::vector<SummedRows> units;
  for (size_t m = 0; m < rows.size(); ++m) {
    const int64_t cuts = std::max<int64_t>(1, std::min((comers[m] + fair - 1) / fair, rows[m]));
    const int64_t most = (rows[m] + cuts - 1) / cuts;
    for (int64_t first = 0; first < rows[m]; first += most) {
      units.push_back({static_cast<int>(m), first, std::min(most, rows[m] - first)});
    }
  }
  return units;
}

// The first that comes to a row, and those after it, times a share.
template <typename From>
inline void PutTo(float* __restrict sum, const From* __restrict gradient, float share, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) sum[d] = AsFloat(gradient[d]) * share;
}

template <typename From>
inline void AddTo(float* __restrict sum, const From* __restrict gradient, float share, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) sum[d] += AsFloat(gradient[d]) * share;
}

}  // namespace headrace

#endif  // HEADRACE_SUMMED_ROWS_H_
