// ggml's Q4_K: 4-bit codes, 6-bit scales and minima per 32, two float16 per 256.
#pragma once

#include "encode/super_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q4_k[] = {
    sided("q4_k", "Q4_K", 4, Values::kUnsigned, Side::kSixBits, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q4_k = MinimumSuperBlock<4, 32, 6, 4>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
