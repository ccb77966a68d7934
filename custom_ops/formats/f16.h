// IEEE binary16.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format f16[] = {
    floats("f16", "F16", Values::kHalf),
};

}  // namespace onnxquant::formats
