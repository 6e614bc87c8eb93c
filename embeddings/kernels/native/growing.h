// Buffers that grow in place: addresses are reserved once, memory is added at the end, and nothing is ever copied.
#ifndef HEADRACE_GROWING_H_
#define HEADRACE_GROWING_H_

#include "tensorflow/core/framework/tensor.h"

namespace headrace {

// Makes `tensor`, [rows, ...], `wanted` rows long, not fewer than it has. A buffer that cannot grow, such as a restored
// one, is copied once into one that can. What is added is zeros.
tensorflow::Status Grow(tensorflow::Tensor* tensor, int64_t wanted);

}  // namespace headrace

#endif  // HEADRACE_GROWING_H_
