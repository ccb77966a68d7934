// ggml's Q8_0: blocks of 32 codes of 8 bits with one float16 scale.
#pragma once

#include "encode/ggml_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q8_0[] = {
    scaled("q8_0", "Q8_0", 8, ScaleType::kHalf, kPerBlock, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q8_0 = GgmlBlock<8, 32>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
