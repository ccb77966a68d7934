// ggml's Q5_1: blocks of 32 codes of 5 bits with a float16 scale and a float16 minimum.
#pragma once

#include "encode/ggml_blocks.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q5_1[] = {
    sided("q5_1", "Q5_1", 5, Values::kUnsigned, Side::kMinima, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using q5_1 = Minimum<5>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
