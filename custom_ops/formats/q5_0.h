// ggml's Q5_0: blocks of 32 codes of 5 bits with one float16 scale.
#pragma once

#include "encode/ggml_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q5_0[] = {
    scaled("q5_0", "Q5_0", 5, ScaleType::kHalf, kPerBlock, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q5_0 = GgmlBlock<5, 32>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
