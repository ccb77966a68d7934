// ggml's Q6_K: 6-bit codes, int8 scales per 16, one float16 per 256.
#pragma once

#include "encode/super_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q6_k[] = {
    sided("q6_k", "Q6_K", 6, Values::kOffset, Side::kSignedFactors, 16, 16),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q6_k = SignedSuperBlock<6, 8, 2>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
