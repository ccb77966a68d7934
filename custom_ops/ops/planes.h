// What MatMul and Gather share: attributes and constant planes, checked before the first byte of a plane is read.
#pragma once

#include "kernels/weights.h"
#include "ops/ort.h"

namespace onnxquant {

// The weight of a node: attributes K, N, block_size, and the constant inputs `first` (codes) and `first` + 1 (scales).
// The planes stay ONNX Runtime's; they live as long as the session. Throws Error.
Weights read_weights(const OrtApi& api, const OrtKernelInfo* info, const Format& format, std::size_t first);

// Number of elements in all but the last `without` dimensions. Throws Error when it overflows.
std::int64_t element_count(const Shape& shape, std::size_t without = 0);

}  // namespace onnxquant
