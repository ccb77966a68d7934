// ggml's Q3_K: 3-bit codes, signed 6-bit scales per 16, one float16 per 256.
#pragma once

#include "encode/super_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q3_k[] = {
    sided("q3_k", "Q3_K", 3, Values::kOffset, Side::kSignedSixBits, 16, 16),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q3_k = SignedSuperBlock<3, 6, 8>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
