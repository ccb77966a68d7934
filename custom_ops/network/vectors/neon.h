// network/vectors/scalar.h with NEON's dot products. Where there is none of unsigned and signed bytes, codes are moved to signed
// ones.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/neon.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kBlocks = 1;
constexpr int kTilePixels = 5, kTilePanels = 1, kDepthwiseOutputs = 8;
constexpr bool kIsFaster = false;  // not measured
#ifdef ONNXQUANT_NEON_I8MM
constexpr bool kSignedCodes = false;
#else
constexpr bool kSignedCodes = true;
#endif

ONNXQUANT_INLINE Ints load_ints(const std::int32_t* from) { return vld1q_s32(from); }
ONNXQUANT_INLINE void store_ints(std::int32_t* to, Ints x) { vst1q_s32(to, x); }
ONNXQUANT_INLINE void store_codes(std::uint8_t* to, Codes x) { vst1q_u8(to, x); }
ONNXQUANT_INLINE void store_blocks(std::uint8_t* to, Codes x, std::int64_t) { vst1q_u8(to, x); }
template <int>
ONNXQUANT_INLINE void store_block(std::uint8_t* to, Codes x) {
  vst1q_u8(to, x);
}

template <int>
ONNXQUANT_INLINE Codes load_pieces(const std::uint8_t* from, std::int64_t) {
  return vld1q_u8(from);
}
ONNXQUANT_INLINE Codes splat_four(const std::uint8_t* from) {
  std::uint32_t four;
  std::memcpy(&four, from, sizeof four);
  return vreinterpretq_u8_u32(vdupq_n_u32(four));
}

ONNXQUANT_INLINE Ints dot(Ints sum, Codes codes, Codes weights) {
#ifdef ONNXQUANT_NEON_I8MM
  return vusdotq_s32(sum, codes, vreinterpretq_s8_u8(weights));
#else
  return vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128))), vreinterpretq_s8_u8(weights));
#endif
}
ONNXQUANT_INLINE Ints add_four(Ints sum, Codes codes) {
  return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(sum), codes, vdupq_n_u8(1)));
}

ONNXQUANT_INLINE void interleave(const Codes (&rows)[4], Codes (&out)[4]) {
  const uint16x8_t low_01 = vreinterpretq_u16_u8(vzip1q_u8(rows[0], rows[1])), low_23 = vreinterpretq_u16_u8(vzip1q_u8(rows[2], rows[3]));
  const uint16x8_t high_01 = vreinterpretq_u16_u8(vzip2q_u8(rows[0], rows[1]));
  const uint16x8_t high_23 = vreinterpretq_u16_u8(vzip2q_u8(rows[2], rows[3]));
  out[0] = vreinterpretq_u8_u16(vzip1q_u16(low_01, low_23));
  out[1] = vreinterpretq_u8_u16(vzip2q_u16(low_01, low_23));
  out[2] = vreinterpretq_u8_u16(vzip1q_u16(high_01, high_23));
  out[3] = vreinterpretq_u8_u16(vzip2q_u16(high_01, high_23));
}

ONNXQUANT_INLINE Floats fused(Floats a, Floats b, Floats sum) { return multiply_add(a, b, sum); }
ONNXQUANT_INLINE Floats rectified(Ints sum, Floats scale, Floats shift) { return vfmaq_f32(shift, vreinterpretq_f32_s32(sum), scale); }
// What no int holds becomes the first or the last one.
ONNXQUANT_INLINE Ints round_to_int(Floats x) { return vcvtnq_s32_f32(x); }
ONNXQUANT_INLINE Floats at_most(Floats x, float most) { return vminq_f32(x, vdupq_n_f32(most)); }

using Words = int16x8_t;
ONNXQUANT_INLINE Words pack_words(Ints a, Ints b) { return vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)); }
ONNXQUANT_INLINE Words add_word(Words x, int value) { return vqaddq_s16(x, vdupq_n_s16(static_cast<std::int16_t>(value))); }
ONNXQUANT_INLINE Codes pack_codes(Words a, Words b) { return vcombine_u8(vqmovun_s16(a), vqmovun_s16(b)); }
ONNXQUANT_INLINE Codes in_order(Codes x) { return x; }
ONNXQUANT_INLINE Codes larger_bytes(Codes a, Codes b) { return vmaxq_u8(a, b); }
ONNXQUANT_INLINE Codes smaller_bytes(Codes a, Codes b) { return vminq_u8(a, b); }

ONNXQUANT_INLINE Codes exclusive_or(Codes a, Codes b) { return veorq_u8(a, b); }
ONNXQUANT_INLINE void transpose_lanes(const Codes (&x)[4], Codes (&out)[4]) {
  const auto lanes = [](Codes codes) { return vreinterpretq_u32_u8(codes); };
  const auto halves = [](uint32x4_t codes) { return vreinterpretq_u64_u32(codes); };
  const uint64x2_t low_01 = halves(vzip1q_u32(lanes(x[0]), lanes(x[1]))), low_23 = halves(vzip1q_u32(lanes(x[2]), lanes(x[3])));
  const uint64x2_t high_01 = halves(vzip2q_u32(lanes(x[0]), lanes(x[1]))), high_23 = halves(vzip2q_u32(lanes(x[2]), lanes(x[3])));
  out[0] = vreinterpretq_u8_u64(vzip1q_u64(low_01, low_23));
  out[1] = vreinterpretq_u8_u64(vzip2q_u64(low_01, low_23));
  out[2] = vreinterpretq_u8_u64(vzip1q_u64(high_01, high_23));
  out[3] = vreinterpretq_u8_u64(vzip2q_u64(high_01, high_23));
}
ONNXQUANT_INLINE Codes transpose_bytes(Codes x) {
  static constexpr std::uint8_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  return vqtbl1q_u8(x, vld1q_u8(kOrder));
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
