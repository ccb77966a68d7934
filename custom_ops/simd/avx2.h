// AVX2, FMA and F16C: 8 floats. simd/scalar.h says what each name means.
#pragma once

#include "simd/pair.h"
#include "simd/x86.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kLanes = 8;
constexpr bool kShiftsBytes = false;

using Floats = __m256;
using Ints = __m256i;
using Codes = __m256i;
using Doubles = __m256d;
// A type of its own: a mask is no number.
struct Mask {
  __m256 lanes;
};

// ---- floats ----

ONNXQUANT_INLINE Floats splat(float x) { return _mm256_set1_ps(x); }
ONNXQUANT_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
ONNXQUANT_INLINE Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
ONNXQUANT_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
ONNXQUANT_INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
ONNXQUANT_INLINE Floats negate(Floats a) { return _mm256_xor_ps(a, splat(-0.0f)); }
ONNXQUANT_INLINE Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
ONNXQUANT_INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
ONNXQUANT_INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
ONNXQUANT_INLINE Floats magnitude(Floats x) { return _mm256_andnot_ps(splat(-0.0f), x); }
ONNXQUANT_INLINE Floats round_even(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
ONNXQUANT_INLINE Floats copy_sign(float size, Floats x) {
  return _mm256_or_ps(_mm256_and_ps(splat(-0.0f), x), splat(size));
}
ONNXQUANT_INLINE Floats times_sign(Floats value, Floats weight) {
  const Floats used = _mm256_cmp_ps(weight, _mm256_setzero_ps(), _CMP_NEQ_OQ);
  return _mm256_and_ps(used, _mm256_xor_ps(value, _mm256_and_ps(weight, splat(-0.0f))));
}

ONNXQUANT_INLINE Mask equal(Floats a, Floats b) { return {_mm256_cmp_ps(a, b, _CMP_EQ_OQ)}; }
ONNXQUANT_INLINE Mask unequal(Floats a, Floats b) { return {_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)}; }
ONNXQUANT_INLINE Mask above(Floats a, Floats b) { return {_mm256_cmp_ps(a, b, _CMP_GT_OQ)}; }
ONNXQUANT_INLINE Floats select(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, mask.lanes); }
ONNXQUANT_INLINE unsigned mask_bits(Mask mask) { return static_cast<unsigned>(_mm256_movemask_ps(mask.lanes)); }

// ---- integers ----

ONNXQUANT_INLINE Ints splat_int(std::int32_t x) { return _mm256_set1_epi32(x); }
ONNXQUANT_INLINE Ints add_int(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
template <int kBits>
ONNXQUANT_INLINE Ints shift_left(Ints a) {
  return _mm256_slli_epi32(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Ints shift_right(Ints a) {
  return _mm256_srai_epi32(a, kBits);
}
ONNXQUANT_INLINE Floats to_float(Ints x) { return _mm256_cvtepi32_ps(x); }
ONNXQUANT_INLINE Ints truncate(Floats x) { return _mm256_cvttps_epi32(x); }

// ---- memory ----

ONNXQUANT_INLINE Floats load(const float* from) { return _mm256_loadu_ps(from); }
ONNXQUANT_INLINE Floats load_half(const std::uint16_t* from) { return _mm256_cvtph_ps(load_128(from)); }
ONNXQUANT_INLINE Floats load_bfloat(const std::uint16_t* from) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(from)), 16));
}
ONNXQUANT_INLINE Floats load_double(const double* from) {
  return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(from + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(from)));
}
ONNXQUANT_INLINE Floats load_bytes(const std::uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_64(from)));
}
ONNXQUANT_INLINE Floats load_signed_bytes(const std::uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_64(from)));
}
ONNXQUANT_INLINE void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
ONNXQUANT_INLINE void store(double* to, Doubles x) { _mm256_storeu_pd(to, x); }
ONNXQUANT_INLINE void store_half(std::uint16_t* to, Floats x) {
  store_128(to, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
ONNXQUANT_INLINE void store_bytes(std::uint8_t* to, Pair<Ints> x) {
  const __m256i mask = _mm256_set1_epi32(255);
  const __m256i shorts = _mm256_packus_epi32(_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask));
  const __m256i ordered = _mm256_permute4x64_epi64(shorts, 0xd8);
  store_128(to, _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

// ---- doubles ----

ONNXQUANT_INLINE Doubles splat_double(double x) { return _mm256_set1_pd(x); }
ONNXQUANT_INLINE Doubles add(Doubles a, Doubles b) { return _mm256_add_pd(a, b); }
ONNXQUANT_INLINE Doubles subtract(Doubles a, Doubles b) { return _mm256_sub_pd(a, b); }
ONNXQUANT_INLINE Doubles multiply(Doubles a, Doubles b) { return _mm256_mul_pd(a, b); }
ONNXQUANT_INLINE Doubles larger(Doubles a, Doubles b) { return _mm256_max_pd(a, b); }
ONNXQUANT_INLINE Doubles add_square(Doubles x, Doubles sum) { return _mm256_fmadd_pd(x, x, sum); }
ONNXQUANT_INLINE Doubles lower_doubles(Floats x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
ONNXQUANT_INLINE Doubles upper_doubles(Floats x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

// ---- across lanes ----

ONNXQUANT_INLINE float sum(Floats x) { return across<Sum>(x); }
ONNXQUANT_INLINE float smallest(Floats x) { return across<Smallest>(x); }
ONNXQUANT_INLINE float largest(Floats x) { return across<Largest>(x); }

template <class Operation>
ONNXQUANT_INLINE Floats across_each(const Floats* x) {
  Floats pairs[4], fours[2];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = Operation::of(_mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  }
  for (int i = 0; i < 2; ++i) {
    const __m256d a = _mm256_castps_pd(pairs[2 * i]), b = _mm256_castps_pd(pairs[2 * i + 1]);
    fours[i] = Operation::of(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return Operation::of(_mm256_permute2f128_ps(fours[0], fours[1], 0x20), _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}
ONNXQUANT_INLINE Floats smallest_of_each(const Floats* x) { return across_each<Smallest>(x); }
ONNXQUANT_INLINE Floats largest_of_each(const Floats* x) { return across_each<Largest>(x); }

ONNXQUANT_INLINE void store_transposed(const Floats* x, float* to, std::int64_t stride) {
  Floats pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m256d a = _mm256_castps_pd(pairs[i + j]), b = _mm256_castps_pd(pairs[i + 2 + j]);
      fours[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      fours[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
  }
  for (int j = 0; j < 4; ++j) {
    store(to + j * stride, _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20));
    store(to + (4 + j) * stride, _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31));
  }
}

// ---- packed codes ----

ONNXQUANT_INLINE Codes load_codes(const std::uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
ONNXQUANT_INLINE Codes in_register(Codes codes) {
#if !defined(_MSC_VER)
  asm("" : "+x"(codes));
#endif
  return codes;
}
ONNXQUANT_INLINE Codes splat_byte(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
ONNXQUANT_INLINE Codes and_bytes(Codes a, Codes b) { return _mm256_and_si256(a, b); }
ONNXQUANT_INLINE Codes or_bytes(Codes a, Codes b) { return _mm256_or_si256(a, b); }
template <int kBits>
ONNXQUANT_INLINE Codes shift_bytes_left(Codes a) {
  return _mm256_slli_epi16(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Codes shift_bytes_right(Codes a) {
  return _mm256_srli_epi16(a, kBits);
}
template <int kBits>
ONNXQUANT_INLINE Ints code_bits(Codes codes, int shift) {
  return _mm256_and_si256(_mm256_srl_epi32(codes, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32((1 << kBits) - 1));
}

using Lookup = __m256i;
ONNXQUANT_INLINE Lookup make_lookup(const std::uint8_t (&bytes)[16]) { return _mm256_broadcastsi128_si256(load_128(bytes)); }
ONNXQUANT_INLINE Codes lookup(Lookup bytes, Codes codes) { return _mm256_shuffle_epi8(bytes, codes); }
template <int>
ONNXQUANT_INLINE Floats table_floats(const float* table, Ints index) {
  return _mm256_i32gather_ps(table, index, 4);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
