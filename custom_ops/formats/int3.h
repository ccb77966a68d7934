// 3-bit integers with one float16 scale per block, row or tensor, and perhaps a zero point.
#pragma once

#include "encode/integers.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format int3[] = {
    scaled("int3", "Int3", 3, ScaleType::kHalf, kAnyGranularity, 32, 256),
    zeroed("int3_zero", "Int3Zero", 3, Side::kZeroCodes, kAnyGranularity, 32, 256),
    zeroed("int3_float_zero", "Int3FloatZero", 3, Side::kZeroHalves, kAnyGranularity, 32, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using int3 = Integers<3>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
