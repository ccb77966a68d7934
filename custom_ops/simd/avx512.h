// AVX-512 F, BW, DQ and VL: 16 floats. simd/scalar.h says what each name means.
#pragma once

#include "simd/x86.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kLanes = 16;
constexpr bool kShiftsBytes = false;

using Floats = __m512;
using Ints = __m512i;
using Codes = __m512i;
using Doubles = __m512d;
// A type of its own: a mask is no number.
struct Mask {
  __mmask16 lanes;
};

// ---- floats ----

ONNXQUANT_INLINE Floats splat(float x) { return _mm512_set1_ps(x); }
ONNXQUANT_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
ONNXQUANT_INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
ONNXQUANT_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
ONNXQUANT_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
ONNXQUANT_INLINE Floats negate(Floats a) { return _mm512_xor_ps(a, splat(-0.0f)); }
ONNXQUANT_INLINE Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
ONNXQUANT_INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
ONNXQUANT_INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
ONNXQUANT_INLINE Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
ONNXQUANT_INLINE Floats round_even(Floats x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ONNXQUANT_INLINE Floats copy_sign(float size, Floats x) {
  const __m512i bits = _mm512_castps_si512(x), sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign, bits, _mm512_castps_si512(splat(size)), 0xca));
}
ONNXQUANT_INLINE Floats times_sign(Floats value, Floats weight) {
  const __mmask16 used = _mm512_test_epi32_mask(_mm512_castps_si512(weight), _mm512_castps_si512(weight));
  return _mm512_maskz_xor_ps(used, value, _mm512_and_ps(weight, splat(-0.0f)));
}

ONNXQUANT_INLINE Mask equal(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)}; }
ONNXQUANT_INLINE Mask unequal(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ)}; }
ONNXQUANT_INLINE Mask above(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)}; }
ONNXQUANT_INLINE Floats select(Mask mask, Floats yes, Floats no) { return _mm512_mask_blend_ps(mask.lanes, no, yes); }
ONNXQUANT_INLINE unsigned mask_bits(Mask mask) { return mask.lanes; }

// ---- integers ----

ONNXQUANT_INLINE Ints splat_int(std::int32_t x) { return _mm512_set1_epi32(x); }
ONNXQUANT_INLINE Ints add_int(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
template <int kBits>
ONNXQUANT_INLINE Ints shift_left(Ints a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Ints shift_right(Ints a) {
  return _mm512_srai_epi32(a, kBits);
}
ONNXQUANT_INLINE Floats to_float(Ints x) { return _mm512_cvtepi32_ps(x); }
ONNXQUANT_INLINE Ints truncate(Floats x) { return _mm512_cvttps_epi32(x); }

// ---- memory ----

ONNXQUANT_INLINE __m256i load_256(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
ONNXQUANT_INLINE Floats load(const float* from) { return _mm512_loadu_ps(from); }
ONNXQUANT_INLINE Floats load_half(const std::uint16_t* from) { return _mm512_cvtph_ps(load_256(from)); }
ONNXQUANT_INLINE Floats load_bfloat(const std::uint16_t* from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(from)), 16));
}
ONNXQUANT_INLINE Floats load_double(const double* from) {
  const __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(from)), high = _mm512_cvtpd_ps(_mm512_loadu_pd(from + 8));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
ONNXQUANT_INLINE Floats load_bytes(const std::uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_128(from)));
}
ONNXQUANT_INLINE Floats load_signed_bytes(const std::uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(from)));
}
ONNXQUANT_INLINE void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
ONNXQUANT_INLINE void store(double* to, Doubles x) { _mm512_storeu_pd(to, x); }
ONNXQUANT_INLINE void store_half(std::uint16_t* to, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
ONNXQUANT_INLINE void store_bytes(std::uint8_t* to, Ints x) { store_128(to, _mm512_cvtepi32_epi8(x)); }

// ---- doubles ----

ONNXQUANT_INLINE __m256 lower_half(Floats x) { return _mm512_castps512_ps256(x); }
ONNXQUANT_INLINE __m256 upper_half(Floats x) { return _mm512_extractf32x8_ps(x, 1); }
ONNXQUANT_INLINE Doubles splat_double(double x) { return _mm512_set1_pd(x); }
ONNXQUANT_INLINE Doubles add(Doubles a, Doubles b) { return _mm512_add_pd(a, b); }
ONNXQUANT_INLINE Doubles subtract(Doubles a, Doubles b) { return _mm512_sub_pd(a, b); }
ONNXQUANT_INLINE Doubles multiply(Doubles a, Doubles b) { return _mm512_mul_pd(a, b); }
ONNXQUANT_INLINE Doubles larger(Doubles a, Doubles b) { return _mm512_max_pd(a, b); }
ONNXQUANT_INLINE Doubles add_square(Doubles x, Doubles sum) { return _mm512_fmadd_pd(x, x, sum); }
ONNXQUANT_INLINE Doubles lower_doubles(Floats x) { return _mm512_cvtps_pd(lower_half(x)); }
ONNXQUANT_INLINE Doubles upper_doubles(Floats x) { return _mm512_cvtps_pd(upper_half(x)); }

// ---- across lanes ----

template <class Operation>
ONNXQUANT_INLINE float across(Floats x) {
  return across<Operation>(Operation::of(lower_half(x), upper_half(x)));
}
ONNXQUANT_INLINE float sum(Floats x) { return across<Sum>(x); }
ONNXQUANT_INLINE float smallest(Floats x) { return across<Smallest>(x); }
ONNXQUANT_INLINE float largest(Floats x) { return across<Largest>(x); }

// Reductions of 16 lanes; simd/x86.h has those of fewer.
struct Smaller {
  static ONNXQUANT_INLINE Floats of(Floats a, Floats b) { return smaller(a, b); }
};
struct Larger {
  static ONNXQUANT_INLINE Floats of(Floats a, Floats b) { return larger(a, b); }
};
template <class Operation>
ONNXQUANT_INLINE Floats across_quarters(Floats a, Floats b) {
  return Operation::of(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
template <class Operation>
ONNXQUANT_INLINE Floats across_each(const Floats* x) {
  Floats pairs[8], fours[4];
  for (int i = 0; i < 8; ++i) {
    pairs[i] = Operation::of(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = Operation::of(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const Floats low = across_quarters<Operation>(fours[0], fours[1]), high = across_quarters<Operation>(fours[2], fours[3]);
  return across_quarters<Operation>(low, high);
}
ONNXQUANT_INLINE Floats smallest_of_each(const Floats* x) { return across_each<Smaller>(x); }
ONNXQUANT_INLINE Floats largest_of_each(const Floats* x) { return across_each<Larger>(x); }

ONNXQUANT_INLINE void store_transposed(const Floats* x, float* to, std::int64_t stride) {
  Floats pairs[16], fours[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d a = _mm512_castps_pd(pairs[i + j]), b = _mm512_castps_pd(pairs[i + 2 + j]);
      fours[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      fours[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  // fours[4 * i + j], quarter q: columns 4 i .. 4 i + 3 of row 4 q + j.
  for (int j = 0; j < 4; ++j) {
    const Floats low = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
    const Floats low_odd = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
    const Floats high = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
    const Floats high_odd = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
    store(to + j * stride, _mm512_shuffle_f32x4(low, high, 0x88));
    store(to + (4 + j) * stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    store(to + (8 + j) * stride, _mm512_shuffle_f32x4(low, high, 0xdd));
    store(to + (12 + j) * stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
}

// ---- packed codes ----

ONNXQUANT_INLINE Codes load_codes(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
ONNXQUANT_INLINE Codes in_register(Codes codes) {
#if !defined(_MSC_VER)
  asm("" : "+v"(codes));
#endif
  return codes;
}
ONNXQUANT_INLINE Codes splat_byte(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
ONNXQUANT_INLINE Codes and_bytes(Codes a, Codes b) { return _mm512_and_si512(a, b); }
ONNXQUANT_INLINE Codes or_bytes(Codes a, Codes b) { return _mm512_or_si512(a, b); }
template <int kBits>
ONNXQUANT_INLINE Codes shift_bytes_left(Codes a) {
  return _mm512_slli_epi16(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Codes shift_bytes_right(Codes a) {
  return _mm512_srli_epi16(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Ints code_bits(Codes codes, int shift) {
  return _mm512_and_si512(_mm512_srl_epi32(codes, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32((1 << kBits) - 1));
}

using Lookup = __m512i;
ONNXQUANT_INLINE Lookup make_lookup(const std::uint8_t (&bytes)[16]) { return _mm512_broadcast_i32x4(load_128(bytes)); }
ONNXQUANT_INLINE Codes lookup(Lookup bytes, Codes codes) { return _mm512_shuffle_epi8(bytes, codes); }
template <int kBits>
ONNXQUANT_INLINE Floats table_floats(const float* table, Ints index) {
  if constexpr (kBits == 4) return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
  return _mm512_i32gather_ps(index, table, 4);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
