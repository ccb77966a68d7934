// 8-bit floats with 4 exponent and 3 mantissa bits, one float32 scale per row.
#pragma once

#include "encode/small_floats.h"
#include "kernels/tables.h"

namespace onnxquant::formats {

inline constexpr Format f8_e4m3[] = {
    looked_up("f8_e4m3", "F8_E4M3", 8, tables::kE4m3, ScaleType::kFloat, kPerRow, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using f8_e4m3 = SmallFloat<4, 3>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
