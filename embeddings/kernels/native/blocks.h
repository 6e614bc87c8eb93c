// Blocks of rows that travel: those of each stream (a part of a table) to or from each rank.
#ifndef HEADRACE_BLOCKS_H_
#define HEADRACE_BLOCKS_H_

#include <vector>

#include "tensorflow/core/framework/op_kernel.h"

#include "precision.h"

namespace headrace {

// What every op on them is told: `first_columns` and `widths` of streams, in their table.
struct Streams {
  std::vector<int64_t> first_columns, widths;

  int64_t count() const { return static_cast<int64_t>(widths.size()); }

  tensorflow::Status Read(tensorflow::OpKernelConstruction* context) {
    TF_RETURN_IF_ERROR(context->GetAttr("first_columns", &first_columns));
    TF_RETURN_IF_ERROR(context->GetAttr("widths", &widths));
    if (first_columns.size() != widths.size()) {
      return tensorflow::errors::InvalidArgument("first_columns and widths: one for each stream is wanted");
    }
    for (size_t s = 0; s < widths.size(); ++s) {
      if (widths[s] < 1 || first_columns[s] < 0) {
        return tensorflow::errors::InvalidArgument("stream ", s, ": columns ", first_columns[s], " and on, ", widths[s],
                                                   " of them");
      }
    }
    return tensorflow::OkStatus();
  }
};

// [streams, ranks] int64, none negative.
inline tensorflow::Status CheckBlocks(const char* name, const tensorflow::Tensor& blocks, int64_t streams) {
  if (blocks.dims() != 2 || blocks.dim_size(0) != streams) {
    return tensorflow::errors::InvalidArgument(name, ": [", streams, " streams, ranks] are wanted, not ",
                                               blocks.shape().DebugString());
  }
  const auto flat = blocks.flat<int64_t>();
  for (int64_t i = 0; i < flat.size(); ++i) {
    if (flat(i) < 0) return tensorflow::errors::InvalidArgument(name, ": ", flat(i), " is negative");
  }
  return tensorflow::OkStatus();
}

inline tensorflow::Status Uncovered(const tensorflow::Tensor& received, const tensorflow::Tensor& sizes) {
  return tensorflow::errors::InvalidArgument("sizes do not cover what was received: ", received.shape().DebugString(),
                                             ", sizes ", sizes.SummarizeValue(16));
}

}  // namespace headrace

#endif  // HEADRACE_BLOCKS_H_
