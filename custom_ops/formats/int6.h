// 6-bit integers with one float16 scale per block, row or tensor, and perhaps a zero point.
#pragma once

#include "encode/integers.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int6[] = {
    scaled("int6", "Int6", 6, ScaleType::kHalf, kAnyGranularity, 16, 256),
    zeroed("int6_zero", "Int6Zero", 6, Side::kZeroCodes, kAnyGranularity, 16, 256),
    zeroed("int6_float_zero", "Int6FloatZero", 6, Side::kZeroHalves, kAnyGranularity, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using int6 = Integers<6>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
