// ggml's TQ1_0: ternary weights as codes of 2 bits with one float16 scale per 256, the planes of tq2_0.
#pragma once

#include "encode/ggml_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format tq1_0[] = {
    scaled("tq1_0", "TQ1_0", 2, ScaleType::kHalf, kPerBlock, 128, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using tq1_0 = GgmlBlock<2, 256>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
