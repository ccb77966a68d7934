// 8-bit integers with one float16 scale per block, row or tensor.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int8{"int8", "Int8", 8, ScaleType::kHalf, kPerBlock | kPerRow | kPerTensor, 16, 256};

}  // namespace onnxquant::formats
