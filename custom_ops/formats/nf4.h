// bitsandbytes' NF4: 4-bit codes of a table, one float32 scale per block, which may be quantized itself.
#pragma once

#include "encode/levels.h"
#include "kernels/format.h"

namespace onnxquant::formats {

// QLoRA's 4-bit NormalFloat (Dettmers et al. 2023, appendix E).
inline constexpr float kNf4Values[16] = {
    -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f, 0.0795803f,
    0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f,
};
inline constexpr std::int16_t kNf4Fine[16] = {
    -16383, -11406, -8602, -6470, -4660, -3027, -1492, 0, 1304, 2637, 4032, 5536, 7220, 9217, 11844, 16383,
};
inline constexpr Table kNf4{kNf4Values, kNf4Fine, 1.0f / 16383.0f};

inline constexpr Format nf4[] = {
    looked_up("nf4", "NF4", 4, kNf4, ScaleType::kFloat, kPerBlock, 32, 128),
    looked_up("nf4_double", "NF4Double", 4, kNf4, ScaleType::kNested, kPerBlock, 32, 128),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {

using nf4 = Levels<4>;

}  // namespace onnxquant::ONNXQUANT_ISA::encoders
