// 2-bit integers with one float16 scale per block, row or tensor, and perhaps a zero point.
#pragma once

#include "encode/integers.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int2[] = {
    scaled("int2", "Int2", 2, ScaleType::kHalf, kAnyGranularity, 16, 256),
    zeroed("int2_zero", "Int2Zero", 2, Side::kZeroCodes, kAnyGranularity, 16, 256),
    zeroed("int2_float_zero", "Int2FloatZero", 2, Side::kZeroHalves, kAnyGranularity, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using int2 = Integers<2>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
