// 8-bit integers with one float16 scale per block, row or tensor, and perhaps a zero point.
#pragma once

#include "encode/integers.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int8[] = {
    scaled("int8", "Int8", 8, ScaleType::kHalf, kAnyGranularity, 16, 256),
    zeroed("int8_zero", "Int8Zero", 8, Side::kZeroCodes, kAnyGranularity, 16, 256),
    zeroed("int8_float_zero", "Int8FloatZero", 8, Side::kZeroHalves, kAnyGranularity, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using int8 = Integers<8>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
