// BitNet's I2_S: ternary weights as codes of 2 bits with one float32 scale per tensor.
#pragma once

#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format i2_s[] = {
    scaled("i2_s", "I2_S", 2, ScaleType::kFloat, kPerTensor, 16, 256),
};

}  // namespace onnxquant::formats
