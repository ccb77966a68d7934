// network/vectors/scalar.h with AVX-512 VNNI.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/avx512.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kBlocks = 4;
constexpr int kTilePixels = 12, kTilePanels = 2, kDepthwiseOutputs = 8;
constexpr bool kIsFaster = true;
constexpr bool kSignedCodes = false;

ONNXQUANT_INLINE Ints load_ints(const std::int32_t* from) { return _mm512_loadu_si512(from); }
ONNXQUANT_INLINE void store_ints(std::int32_t* to, Ints x) { _mm512_storeu_si512(to, x); }
ONNXQUANT_INLINE void store_codes(std::uint8_t* to, Codes x) { _mm512_storeu_si512(to, x); }
ONNXQUANT_INLINE void store_blocks(std::uint8_t* to, Codes x, std::int64_t blocks) {
  if (blocks == kBlocks) return store_codes(to, x);
  _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1 << 4 * blocks) - 1), x);
}
template <int kBlock>
ONNXQUANT_INLINE void store_block(std::uint8_t* to, Codes x) {
  store_128(to, _mm512_extracti32x4_epi32(x, kBlock));
}

template <int kPieces>
ONNXQUANT_INLINE Codes load_pieces(const std::uint8_t* from, std::int64_t distance) {
  if constexpr (kPieces == 1) {
    return _mm512_loadu_si512(from);
  } else if constexpr (kPieces == 2) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_256(from)), load_256(from + distance), 1);
  } else {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(from)), load_128(from + distance), 1);
    const __m128i *third = reinterpret_cast<const __m128i*>(from + 2 * distance);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(third)), load_128(from + 3 * distance), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
}
ONNXQUANT_INLINE Codes splat_four(const std::uint8_t* from) {
  std::int32_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm512_set1_epi32(four);
}

ONNXQUANT_INLINE Ints dot(Ints sum, Codes codes, Codes weights) { return _mm512_dpbusd_epi32(sum, codes, weights); }
ONNXQUANT_INLINE Ints add_four(Ints sum, Codes codes) { return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi8(1)); }

ONNXQUANT_INLINE void interleave(const Codes (&rows)[4], Codes (&out)[4]) {
  const Codes low_01 = _mm512_unpacklo_epi8(rows[0], rows[1]), low_23 = _mm512_unpacklo_epi8(rows[2], rows[3]);
  const Codes high_01 = _mm512_unpackhi_epi8(rows[0], rows[1]), high_23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
  out[0] = _mm512_unpacklo_epi16(low_01, low_23);
  out[1] = _mm512_unpackhi_epi16(low_01, low_23);
  out[2] = _mm512_unpacklo_epi16(high_01, high_23);
  out[3] = _mm512_unpackhi_epi16(high_01, high_23);
}

ONNXQUANT_INLINE Floats fused(Floats a, Floats b, Floats sum) { return multiply_add(a, b, sum); }
ONNXQUANT_INLINE Floats rectified(Ints sum, Floats scale, Floats shift) { return _mm512_fmadd_ps(_mm512_castsi512_ps(sum), scale, shift); }
// What no int holds becomes the lowest one.
ONNXQUANT_INLINE Ints round_to_int(Floats x) { return _mm512_cvtps_epi32(x); }
ONNXQUANT_INLINE Floats at_most(Floats x, float most) { return _mm512_min_ps(x, splat(most)); }

using Words = __m512i;
ONNXQUANT_INLINE Words pack_words(Ints a, Ints b) { return _mm512_packs_epi32(a, b); }
ONNXQUANT_INLINE Words add_word(Words x, int value) { return _mm512_adds_epi16(x, _mm512_set1_epi16(static_cast<short>(value))); }
ONNXQUANT_INLINE Codes pack_codes(Words a, Words b) { return _mm512_packus_epi16(a, b); }
ONNXQUANT_INLINE Codes in_order(Codes x) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_permutexvar_epi32(order, x);
}
ONNXQUANT_INLINE Codes larger_bytes(Codes a, Codes b) { return _mm512_max_epu8(a, b); }
ONNXQUANT_INLINE Codes smaller_bytes(Codes a, Codes b) { return _mm512_min_epu8(a, b); }

ONNXQUANT_INLINE Codes exclusive_or(Codes a, Codes b) { return _mm512_xor_si512(a, b); }
ONNXQUANT_INLINE void transpose_lanes(const Codes (&x)[4], Codes (&out)[4]) {
  const Codes low_01 = _mm512_unpacklo_epi32(x[0], x[1]), low_23 = _mm512_unpacklo_epi32(x[2], x[3]);
  const Codes high_01 = _mm512_unpackhi_epi32(x[0], x[1]), high_23 = _mm512_unpackhi_epi32(x[2], x[3]);
  out[0] = _mm512_unpacklo_epi64(low_01, low_23);
  out[1] = _mm512_unpackhi_epi64(low_01, low_23);
  out[2] = _mm512_unpacklo_epi64(high_01, high_23);
  out[3] = _mm512_unpackhi_epi64(high_01, high_23);
}
ONNXQUANT_INLINE Codes transpose_bytes(Codes x) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order));
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
