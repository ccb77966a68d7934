// ggml's Q4_0: blocks of 32 codes of 4 bits with one float16 scale.
#pragma once

#include "encode/ggml_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q4_0[] = {
    scaled("q4_0", "Q4_0", 4, ScaleType::kHalf, kPerBlock, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q4_0 = GgmlBlock<4, 32>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
