// 5-bit integers with one float16 scale per block, row or tensor, and perhaps a zero point.
#pragma once

#include "encode/integers.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int5[] = {
    scaled("int5", "Int5", 5, ScaleType::kHalf, kAnyGranularity, 32, 256),
    zeroed("int5_zero", "Int5Zero", 5, Side::kZeroCodes, kAnyGranularity, 32, 256),
    zeroed("int5_float_zero", "Int5FloatZero", 5, Side::kZeroHalves, kAnyGranularity, 32, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using int5 = Integers<5>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
