// ggml's blocks: a float16 scale, and perhaps a minimum. Codes are found by the unrounded scale.
#pragma once

#include "encode/form.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// q4_0, q5_0, q8_0, tq2_0: codes around an offset.
template <int kBits, int kSize>
struct GgmlBlock : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = kSize;
  static constexpr EncoderTraits kTraits{kBits, kUnit, ScaleType::kHalf, Side::kNone};
  static constexpr bool kBatches = kSize == 32;
  static constexpr int kOffset = 1 << (kBits - 1);

  static constexpr bool kByExtreme = kBits == 4 || kBits == 5, kPeak = !kByExtreme;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const Range of = range<kPeak>(x, kSize);
    write(x, prepare(of.low, of.high, x, at), codes);
  }
  ONNXQUANT_INLINE Grid prepare(float low, float high, const float* x, const Group& at) const {
    float scale = high;
    if constexpr (kByExtreme) {
      scale = high > -low ? high : low;
      if (high == -low) scale = extreme(x, kSize);
      scale /= -kOffset;
    } else if constexpr (kBits == 8) {
      scale /= 127.0f;
    }
    plane<std::uint16_t>(job.scales)[at.number] = to_half(scale);
    return {reciprocal(scale), 0.0f};
  }
  ONNXQUANT_INLINE void write(const float* x, Grid grid, Code* codes) const {
    for (int i = 0; i < kSize; i += 16) {
      const Sixteen scaled = multiply(load_16(x + i), splat_16(grid.inverse));
      if constexpr (kByExtreme) {
        store_codes(codes + i, smaller(add(scaled, splat_16(kOffset + 0.5f)), splat_16(2 * kOffset - 1)));
      } else {
        store_signed(codes + i, before_truncation(scaled), kOffset);
      }
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_codes(codes, kOffset, from_half(plane<const std::uint16_t>(job.scales)[at.number]), count, y);
  }
};

// q4_1, q5_1: a scale and a minimum.
template <int kBits>
struct Minimum : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 32;
  static constexpr EncoderTraits kTraits{kBits, kUnit, ScaleType::kHalf, Side::kMinima};
  static constexpr bool kBatches = true;

  static constexpr bool kPeak = false;
  static constexpr float kTop = (1 << kBits) - 1;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const Range of = range<kPeak>(x, kUnit);
    write(x, prepare(of.low, of.high, x, at), codes);
  }
  ONNXQUANT_INLINE Grid prepare(float low, float high, const float* x, const Group& at) const {
    if (low == 0) {  // of zeros of both signs the first one, as in ggml
      int first = 0;
      while (x[first] != 0) ++first;
      low = x[first];
    }
    const float scale = ((high + 0.0f) - low) / kTop;
    plane<std::uint16_t>(job.scales)[at.number] = to_half(scale);
    plane<std::uint16_t>(job.seconds)[at.number] = to_half(low);
    return {reciprocal(scale), low};
  }
  ONNXQUANT_INLINE void write(const float* x, Grid grid, Code* codes) const {
    for (int i = 0; i < kUnit; i += 16) {
      const Sixteen code = add(multiply(subtract(load_16(x + i), splat_16(grid.zero)), splat_16(grid.inverse)), splat_16(0.5f));
      store_codes(codes + i, smaller(code, splat_16(kTop)));
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    const Sixteen scale = splat_16(from_half(plane<const std::uint16_t>(job.scales)[at.number]));
    const Sixteen minimum = splat_16(from_half(plane<const std::uint16_t>(job.seconds)[at.number]));
    for (int i = 0; i < count; i += 16) store(y + i, add(multiply(load_bytes_16(codes + i), scale), minimum));
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
