// ggml's Q2_K: 2-bit codes, 4-bit scales and minima per 16, two float16 per 256.
#pragma once

#include "encode/super_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q2_k[] = {
    sided("q2_k", "Q2_K", 2, Values::kUnsigned, Side::kFourBits, 16, 16),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q2_k = MinimumSuperBlock<2, 16, 4, 8>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
