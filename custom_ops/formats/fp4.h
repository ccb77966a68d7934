// bitsandbytes' FP4: 4-bit codes of a table, one float32 scale per block, which may be quantized itself.
#pragma once

#include "kernels/tables.h"

namespace onnxquant::formats {

inline constexpr Format fp4[] = {
    looked_up("fp4", "FP4", 4, tables::kFp4, ScaleType::kFloat, kPerBlock, 32, 128),
    looked_up("fp4_double", "FP4Double", 4, tables::kFp4, ScaleType::kNested, kPerBlock, 32, 128),
};

}  // namespace onnxquant::formats
