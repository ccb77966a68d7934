// 4-bit integers with one float16 scale per block, row or tensor.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int4{"int4", "Int4", 4, ScaleType::kHalf, kPerBlock | kPerRow | kPerTensor, 16, 256};

}  // namespace onnxquant::formats
