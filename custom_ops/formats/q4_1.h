// ggml's Q4_1: blocks of 32 codes of 4 bits with a float16 scale and a float16 minimum.
#pragma once

#include "encode/ggml_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q4_1[] = {
    sided("q4_1", "Q4_1", 4, Values::kUnsigned, Side::kMinima, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q4_1 = Minimum<4>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
