// Sixteen floats in one register. Included inside the instruction set's namespace; lanes_scalar.h says what each name means.

using F = __m512;
using Mask = __mmask16;

ONNXQUANT_INLINE F load(const float* from) { return _mm512_loadu_ps(from); }
ONNXQUANT_INLINE void store(float* to, F x) { _mm512_storeu_ps(to, x); }
ONNXQUANT_INLINE F splat(float x) { return _mm512_set1_ps(x); }
ONNXQUANT_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
ONNXQUANT_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
ONNXQUANT_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
ONNXQUANT_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
ONNXQUANT_INLINE F lesser(F a, F b) { return _mm512_min_ps(a, b); }
ONNXQUANT_INLINE F greater(F a, F b) { return _mm512_max_ps(a, b); }
ONNXQUANT_INLINE F magnitude(F x) { return _mm512_abs_ps(x); }
ONNXQUANT_INLINE F round_even(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
ONNXQUANT_INLINE F with_sign_of(F x, float size) {
  const __m512i bits = _mm512_castps_si512(x), sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign, bits, _mm512_castps_si512(splat(size)), 0xca));
}
ONNXQUANT_INLINE Mask equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
ONNXQUANT_INLINE Mask above(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
ONNXQUANT_INLINE Mask unequal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
ONNXQUANT_INLINE F pick(Mask mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }
ONNXQUANT_INLINE unsigned bits_of(Mask mask) { return mask; }

ONNXQUANT_INLINE void store_codes(std::uint8_t* to, F x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(x)));
}
ONNXQUANT_INLINE void store_signed(std::uint8_t* to, F x, int offset) {
  const __m512i codes = _mm512_add_epi32(_mm512_cvttps_epi32(x), _mm512_set1_epi32(offset));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(codes));
}
ONNXQUANT_INLINE F load_codes(const std::uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
ONNXQUANT_INLINE F load_halves(const std::uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
ONNXQUANT_INLINE void store_halves(std::uint16_t* to, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
ONNXQUANT_INLINE F load_bfloats(const std::uint16_t* from) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
ONNXQUANT_INLINE F load_doubles(const double* from) {
  const __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(from)), high = _mm512_cvtpd_ps(_mm512_loadu_pd(from + 8));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
ONNXQUANT_INLINE float from_half(std::uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }
ONNXQUANT_INLINE std::uint16_t to_half(float x) {
  return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

ONNXQUANT_INLINE __m128 upper(__m256 x) { return _mm256_extractf128_ps(x, 1); }
ONNXQUANT_INLINE __m256 lower_half(F x) { return _mm512_castps512_ps256(x); }
ONNXQUANT_INLINE __m256 upper_half(F x) { return _mm512_extractf32x8_ps(x, 1); }
template <class Op4>
ONNXQUANT_INLINE float across(__m128 x, Op4 op) {
  x = op(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(op(x, _mm_shuffle_ps(x, x, 1)));
}
ONNXQUANT_INLINE float sum(F x) {
  const __m256 eight = _mm256_add_ps(lower_half(x), upper_half(x));
  return across(_mm_add_ps(_mm256_castps256_ps128(eight), upper(eight)), [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
ONNXQUANT_INLINE float smallest(F x) {
  const __m256 eight = _mm256_min_ps(lower_half(x), upper_half(x));
  return across(_mm_min_ps(_mm256_castps256_ps128(eight), upper(eight)), [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
}
ONNXQUANT_INLINE float largest(F x) {
  const __m256 eight = _mm256_max_ps(lower_half(x), upper_half(x));
  return across(_mm_max_ps(_mm256_castps256_ps128(eight), upper(eight)), [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}

// Lane i: of all lanes of x[i].
template <class Op>
ONNXQUANT_INLINE F across_each(const F* x, Op op) {
  F pairs[8], fours[4];
  for (int i = 0; i < 8; ++i) pairs[i] = op(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = op(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const F low = op(_mm512_shuffle_f32x4(fours[0], fours[1], 0x88), _mm512_shuffle_f32x4(fours[0], fours[1], 0xdd));
  const F high = op(_mm512_shuffle_f32x4(fours[2], fours[3], 0x88), _mm512_shuffle_f32x4(fours[2], fours[3], 0xdd));
  return op(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}
ONNXQUANT_INLINE F smallest_of_each(const F* x) { return across_each(x, lesser); }
ONNXQUANT_INLINE F largest_of_each(const F* x) { return across_each(x, greater); }

// x[16] becomes its transpose, row i at to + i * stride.
ONNXQUANT_INLINE void store_transposed(const F* x, float* to, std::int64_t stride) {
  __m512 pairs[16], fours[16];
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
    const __m512 low = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88), low_odd = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
    const __m512 high = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88), high_odd = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
    store(to + j * stride, _mm512_shuffle_f32x4(low, high, 0x88));
    store(to + (4 + j) * stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    store(to + (8 + j) * stride, _mm512_shuffle_f32x4(low, high, 0xdd));
    store(to + (12 + j) * stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
}

// Sums of statistics in eight lanes of doubles: element i goes to lane i % 8 on every instruction set.
struct Sums {
  __m512d error = _mm512_setzero_pd(), bias = error, reference = error, got = error, worst = error;
  std::int64_t unequal_count = 0;

  ONNXQUANT_INLINE void add(F x, F y) {
    unequal_count += _mm_popcnt_u32(unequal(x, y));
    add_half(lower_half(x), lower_half(y));
    add_half(upper_half(x), upper_half(y));
  }
  ONNXQUANT_INLINE void add_half(__m256 x, __m256 y) {
    const __m512d a = _mm512_cvtps_pd(x), b = _mm512_cvtps_pd(y), delta = _mm512_sub_pd(b, a);
    const __m512d square = _mm512_mul_pd(delta, delta);
    error = _mm512_add_pd(error, square);
    bias = _mm512_add_pd(bias, delta);
    worst = _mm512_max_pd(square, worst);
    // Squares of floats are exact: fused or not, the sum is the same.
    reference = _mm512_fmadd_pd(a, a, reference);
    got = _mm512_fmadd_pd(b, b, got);
  }
  void write(double (*out)[8]) const {
    const __m512d* sums[] = {&error, &bias, &reference, &got, &worst};
    for (int i = 0; i < 5; ++i) _mm512_storeu_pd(out[i], *sums[i]);
  }
};
