// network/vectors/scalar.h with AVX2, and AVX-VNNI where ONNXQUANT_VNNI_256 is its instruction.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/avx2.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kBlocks = 2;
constexpr int kTilePanels = 1, kDepthwiseOutputs = 4;
#ifdef ONNXQUANT_VNNI_256
constexpr bool kIsFaster = true;
#else
constexpr bool kIsFaster = false;
#endif
constexpr bool kSignedCodes = false;
#ifdef ONNXQUANT_VNNI_256
constexpr int kTilePixels = 6;
#else
constexpr int kTilePixels = 4;  // more sums would leave no room for the weights as words
#endif

ONNXQUANT_INLINE Ints load_ints(const std::int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
ONNXQUANT_INLINE void store_ints(std::int32_t* to, Ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }
ONNXQUANT_INLINE void store_codes(std::uint8_t* to, Codes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }
ONNXQUANT_INLINE void store_blocks(std::uint8_t* to, Codes x, std::int64_t blocks) {
  if (blocks == kBlocks) return store_codes(to, x);
  store_128(to, _mm256_castsi256_si128(x));
}
template <int kBlock>
ONNXQUANT_INLINE void store_block(std::uint8_t* to, Codes x) {
  store_128(to, _mm256_extracti128_si256(x, kBlock));
}

template <int kPieces>
ONNXQUANT_INLINE Codes load_pieces(const std::uint8_t* from, std::int64_t distance) {
  if constexpr (kPieces == 1) {
    return load_codes(from);
  } else {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(from)), load_128(from + distance), 1);
  }
}
ONNXQUANT_INLINE Codes splat_four(const std::uint8_t* from) {
  std::int32_t four;
  std::memcpy(&four, from, sizeof four);
  return _mm256_set1_epi32(four);
}

#ifdef ONNXQUANT_VNNI_256
ONNXQUANT_INLINE Ints dot(Ints sum, Codes codes, Codes weights) { return ONNXQUANT_VNNI_256(sum, codes, weights); }
#else
// As words, since two products of a code and a weight may not fit into one.
ONNXQUANT_INLINE Ints dot(Ints sum, Codes codes, Codes weights) {
  const __m256i even_codes = _mm256_and_si256(codes, _mm256_set1_epi16(0xff)), odd_codes = _mm256_srli_epi16(codes, 8);
  const __m256i even_weights = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8), odd_weights = _mm256_srai_epi16(weights, 8);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even_codes, even_weights));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(odd_codes, odd_weights));
}
#endif
ONNXQUANT_INLINE Ints add_four(Ints sum, Codes codes) {
  const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi8(1));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

ONNXQUANT_INLINE void interleave(const Codes (&rows)[4], Codes (&out)[4]) {
  const Codes low_01 = _mm256_unpacklo_epi8(rows[0], rows[1]), low_23 = _mm256_unpacklo_epi8(rows[2], rows[3]);
  const Codes high_01 = _mm256_unpackhi_epi8(rows[0], rows[1]), high_23 = _mm256_unpackhi_epi8(rows[2], rows[3]);
  out[0] = _mm256_unpacklo_epi16(low_01, low_23);
  out[1] = _mm256_unpackhi_epi16(low_01, low_23);
  out[2] = _mm256_unpacklo_epi16(high_01, high_23);
  out[3] = _mm256_unpackhi_epi16(high_01, high_23);
}

ONNXQUANT_INLINE Floats fused(Floats a, Floats b, Floats sum) { return multiply_add(a, b, sum); }
ONNXQUANT_INLINE Floats rectified(Ints sum, Floats scale, Floats shift) { return _mm256_fmadd_ps(_mm256_castsi256_ps(sum), scale, shift); }
// What no int holds becomes the lowest one.
ONNXQUANT_INLINE Ints round_to_int(Floats x) { return _mm256_cvtps_epi32(x); }
ONNXQUANT_INLINE Floats at_most(Floats x, float most) { return _mm256_min_ps(x, splat(most)); }

using Words = __m256i;
ONNXQUANT_INLINE Words pack_words(Ints a, Ints b) { return _mm256_packs_epi32(a, b); }
ONNXQUANT_INLINE Words add_word(Words x, int value) { return _mm256_adds_epi16(x, _mm256_set1_epi16(static_cast<short>(value))); }
ONNXQUANT_INLINE Codes pack_codes(Words a, Words b) { return _mm256_packus_epi16(a, b); }
ONNXQUANT_INLINE Codes in_order(Codes x) {
  return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
ONNXQUANT_INLINE Codes larger_bytes(Codes a, Codes b) { return _mm256_max_epu8(a, b); }
ONNXQUANT_INLINE Codes smaller_bytes(Codes a, Codes b) { return _mm256_min_epu8(a, b); }

ONNXQUANT_INLINE Codes exclusive_or(Codes a, Codes b) { return _mm256_xor_si256(a, b); }
ONNXQUANT_INLINE void transpose_lanes(const Codes (&x)[4], Codes (&out)[4]) {
  const Codes low_01 = _mm256_unpacklo_epi32(x[0], x[1]), low_23 = _mm256_unpacklo_epi32(x[2], x[3]);
  const Codes high_01 = _mm256_unpackhi_epi32(x[0], x[1]), high_23 = _mm256_unpackhi_epi32(x[2], x[3]);
  out[0] = _mm256_unpacklo_epi64(low_01, low_23);
  out[1] = _mm256_unpackhi_epi64(low_01, low_23);
  out[2] = _mm256_unpacklo_epi64(high_01, high_23);
  out[3] = _mm256_unpackhi_epi64(high_01, high_23);
}
ONNXQUANT_INLINE Codes transpose_bytes(Codes x) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order));
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
