// OCP microscaling MXFP4, as ggml has it: blocks of 32 floats of 4 bits (E2M1) with one power of two (E8M0).
#pragma once

#include "encode/form.h"
#include "kernels/format.h"
#include "kernels/half.h"

namespace onnxquant::formats {

// Zero has no sign: code 8 is what code 0 is, as in ggml.
inline constexpr float kE2m1Values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};
inline constexpr std::int16_t kE2m1Integers[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr Table kE2m1{kE2m1Values, kE2m1Integers, 0.5f};

inline constexpr Format mxfp4[] = {
    looked_up("mxfp4", "MXFP4", 4, kE2m1, ScaleType::kExponent, kPerBlock, 32, 32),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct mxfp4 : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 32;
  static constexpr EncoderTraits kTraits{4, kUnit, ScaleType::kExponent, Side::kNone};

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const std::uint8_t exponent = exponent_of(peak(x, kUnit));
    plane<std::uint8_t>(job.scales)[at.number] = exponent;
    const float scale = power_of_two(exponent);
    for (int i = 0; i < kUnit; i += 16) {
      const Sixteen some = load_16(x + i), size = magnitude(some), none = splat_16(0.0f);
      Sixteen code = none;
      for (int level = 1; level < 8; ++level) {
        const float bound = (formats::kE2m1Values[level - 1] + formats::kE2m1Values[level]) / 2.0f * scale;
        code = select(above(size, splat_16(bound)), splat_16(static_cast<float>(level)), code);
      }
      const Sixteen sign = select(above(none, some), splat_16(8.0f), none);
      store_codes(codes + i, add(code, select(above(code, none), sign, none)));
    }
  }
  // floor(log2(top)) + 125, where the logarithm is that of float32: what lies so closely below a power of two that it is rounded to
  // it counts as that power. At least 0, where ggml wraps around, and at most 252, beyond which codes would stand for infinity.
  static ONNXQUANT_INLINE std::uint8_t exponent_of(float top) {
    const auto bits = static_cast<std::int32_t>(bits_of(top)), floor = bits >> 23, below = 0x800000 - (bits & 0x7fffff);
    const std::int32_t next = floor - 126;  // the exponent of the power of two above
    std::int32_t size = next < 0 ? -next : next, step = 1;
    if (next > 0 && (size & (size - 1)) == 0) size /= 2;  // floats are closer together below than above it
    while (2 * step <= size) step *= 2;
    const auto lifted = static_cast<std::int32_t>(static_cast<float>(size == 0 ? 0 : step) * 0x1.62e43p-1f);
    const std::int32_t exponent = floor - 2 + (below <= lifted);
    return static_cast<std::uint8_t>(exponent < 0 ? 0 : exponent > 252 ? 252 : exponent);
  }

  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_entries(codes, formats::kE2m1Values, 16, power_of_two(plane<const std::uint8_t>(job.scales)[at.number]), count, y);
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
