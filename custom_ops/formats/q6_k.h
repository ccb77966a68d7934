// ggml's Q6_K: 6-bit codes, int8 scales per 16, one float16 per 256.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format q6_k[] = {
    sided("q6_k", "Q6_K", 6, Values::kOffset, Side::kSignedFactors, 16, 16),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct q6_k : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{6, kUnit, ScaleType::kHalf, Side::kSignedFactors};

  // Scale of 16 weights by least squares, the best of 17 grids.
  static ONNXQUANT_INLINE float search(const float* from) {
    const Sixteen x = load_16(from);
    const float top = extreme(from, 16);
    float scale = top / -32.0f, gain = -1.0f;
    for (int t = -8; t <= 8; ++t) {
      const Sixteen q = clip(round_even(multiply(x, splat_16(quotient(-(32.0f + static_cast<float>(t) / 2.0f), top)))), -32.0f, 31.0f);
      const float nn = sum(multiply(q, q)), sqx = sum(multiply(x, q));
      if (!(nn > 0)) continue;
      const float g = (sqx * sqx) / nn;
      if (g > gain) {
        scale = sqx / nn;
        gain = g;
      }
    }
    return scale;
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    float scales[16];
    for (int s = 0; s < 16; ++s) scales[s] = search(x + 16 * s);
    const std::uint16_t half = lasting_half(extreme(scales, 16) / -128.0f);
    const float d = from_half(half);
    for (int s = 0; s < 16; ++s) {
      const float sc = clipped(rounded(quotient(scales[s], d)), -128.0f, 127.0f);
      const Sixteen inverse = splat_16(quotient(1.0f, d * sc));
      const Sixteen q = clip(round_even(multiply(load_16(x + 16 * s), inverse)), -32.0f, 31.0f);
      store_codes(codes + 16 * s, add(q, splat_16(32.0f)));
      plane<std::int8_t>(job.subscales)[16 * at.number + s] = static_cast<std::int8_t>(sc);
    }
    plane<std::uint16_t>(job.scales)[at.number] = half;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    const float d = from_half(plane<const std::uint16_t>(job.scales)[at.number]);
    for (int i = 0; i < count; i += 16) {
      const std::int8_t sc = plane<const std::int8_t>(job.subscales)[16 * at.number + (from + i) / 16];
      store(y + i, multiply(subtract(load_bytes_16(codes + i), splat_16(32.0f)), splat_16(d * sc)));
    }
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
