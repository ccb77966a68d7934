// 4-bit integers with one float16 scale per block, row or tensor, and perhaps a zero point.
#pragma once

#include "encode/integers.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int4[] = {
    scaled("int4", "Int4", 4, ScaleType::kHalf, kAnyGranularity, 16, 256),
    zeroed("int4_zero", "Int4Zero", 4, Side::kZeroCodes, kAnyGranularity, 16, 256),
    zeroed("int4_float_zero", "Int4FloatZero", 4, Side::kZeroHalves, kAnyGranularity, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using int4 = Integers<4>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
