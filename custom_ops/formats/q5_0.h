// ggml's Q5_0: blocks of 32 codes of 5 bits with one float16 scale.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q5_0[] = {
    scaled("q5_0", "Q5_0", 5, ScaleType::kHalf, kPerBlock, 32, 32),
};

}  // namespace onnxquant::formats
