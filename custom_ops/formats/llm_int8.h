// LLM.int8: one float32 scale per row, outlier columns in float16.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format llm_int8[] = {
    {"llm_int8", "LLM_Int8", 8, Values::kOffset, ScaleType::kFloat, Side::kOutliers, kPerRow, 16, 256, nullptr},
};

}  // namespace onnxquant::formats
