// ggml's q4_k and q5_k: super-blocks of 256 weights, with scales and minima of 6 bits per 32.
#pragma once

#include "encode/form.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

template <int kBits>
struct MinimumSuperBlock : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{kBits, kUnit, ScaleType::kHalf, Side::kSixBits};
  static constexpr float kTop = (1 << kBits) - 1, kMost = 63;

  struct Line {
    float scale, minimum, sum;
  };

  // Scale and minimum of 32 weights by least squares, the best of 13 grids.
  static ONNXQUANT_INLINE Line search(const float* x) {
    const Sixteen x0 = load_16(x), x1 = load_16(x + 16);
    const float low = least(smallest(smaller(x0, x1)), 0.0f), span = largest(larger(x0, x1)) - low;
    const float sx = sum(add(x0, x1));
    float scale = span / kTop, minimum = low, error = float_of(0x7f800000u);
    const Sixteen lows = splat_16(low), from0 = subtract(x0, lows), from1 = subtract(x1, lows);
    for (int t = -6; t <= 6; ++t) {
      const Sixteen inverse = splat_16(quotient(kTop + static_cast<float>(t) / 4.0f, span));
      const Sixteen q0 = clip(round_even(multiply(from0, inverse)), 0.0f, kTop), q1 = clip(round_even(multiply(from1, inverse)), 0.0f, kTop);
      const float n = sum(add(q0, q1)), nn = sum(add(multiply(q0, q0), multiply(q1, q1))), sqx = sum(add(multiply(x0, q0), multiply(x1, q1)));
      const float det = 32.0f * nn - n * n;
      if (!(det > 0)) continue;
      float a = (32.0f * sqx - sx * n) / det, b = (nn * sx - n * sqx) / det;
      if (b > 0) {
        a = sqx / nn;
        b = 0.0f;
      }
      const Sixteen d0 = subtract(add(multiply(splat_16(a), q0), splat_16(b)), x0), d1 = subtract(add(multiply(splat_16(a), q1), splat_16(b)), x1);
      const float e = sum(add(multiply(d0, d0), multiply(d1, d1)));
      if (e < error) {
        scale = a;
        minimum = b;
        error = e;
      }
    }
    return {scale, minimum, sx};
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    Line lines[8];
    float scale = 0, depth = 0;
    for (int s = 0; s < 8; ++s) {
      lines[s] = search(x + 32 * s);
      scale = most(lines[s].scale, scale);
      depth = most(-lines[s].minimum, depth);
    }
    const std::uint16_t half = lasting_half(scale / kMost), half_minimum = lasting_half(depth / kMost);
    const float d = from_half(half), dmin = from_half(half_minimum);
    for (int s = 0; s < 8; ++s) {
      const float sc = small(lines[s].scale, d);
      const float m = small(-(sc > 0 ? lines[s].minimum : least(lines[s].sum / 32.0f, 0.0f)), dmin);
      const Sixteen shift = splat_16(dmin * m), inverse = splat_16(quotient(1.0f, d * sc));
      for (int i = 32 * s; i < 32 * s + 32; i += 16) {
        store_codes(codes + i, clip(round_even(multiply(add(load_16(x + i), shift), inverse)), 0.0f, kTop));
      }
      plane<std::uint8_t>(job.subscales)[8 * at.number + s] = static_cast<std::uint8_t>(sc);
      plane<std::uint8_t>(job.subminima)[8 * at.number + s] = static_cast<std::uint8_t>(m);
    }
    plane<std::uint16_t>(job.scales)[at.number] = half;
    plane<std::uint16_t>(job.seconds)[at.number] = half_minimum;
  }
  static ONNXQUANT_INLINE float small(float x, float unit) { return clipped(rounded(quotient(x, unit)), 0.0f, kMost); }

  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    const float d = from_half(plane<const std::uint16_t>(job.scales)[at.number]);
    const float dmin = from_half(plane<const std::uint16_t>(job.seconds)[at.number]);
    for (int i = 0; i < count; i += 16) {
      const std::int64_t sub_block = 8 * at.number + (from + i) / 32;
      const Sixteen step = splat_16(d * plane<const std::uint8_t>(job.subscales)[sub_block]);
      const Sixteen shift = splat_16(dmin * plane<const std::uint8_t>(job.subminima)[sub_block]);
      store(y + i, subtract(multiply(load_bytes_16(codes + i), step), shift));
    }
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
