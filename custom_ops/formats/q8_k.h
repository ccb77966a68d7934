// ggml's Q8_K: blocks of 256 codes of 8 bits with one float32 scale.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q8_k[] = {
    scaled("q8_k", "Q8_K", 8, ScaleType::kFloat, kPerBlock, 128, 256),
};

}  // namespace onnxquant::formats
