// Y = X W^T for an encoded W, and rows of W itself.
#pragma once

#include <cstdint>

#include "isa/dispatch.h"
#include "kernels/parallel.h"
#include "kernels/weights.h"

namespace onnxquant {

enum class Compute { kInt8, kFloat };

// "int8" or "float32"; throws Error for anything else.
Compute parse_compute(const char* name);

// A matrix of M rows, float or float16, without gaps.
struct Matrix {
  void* values;
  std::int64_t M;
  bool half;
};

// Each element of Y is computed in one piece of work and in one order of k: threads do not change it.
// X is [M, K], Y is [M, N], the bias [N] or null, of the same type. Throws std::bad_alloc, and what `parallel` throws.
void matmul(const InstructionSet& set, const Weights& weights, Compute compute, const Matrix& x, const void* bias,
            const Matrix& y, Parallel& parallel);

// out[i] = channel indices[i], which the caller has checked to be in [0, N).
void gather(const Weights& weights, const std::int64_t* indices, std::int64_t count, float* out, Parallel& parallel);

}  // namespace onnxquant
