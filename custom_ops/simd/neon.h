// NEON of 64-bit ARM: 4 floats. simd/scalar.h says what each name means.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/inline.h"
#include "simd/numbers.h"
#include "simd/pair.h"
#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kLanes = 4;
constexpr bool kShiftsBytes = true;

using Floats = float32x4_t;
using Ints = int32x4_t;
using Codes = uint8x16_t;
using Doubles = float64x2_t;
// A type of its own: a mask is no number.
struct Mask {
  uint32x4_t lanes;
};

// ---- floats ----

ONNXQUANT_INLINE Floats splat(float x) { return vdupq_n_f32(x); }
ONNXQUANT_INLINE Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
ONNXQUANT_INLINE Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
ONNXQUANT_INLINE Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
ONNXQUANT_INLINE Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
ONNXQUANT_INLINE Floats negate(Floats a) { return vnegq_f32(a); }
ONNXQUANT_INLINE Floats multiply_add(Floats a, Floats b, Floats sum) { return vfmaq_f32(sum, a, b); }
// ARM's own minimum and maximum order zeros by their signs, and prefer NaN.
ONNXQUANT_INLINE Floats smaller(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
ONNXQUANT_INLINE Floats larger(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
ONNXQUANT_INLINE Floats magnitude(Floats x) { return vabsq_f32(x); }
ONNXQUANT_INLINE Floats round_even(Floats x) { return vrndnq_f32(x); }
ONNXQUANT_INLINE Floats copy_sign(float size, Floats x) { return vbslq_f32(vdupq_n_u32(0x80000000u), x, splat(size)); }
ONNXQUANT_INLINE Floats times_sign(Floats value, Floats weight) {
  const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(weight), vdupq_n_u32(0x80000000u));
  return vreinterpretq_f32_u32(vbicq_u32(veorq_u32(vreinterpretq_u32_f32(value), sign), vceqzq_f32(weight)));
}

ONNXQUANT_INLINE Mask equal(Floats a, Floats b) { return {vceqq_f32(a, b)}; }
ONNXQUANT_INLINE Mask unequal(Floats a, Floats b) { return {vmvnq_u32(vceqq_f32(a, b))}; }
ONNXQUANT_INLINE Mask above(Floats a, Floats b) { return {vcgtq_f32(a, b)}; }
ONNXQUANT_INLINE Floats select(Mask mask, Floats yes, Floats no) { return vbslq_f32(mask.lanes, yes, no); }
ONNXQUANT_INLINE unsigned mask_bits(Mask mask) {
  constexpr std::uint32_t kBits[] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(mask.lanes, vld1q_u32(kBits)));
}

// ---- integers ----

ONNXQUANT_INLINE Ints splat_int(std::int32_t x) { return vdupq_n_s32(x); }
ONNXQUANT_INLINE Ints add_int(Ints a, Ints b) { return vaddq_s32(a, b); }
template <int kBits>
ONNXQUANT_INLINE Ints shift_left(Ints a) {
  return vshlq_n_s32(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Ints shift_right(Ints a) {
  return vshrq_n_s32(a, kBits);
}
ONNXQUANT_INLINE Floats to_float(Ints x) { return vcvtq_f32_s32(x); }
ONNXQUANT_INLINE Ints truncate(Floats x) { return vcvtq_s32_f32(x); }

// ---- memory ----

ONNXQUANT_INLINE Floats load(const float* from) { return vld1q_f32(from); }
ONNXQUANT_INLINE Floats load_half(const std::uint16_t* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
ONNXQUANT_INLINE Floats load_bfloat(const std::uint16_t* from) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
}
ONNXQUANT_INLINE Floats load_double(const double* from) {
  return vcvt_high_f32_f64(vcvt_f32_f64(vld1q_f64(from)), vld1q_f64(from + 2));
}
ONNXQUANT_INLINE uint8x8_t load_4_bytes(const std::uint8_t* from) {
  std::uint32_t four;
  std::memcpy(&four, from, sizeof four);
  return vcreate_u8(four);
}
ONNXQUANT_INLINE Floats load_bytes(const std::uint8_t* from) {
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_4_bytes(from)))));
}
ONNXQUANT_INLINE Floats load_signed_bytes(const std::uint8_t* from) {
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_4_bytes(from))))));
}
ONNXQUANT_INLINE void store(float* to, Floats x) { vst1q_f32(to, x); }
ONNXQUANT_INLINE void store(double* to, Doubles x) { vst1q_f64(to, x); }
ONNXQUANT_INLINE void store_half(std::uint16_t* to, Floats x) { vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
ONNXQUANT_INLINE uint16x8_t lower_words(Pair<Ints> x) {
  return vuzp1q_u16(vreinterpretq_u16_s32(x.a), vreinterpretq_u16_s32(x.b));
}
ONNXQUANT_INLINE void store_bytes(std::uint8_t* to, Pair<Pair<Ints>> x) {
  vst1q_u8(to, vuzp1q_u8(vreinterpretq_u8_u16(lower_words(x.a)), vreinterpretq_u8_u16(lower_words(x.b))));
}
ONNXQUANT_INLINE float from_half(std::uint16_t half) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}
ONNXQUANT_INLINE std::uint16_t to_half(float x) {
  return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
}

// ---- doubles ----

ONNXQUANT_INLINE Doubles splat_double(double x) { return vdupq_n_f64(x); }
ONNXQUANT_INLINE Doubles add(Doubles a, Doubles b) { return vaddq_f64(a, b); }
ONNXQUANT_INLINE Doubles subtract(Doubles a, Doubles b) { return vsubq_f64(a, b); }
ONNXQUANT_INLINE Doubles multiply(Doubles a, Doubles b) { return vmulq_f64(a, b); }
ONNXQUANT_INLINE Doubles larger(Doubles a, Doubles b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
ONNXQUANT_INLINE Doubles add_square(Doubles x, Doubles sum) { return vfmaq_f64(sum, x, x); }
ONNXQUANT_INLINE Doubles lower_doubles(Floats x) { return vcvt_f64_f32(vget_low_f32(x)); }
ONNXQUANT_INLINE Doubles upper_doubles(Floats x) { return vcvt_high_f64_f32(x); }

// ---- across lanes ----

ONNXQUANT_INLINE float sum(Floats x) {
  const float32x2_t two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
  return vget_lane_f32(vpadd_f32(two, two), 0);
}
ONNXQUANT_INLINE float smallest(Floats x) {
  x = smaller(x, vextq_f32(x, x, 2));
  return vgetq_lane_f32(smaller(x, vextq_f32(x, x, 1)), 0);
}
ONNXQUANT_INLINE float largest(Floats x) {
  x = larger(x, vextq_f32(x, x, 2));
  return vgetq_lane_f32(larger(x, vextq_f32(x, x, 1)), 0);
}
ONNXQUANT_INLINE void transpose(const Floats* x, Floats* out) {
  const auto pairs = [](Floats a) { return vreinterpretq_f64_f32(a); };
  const Doubles even[] = {pairs(vtrn1q_f32(x[0], x[1])), pairs(vtrn1q_f32(x[2], x[3]))};
  const Doubles odd[] = {pairs(vtrn2q_f32(x[0], x[1])), pairs(vtrn2q_f32(x[2], x[3]))};
  out[0] = vreinterpretq_f32_f64(vtrn1q_f64(even[0], even[1]));
  out[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd[0], odd[1]));
  out[2] = vreinterpretq_f32_f64(vtrn2q_f64(even[0], even[1]));
  out[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd[0], odd[1]));
}
ONNXQUANT_INLINE Floats smallest_of_each(const Floats* x) {
  Floats lanes[4];
  transpose(x, lanes);
  return smaller(smaller(lanes[0], lanes[1]), smaller(lanes[2], lanes[3]));
}
ONNXQUANT_INLINE Floats largest_of_each(const Floats* x) {
  Floats lanes[4];
  transpose(x, lanes);
  return larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
}
ONNXQUANT_INLINE void store_transposed(const Floats* x, float* to, std::int64_t stride) {
  Floats lanes[4];
  transpose(x, lanes);
  for (int i = 0; i < 4; ++i) store(to + i * stride, lanes[i]);
}

// ---- packed codes ----

ONNXQUANT_INLINE Codes load_codes(const std::uint8_t* from) { return vld1q_u8(from); }
ONNXQUANT_INLINE Codes in_register(Codes codes) { return codes; }
ONNXQUANT_INLINE Codes splat_byte(int byte) { return vdupq_n_u8(static_cast<std::uint8_t>(byte)); }
ONNXQUANT_INLINE Codes and_bytes(Codes a, Codes b) { return vandq_u8(a, b); }
ONNXQUANT_INLINE Codes or_bytes(Codes a, Codes b) { return vorrq_u8(a, b); }
template <int kBits>
ONNXQUANT_INLINE Codes shift_bytes_left(Codes a) {
  return vshlq_n_u8(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Codes shift_bytes_right(Codes a) {
  return vshrq_n_u8(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Ints code_bits(Codes codes, int shift) {
  const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(codes), vdupq_n_s32(-shift));
  return vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32((1 << kBits) - 1)));
}

using Lookup = uint8x16_t;
ONNXQUANT_INLINE Lookup make_lookup(const std::uint8_t (&bytes)[16]) { return vld1q_u8(bytes); }
ONNXQUANT_INLINE Codes lookup(Lookup bytes, Codes codes) { return vqtbl1q_u8(bytes, codes); }
template <int>
ONNXQUANT_INLINE Floats table_floats(const float* table, Ints index) {
  const float four[] = {table[vgetq_lane_s32(index, 0)], table[vgetq_lane_s32(index, 1)],
                        table[vgetq_lane_s32(index, 2)], table[vgetq_lane_s32(index, 3)]};
  return vld1q_f32(four);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
