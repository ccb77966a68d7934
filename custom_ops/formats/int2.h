// 2-bit integers with one float16 scale per block, row or tensor.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int2{"int2", "Int2", 2, ScaleType::kHalf, kPerBlock | kPerRow | kPerTensor, 16, 256};

}  // namespace onnxquant::formats
