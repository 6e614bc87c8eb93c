// Buffers that grow in place: addresses are reserved once, and memory is added at the end.
#ifndef HEADRACE_GROWING_H_
#define HEADRACE_GROWING_H_

#include <vector>

#include "tensorflow/core/framework/tensor.h"

namespace headrace {

// Makes every tensor, [rows, ...], `wanted` rows long, not fewer than it has; all of them, or on an error none. A buffer
// that cannot grow, such as a restored one, is copied once into one that can. What is added is zeros.
tensorflow::Status Grow(const std::vector<tensorflow::Tensor*>& tensors, int64_t wanted);

}  // namespace headrace

#endif  // HEADRACE_GROWING_H_
