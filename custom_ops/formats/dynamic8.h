// bitsandbytes' signed dynamic map: 8-bit codes of a table, one float32 scale per block.
#pragma once

#include "encode/levels.h"
#include "kernels/tables.h"

namespace onnxquant::formats {

inline constexpr Format dynamic8[] = {
    looked_up("dynamic8", "Dynamic8", 8, tables::kDynamic8, ScaleType::kFloat, kPerBlock, 32, 128),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using dynamic8 = Levels<8>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
