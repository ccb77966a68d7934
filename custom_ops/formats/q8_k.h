// ggml's Q8_K: blocks of 256 codes of 8 bits with one float32 scale.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q8_k[] = {
    scaled("q8_k", "Q8_K", 8, ScaleType::kFloat, kPerBlock, 128, 256),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct q8_k : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{8, kUnit, ScaleType::kFloat, Side::kNone};

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float inverse = quotient(-127.0f, extreme(x, 256)), scale = reciprocal(inverse);
    for (int i = 0; i < 256; i += 16) {
      const Sixteen q = smaller(round_even(multiply(splat_16(inverse), load_16(x + i))), splat_16(127.0f));
      store_codes(codes + i, add(q, splat_16(128.0f)));
    }
    plane<float>(job.scales)[at.number] = finite(scale * 127.0f) ? scale : float_of(0x7f800000u);
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_codes(codes, 128.0f, plane<const float>(job.scales)[at.number], count, y);
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
