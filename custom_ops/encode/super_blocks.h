// ggml's K-quants: super-blocks of 256 weights, whose sub-blocks have scales of a few bits, and perhaps minima.
#pragma once

#include "encode/form.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// q2_k, q4_k, q5_k: scales and minima. The encoder tries scales that are 1 / kFineness of a code apart.
template <int kBits, int kSubBlock, int kFactorBits, int kFineness>
struct MinimumSuperBlock : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static_assert(kSubBlock == 16 || kSubBlock == 32, "one vector or two");
  static constexpr int kUnit = 256, kSubBlocks = kUnit / kSubBlock;
  static constexpr EncoderTraits kTraits{kBits, kUnit, ScaleType::kHalf, kFactorBits == 6 ? Side::kSixBits : Side::kFourBits};
  static constexpr float kTop = (1 << kBits) - 1, kMost = (1 << kFactorBits) - 1, kCount = kSubBlock;

  struct Line {
    float scale, minimum, sum;
  };

  // The vectors of a sub-block, and the sum of all their elements, in halves.
  struct Vectors {
    Sixteen at[kSubBlock / 16];
    ONNXQUANT_INLINE float total() const {
      if constexpr (kSubBlock == 32) return sum(add(at[0], at[1]));
      return sum(at[0]);
    }
  };
  template <class Function>
  static ONNXQUANT_INLINE Vectors vectors(const Function& function) {
    Vectors out;
    for (int v = 0; v < kSubBlock / 16; ++v) out.at[v] = function(v);
    return out;
  }

  // Scale and minimum of a sub-block by least squares, the best of 13 grids.
  static ONNXQUANT_INLINE Line search(const float* from) {
    const Vectors x = vectors([&](int v) { return load_16(from + 16 * v); });
    Sixteen lows = x.at[0], highs = x.at[0];
    if constexpr (kSubBlock == 32) {
      lows = smaller(lows, x.at[1]);
      highs = larger(highs, x.at[1]);
    }
    const float low = least(smallest(lows), 0.0f), span = largest(highs) - low, sx = x.total();
    float scale = span / kTop, minimum = low, error = float_of(0x7f800000u);
    const Sixteen base = splat_16(low);
    const Vectors above = vectors([&](int v) { return subtract(x.at[v], base); });
    for (int t = -6; t <= 6; ++t) {
      const Sixteen inverse = splat_16(quotient(kTop + static_cast<float>(t) / kFineness, span));
      const Vectors q = vectors([&](int v) { return clip(round_even(multiply(above.at[v], inverse)), 0.0f, kTop); });
      const float sq = q.total(), qq = vectors([&](int v) { return multiply(q.at[v], q.at[v]); }).total();
      const float sqx = vectors([&](int v) { return multiply(x.at[v], q.at[v]); }).total();
      const float det = kCount * qq - sq * sq;
      if (!(det > 0)) continue;
      float a = (kCount * sqx - sx * sq) / det, b = (qq * sx - sq * sqx) / det;
      if (b > 0) {
        a = sqx / qq;
        b = 0.0f;
      }
      const Sixteen slope = splat_16(a), start = splat_16(b);
      const float e = vectors([&](int v) {
                        const Sixteen d = subtract(add(multiply(slope, q.at[v]), start), x.at[v]);
                        return multiply(d, d);
                      }).total();
      if (e < error) {
        scale = a;
        minimum = b;
        error = e;
      }
    }
    return {scale, minimum, sx};
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    Line lines[kSubBlocks];
    float scale = 0, depth = 0;
    for (int s = 0; s < kSubBlocks; ++s) {
      lines[s] = search(x + kSubBlock * s);
      scale = most(lines[s].scale, scale);
      depth = most(-lines[s].minimum, depth);
    }
    const std::uint16_t half = lasting_half(scale / kMost), half_minimum = lasting_half(depth / kMost);
    const float d = from_half(half), dmin = from_half(half_minimum);
    for (int s = 0; s < kSubBlocks; ++s) {
      const float sc = small(lines[s].scale, d);
      const float m = small(-(sc > 0 ? lines[s].minimum : least(lines[s].sum / kCount, 0.0f)), dmin);
      const Sixteen shift = splat_16(dmin * m), inverse = splat_16(quotient(1.0f, d * sc));
      for (int i = kSubBlock * s; i < kSubBlock * (s + 1); i += 16) {
        store_codes(codes + i, clip(round_even(multiply(add(load_16(x + i), shift), inverse)), 0.0f, kTop));
      }
      plane<std::uint8_t>(job.subscales)[kSubBlocks * at.number + s] = static_cast<std::uint8_t>(sc);
      plane<std::uint8_t>(job.subminima)[kSubBlocks * at.number + s] = static_cast<std::uint8_t>(m);
    }
    plane<std::uint16_t>(job.scales)[at.number] = half;
    plane<std::uint16_t>(job.seconds)[at.number] = half_minimum;
  }
  static ONNXQUANT_INLINE float small(float x, float unit) { return clipped(rounded(quotient(x, unit)), 0.0f, kMost); }

  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    const float d = from_half(plane<const std::uint16_t>(job.scales)[at.number]);
    const float dmin = from_half(plane<const std::uint16_t>(job.seconds)[at.number]);
    for (int i = 0; i < count; i += 16) {
      const std::int64_t sub_block = kSubBlocks * at.number + (from + i) / kSubBlock;
      const Sixteen step = splat_16(d * plane<const std::uint8_t>(job.subscales)[sub_block]);
      const Sixteen shift = splat_16(dmin * plane<const std::uint8_t>(job.subminima)[sub_block]);
      store(y + i, subtract(multiply(load_bytes_16(codes + i), step), shift));
    }
  }
};

// q3_k, q6_k: signed scales per 16 weights.
template <int kBits, int kFactorBits, int kFineness>
struct SignedSuperBlock : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{kBits, kUnit, ScaleType::kHalf,
                                         kFactorBits == 8 ? Side::kSignedFactors : Side::kSignedSixBits};
  static constexpr float kMiddle = 1 << (kBits - 1), kLeast = 1 << (kFactorBits - 1);

  // Scale of 16 weights by least squares, the best of 17 grids.
  static ONNXQUANT_INLINE float search(const float* from) {
    const Sixteen x = load_16(from);
    const float top = extreme(from, 16);
    float scale = top / -kMiddle, gain = -1.0f;
    for (int t = -8; t <= 8; ++t) {
      const Sixteen q = code(x, quotient(-(kMiddle + static_cast<float>(t) / kFineness), top));
      const float qq = sum(multiply(q, q)), sqx = sum(multiply(x, q));
      if (!(qq > 0)) continue;
      const float g = (sqx * sqx) / qq;
      if (g > gain) {
        scale = sqx / qq;
        gain = g;
      }
    }
    return scale;
  }
  static ONNXQUANT_INLINE Sixteen code(Sixteen x, float inverse) {
    return clip(round_even(multiply(x, splat_16(inverse))), -kMiddle, kMiddle - 1.0f);
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    float scales[16];
    for (int s = 0; s < 16; ++s) scales[s] = search(x + 16 * s);
    const std::uint16_t half = lasting_half(extreme(scales, 16) / -kLeast);
    const float d = from_half(half);
    for (int s = 0; s < 16; ++s) {
      const float sc = clipped(rounded(quotient(scales[s], d)), -kLeast, kLeast - 1.0f);
      store_codes(codes + 16 * s, add(code(load_16(x + 16 * s), quotient(1.0f, d * sc)), splat_16(kMiddle)));
      plane<std::int8_t>(job.subscales)[16 * at.number + s] = static_cast<std::int8_t>(sc);
    }
    plane<std::uint16_t>(job.scales)[at.number] = half;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    const float d = from_half(plane<const std::uint16_t>(job.scales)[at.number]);
    for (int i = 0; i < count; i += 16) {
      const std::int8_t sc = plane<const std::int8_t>(job.subscales)[16 * at.number + (from + i) / 16];
      store(y + i, multiply(subtract(load_bytes_16(codes + i), splat_16(kMiddle)), splat_16(d * sc)));
    }
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
