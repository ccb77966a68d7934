// bfloat16.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format bf16[] = {
    floats("bf16", "BF16", Values::kBfloat),
};

}  // namespace onnxquant::formats
