// 8-bit floats with 5 exponent and 2 mantissa bits, one float32 scale per row.
#pragma once

#include "encode/small_floats.h"
#include "kernels/tables.h"

namespace onnxquant::formats {

inline constexpr Format f8_e5m2[] = {
    looked_up("f8_e5m2", "F8_E5M2", 8, tables::kE5m2, ScaleType::kFloat, kPerRow, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using f8_e5m2 = SmallFloat<5, 2>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
