// ggml's Q5_K: 5-bit codes, 6-bit scales and minima per 32, two float16 per 256.
#pragma once

#include "encode/super_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q5_k[] = {
    sided("q5_k", "Q5_K", 5, Values::kUnsigned, Side::kSixBits, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q5_k = MinimumSuperBlock<5, 32, 6, 4>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
