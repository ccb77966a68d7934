// bitsandbytes' FP4: 4-bit codes of a table, one float32 scale per block, which may be quantized itself.
#pragma once

#include "encode/levels.h"
#include "kernels/format.h"

namespace onnxquant::formats {

// bitsandbytes' 4-bit floats: multiples of 1/192, which the integers are exactly.
inline constexpr float kFp4Values[16] = {
    0.0f, 0.0052083335f, 0.6666667f, 1.0f, 0.33333334f, 0.5f, 0.16666667f, 0.25f, -0.0f, -0.0052083335f, -0.6666667f,
    -1.0f, -0.33333334f, -0.5f, -0.16666667f, -0.25f,
};
inline constexpr std::int16_t kFp4Fine[16] = {
    0, 85, 10880, 16320, 5440, 8160, 2720, 4080, 0, -85, -10880, -16320, -5440, -8160, -2720, -4080,
};
inline constexpr Table kFp4{kFp4Values, kFp4Fine, 1.0f / 16320.0f};

inline constexpr Format fp4[] = {
    looked_up("fp4", "FP4", 4, kFp4, ScaleType::kFloat, kPerBlock, 32, 128),
    looked_up("fp4_double", "FP4Double", 4, kFp4, ScaleType::kNested, kPerBlock, 32, 128),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using fp4 = Levels<4>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
