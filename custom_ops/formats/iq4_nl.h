// ggml's IQ4_NL: blocks of 32 codes of 4 bits that choose from a table of unevenly spaced integers, with one float16 scale.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr std::int16_t kIq4Integers[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr Table kIq4{kIq4Values, kIq4Integers, 1.0f};

inline constexpr Format iq4_nl[] = {
    looked_up("iq4_nl", "IQ4_NL", 4, kIq4, ScaleType::kHalf, kPerBlock, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct iq4_nl : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 32;
  static constexpr EncoderTraits kTraits{4, kUnit, ScaleType::kHalf, Side::kNone};
  static constexpr Code kZero = 8;  // the code nearest to zero

  // Codes by the largest weight, which is to become -127; then the scale that makes the squared error, weighted by the squares of
  // the weights, least. Sums go from the first weight to the last, as in ggml.
  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float top = extreme(x, kUnit);
    float weights[kUnit], values[kUnit];
    if (absolute(top) < 1e-15f) {
      std::memset(codes, kZero, kUnit);
      plane<std::uint16_t>(job.scales)[at.number] = 0;
      return;
    }
    const Sixteen inverse = splat_16(1.0f / (top / formats::kIq4Values[0]));
    for (int i = 0; i < kUnit; i += 16) {
      const Sixteen some = load_16(x + i);
      const Sixteen value = nearest(multiply(inverse, some), codes + i), weighted = multiply(multiply(some, some), value);
      store(weights + i, multiply(weighted, some));
      store(values + i, multiply(weighted, value));
    }
    float weight = 0.0f, square = 0.0f;
    for (int i = 0; i < kUnit; ++i) {
      weight += weights[i];
      square += values[i];
    }
    plane<std::uint16_t>(job.scales)[at.number] = to_half(weight / square);
  }
  // The values nearest to x, of two equally near ones the larger, and their codes.
  static ONNXQUANT_INLINE Sixteen nearest(Sixteen x, Code* codes) {
    Sixteen code = splat_16(0.0f), value = splat_16(formats::kIq4Values[0]);
    for (int i = 1; i < 16; ++i) {
      const float level = formats::kIq4Values[i], bound = (formats::kIq4Values[i - 1] + level) / 2.0f;
      const SixteenMask below = above(splat_16(bound), x);
      code = select(below, code, splat_16(static_cast<float>(i)));
      value = select(below, value, splat_16(level));
    }
    store_codes(codes, code);
    return value;
  }

  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_entries(codes, formats::kIq4Values, 16, from_half(plane<const std::uint16_t>(job.scales)[at.number]), count, y);
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
