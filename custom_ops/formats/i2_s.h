// BitNet's I2_S: ternary weights as codes of 2 bits with one float32 scale per tensor.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format i2_s[] = {
    scaled("i2_s", "I2_S", 2, ScaleType::kFloat, kPerTensor, 16, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct i2_s : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{2, kUnit, ScaleType::kFloat, Side::kNone, kSharedScale};

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float scale = job.shared[0];
    for (int i = 0; i < at.size; i += 16) {
      const Sixteen trits = scale > 0 ? clip(round_even(divide(load_16(x + i), splat_16(scale))), -1.0f, 1.0f) : splat_16(0.0f);
      store_codes(codes + i, add(trits, splat_16(2.0f)));
    }
    *plane<float>(job.scales) = scale;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group&, std::int64_t, int count, float* y) const {
    scale_codes(codes, 2.0f, *plane<const float>(job.scales), count, y);
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
