// Dot products of int8 and the rounding of activations on ARM's dot product: of unsigned codes with ONNXQUANT_NEON_I8MM, without
// it of signed ones. kernels/int8.h says what each name means.
#pragma once

#include <cstdint>

#include "kernels/field_order.h"
#include "simd/neon.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kRowsAtOnce = 4, kFloatRowsAtOnce = 8;
// Eight sums hide the latency of a dot product.
constexpr int vectors_at_once(int rows, int) { return rows > 2 ? 2 : 4; }

template <int kBits>
struct Dot {
  using Partial = int32x4_t;
#ifdef ONNXQUANT_NEON_I8MM
  static constexpr bool kExact = true;
  static constexpr int kOffset = 0;
#else
  static constexpr bool kExact = false;
  static constexpr int kOffset = kBits == 8 ? 128 : 0;  // what makes 8-bit codes signed
#endif
  static constexpr int kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  // One load of activations serves four groups, which take a lane each.
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    const int8x16_t lanes = vld1q_s8(x + kGroup / 4 * 16);
#ifdef ONNXQUANT_NEON_I8MM
    partial = vusdotq_laneq_s32(partial, codes, lanes, kGroup % 4);
#else
    if constexpr (kOffset != 0) codes = veorq_u8(codes, vdupq_n_u8(kOffset));
    partial = vdotq_laneq_s32(partial, vreinterpretq_s8_u8(codes), lanes, kGroup % 4);
#endif
  }
  static Ints end(Ints, Partial partial) { return partial; }
};

struct LargestMagnitude {
  uint32x4_t bits = vdupq_n_u32(0);
  void add(const float* x) {
    for (int k = 0; k < 16; k += kLanes) {
      bits = vmaxq_u32(bits, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + k)), vdupq_n_u32(0x7fffffff)));
    }
  }
  std::int32_t reduce() const { return static_cast<std::int32_t>(vmaxvq_u32(bits)); }
};

template <int kBits>
struct Rounder {
  float32x4_t inverse;
  int32x4_t sum = vdupq_n_s32(0);
  uint8x16_t order;
  explicit Rounder(float inverse_scale) : inverse(splat(inverse_scale)) {
    std::uint8_t source[16];
    for (int k = 0; k < 16; ++k) source[field_order<kBits>(k)] = static_cast<std::uint8_t>(k);
    order = vld1q_u8(source);
  }
  void put(const float* x, std::int8_t* out) {
    int16x4_t words[4];
    for (int i = 0; i < 4; ++i) {
      const int32x4_t codes = vcvtnq_s32_f32(multiply(load(x + kLanes * i), inverse));
      sum = vaddq_s32(sum, codes);
      words[i] = vmovn_s32(codes);
    }
    const int8x8_t low = vmovn_s16(vcombine_s16(words[0], words[1]));
    const int8x8_t high = vmovn_s16(vcombine_s16(words[2], words[3]));
    vst1q_s8(out, vqtbl1q_s8(vcombine_s8(low, high), order));
  }
  std::int32_t reduce() const { return vaddvq_s32(sum); }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
