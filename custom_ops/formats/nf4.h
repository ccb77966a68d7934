// bitsandbytes' NF4: 4-bit codes of a table, one float32 scale per block, which may be quantized itself.
#pragma once

#include "kernels/tables.h"

namespace onnxquant::formats {

inline constexpr Format nf4[] = {
    looked_up("nf4", "NF4", 4, tables::kNf4, ScaleType::kFloat, kPerBlock, 32, 128),
    looked_up("nf4_double", "NF4Double", 4, tables::kNf4, ScaleType::kNested, kPerBlock, 32, 128),
};

}  // namespace onnxquant::formats
