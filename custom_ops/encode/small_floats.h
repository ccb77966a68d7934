// 8-bit floats, a scale per row.
#pragma once

#include "encode/form.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Bits of a float that is no larger than the largest of kExponent and kMantissa bits, rounded to nearest even.
template <int kExponent, int kMantissa>
ONNXQUANT_INLINE std::uint32_t small_float(float x) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1, kDrop = 23 - kMantissa;
  const std::uint32_t bits = bits_of(x) & 0x7fffffffu, sign = bits_of(x) >> 24 & 0x80u;
  const std::uint32_t normal = ((bits + ((1u << (kDrop - 1)) - 1) + (bits >> kDrop & 1u)) >> kDrop) - ((127u - kBias) << kMantissa);
  // A float whose last bit weighs as much as the smallest subnormal: adding it rounds.
  const float step = float_of(static_cast<std::uint32_t>(127 + 23 + 1 - kBias - kMantissa) << 23);
  const std::uint32_t subnormal = bits_of(float_of(bits) + step) - bits_of(step);
  return sign | (bits < static_cast<std::uint32_t>(128 - kBias) << 23 ? subnormal : normal);
}

template <int kExponent, int kMantissa>
struct SmallFloat : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 0;
  static constexpr EncoderTraits kTraits{8, kUnit, ScaleType::kFloat, Side::kNone, kValueTable};

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    constexpr float kTop = kExponent == 4 ? 448.0f : 57344.0f;
    const float scale = peak(x, at.size) / kTop, inverse = reciprocal(scale);
    plane<float>(job.scales)[at.number] = scale;
    for (int i = 0; i < at.size; i += 16) {
      float values[16];
      store(values, inverse != 0 ? clip(multiply(load_16(x + i), splat_16(inverse)), -kTop, kTop) : splat_16(0.0f));
      Code some[16];
      for (int j = 0; j < 16; ++j) some[j] = static_cast<Code>(small_float<kExponent, kMantissa>(values[j]));
      std::memcpy(codes + i, some, sizeof some);
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_entries(codes, job.table, 256, plane<const float>(job.scales)[at.number], count, y);
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
