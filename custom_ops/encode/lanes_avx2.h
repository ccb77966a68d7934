// Sixteen floats in two registers. Included inside the instruction set's namespace; lanes_scalar.h says what each name means.

struct F {
  __m256 a, b;
};
using Mask = F;

#define ONNXQUANT_PAIR(name, instruction) \
  ONNXQUANT_INLINE F name(F x, F y) { return {instruction(x.a, y.a), instruction(x.b, y.b)}; }
#define ONNXQUANT_COMPARE(name, relation) \
  ONNXQUANT_INLINE Mask name(F x, F y) { return {_mm256_cmp_ps(x.a, y.a, relation), _mm256_cmp_ps(x.b, y.b, relation)}; }
ONNXQUANT_PAIR(add, _mm256_add_ps)
ONNXQUANT_PAIR(sub, _mm256_sub_ps)
ONNXQUANT_PAIR(mul, _mm256_mul_ps)
ONNXQUANT_PAIR(div, _mm256_div_ps)
ONNXQUANT_PAIR(lesser, _mm256_min_ps)
ONNXQUANT_PAIR(greater, _mm256_max_ps)
ONNXQUANT_COMPARE(equal, _CMP_EQ_OQ)
ONNXQUANT_COMPARE(above, _CMP_GT_OQ)
ONNXQUANT_COMPARE(unequal, _CMP_NEQ_UQ)
#undef ONNXQUANT_PAIR
#undef ONNXQUANT_COMPARE

ONNXQUANT_INLINE F load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
ONNXQUANT_INLINE void store(float* to, F x) {
  _mm256_storeu_ps(to, x.a);
  _mm256_storeu_ps(to + 8, x.b);
}
ONNXQUANT_INLINE F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ONNXQUANT_INLINE F magnitude(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
ONNXQUANT_INLINE F round_even(F x) {
  constexpr int kHow = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kHow), _mm256_round_ps(x.b, kHow)};
}
ONNXQUANT_INLINE F with_sign_of(F x, float size) {
  const __m256 sign = _mm256_set1_ps(-0.0f), value = _mm256_set1_ps(size);
  return {_mm256_or_ps(_mm256_and_ps(sign, x.a), value), _mm256_or_ps(_mm256_and_ps(sign, x.b), value)};
}
ONNXQUANT_INLINE F pick(Mask mask, F yes, F no) {
  return {_mm256_blendv_ps(no.a, yes.a, mask.a), _mm256_blendv_ps(no.b, yes.b, mask.b)};
}
ONNXQUANT_INLINE unsigned bits_of(Mask mask) {
  return static_cast<unsigned>(_mm256_movemask_ps(mask.a)) | static_cast<unsigned>(_mm256_movemask_ps(mask.b)) << 8;
}

ONNXQUANT_INLINE void store_bytes(std::uint8_t* to, __m256i a, __m256i b) {
  const __m256i mask = _mm256_set1_epi32(255);
  const __m256i shorts = _mm256_packus_epi32(_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
  const __m256i ordered = _mm256_permute4x64_epi64(shorts, 0xd8);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}
ONNXQUANT_INLINE void store_codes(std::uint8_t* to, F x) { store_bytes(to, _mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)); }
ONNXQUANT_INLINE void store_signed(std::uint8_t* to, F x, int offset) {
  const __m256i add = _mm256_set1_epi32(offset);
  store_bytes(to, _mm256_add_epi32(_mm256_cvttps_epi32(x.a), add), _mm256_add_epi32(_mm256_cvttps_epi32(x.b), add));
}
ONNXQUANT_INLINE F load_codes(const std::uint8_t* from) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)))};
}
ONNXQUANT_INLINE __m128i load_eight(const std::uint16_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
ONNXQUANT_INLINE F load_halves(const std::uint16_t* from) {
  return {_mm256_cvtph_ps(load_eight(from)), _mm256_cvtph_ps(load_eight(from + 8))};
}
ONNXQUANT_INLINE void store_halves(std::uint16_t* to, F x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
ONNXQUANT_INLINE __m256 widened(__m128i raw) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16)); }
ONNXQUANT_INLINE F load_bfloats(const std::uint16_t* from) {
  return {widened(load_eight(from)), widened(load_eight(from + 8))};
}
ONNXQUANT_INLINE __m256 load_eight(const double* from) {
  return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(from + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(from)));
}
ONNXQUANT_INLINE F load_doubles(const double* from) { return {load_eight(from), load_eight(from + 8)}; }
ONNXQUANT_INLINE float from_half(std::uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }
ONNXQUANT_INLINE std::uint16_t to_half(float x) {
  return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

ONNXQUANT_INLINE __m128 upper(__m256 x) { return _mm256_extractf128_ps(x, 1); }
template <class Op4>
ONNXQUANT_INLINE float across(__m256 eight, Op4 op) {
  __m128 x = op(_mm256_castps256_ps128(eight), upper(eight));
  x = op(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(op(x, _mm_shuffle_ps(x, x, 1)));
}
ONNXQUANT_INLINE float sum(F x) {
  return across(_mm256_add_ps(x.a, x.b), [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
ONNXQUANT_INLINE float smallest(F x) {
  return across(_mm256_min_ps(x.a, x.b), [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
}
ONNXQUANT_INLINE float largest(F x) {
  return across(_mm256_max_ps(x.a, x.b), [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}

// Lane i: of all lanes of x[i].
template <class Op8>
ONNXQUANT_INLINE __m256 across_eight(const F* x, Op8 op) {
  __m256 pairs[4], fours[2];
  for (int i = 0; i < 4; ++i) {
    const __m256 a = op(x[2 * i].a, x[2 * i].b), b = op(x[2 * i + 1].a, x[2 * i + 1].b);
    pairs[i] = op(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 2; ++i) {
    const __m256d a = _mm256_castps_pd(pairs[2 * i]), b = _mm256_castps_pd(pairs[2 * i + 1]);
    fours[i] = op(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return op(_mm256_permute2f128_ps(fours[0], fours[1], 0x20), _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}
ONNXQUANT_INLINE F smallest_of_each(const F* x) {
  const auto op = [](__m256 a, __m256 b) { return _mm256_min_ps(a, b); };
  return {across_eight(x, op), across_eight(x + 8, op)};
}
ONNXQUANT_INLINE F largest_of_each(const F* x) {
  const auto op = [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); };
  return {across_eight(x, op), across_eight(x + 8, op)};
}

ONNXQUANT_INLINE void store_transposed_8(const __m256* x, float* to, std::int64_t stride) {
  __m256 pairs[8], fours[8];
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
    _mm256_storeu_ps(to + j * stride, _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20));
    _mm256_storeu_ps(to + (4 + j) * stride, _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31));
  }
}
// x[16] becomes its transpose, row i at to + i * stride.
ONNXQUANT_INLINE void store_transposed(const F* x, float* to, std::int64_t stride) {
  for (int i = 0; i < 16; i += 8) {
    __m256 a[8], b[8];
    for (int j = 0; j < 8; ++j) {
      a[j] = x[i + j].a;
      b[j] = x[i + j].b;
    }
    store_transposed_8(a, to + i, stride);
    store_transposed_8(b, to + 8 * stride + i, stride);
  }
}

// Sums of statistics in eight lanes of doubles: element i goes to lane i % 8 on every instruction set.
struct Sums {
  struct Four {
    __m256d error = _mm256_setzero_pd(), bias = error, reference = error, got = error, worst = error;
    ONNXQUANT_INLINE void add(__m128 x, __m128 y) {
      const __m256d a = _mm256_cvtps_pd(x), b = _mm256_cvtps_pd(y), delta = _mm256_sub_pd(b, a);
      const __m256d square = _mm256_mul_pd(delta, delta);
      error = _mm256_add_pd(error, square);
      bias = _mm256_add_pd(bias, delta);
      worst = _mm256_max_pd(square, worst);
      // Squares of floats are exact: fused or not, the sum is the same.
      reference = _mm256_fmadd_pd(a, a, reference);
      got = _mm256_fmadd_pd(b, b, got);
    }
    void write(double (*out)[8], int at) const {
      const __m256d* sums[] = {&error, &bias, &reference, &got, &worst};
      for (int i = 0; i < 5; ++i) _mm256_storeu_pd(out[i] + at, *sums[i]);
    }
  };
  Four low, high;
  std::int64_t unequal_count = 0;

  ONNXQUANT_INLINE void add(F x, F y) {
    unequal_count += _mm_popcnt_u32(bits_of(unequal(x, y)));
    low.add(_mm256_castps256_ps128(x.a), _mm256_castps256_ps128(y.a));
    high.add(upper(x.a), upper(y.a));
    low.add(_mm256_castps256_ps128(x.b), _mm256_castps256_ps128(y.b));
    high.add(upper(x.b), upper(y.b));
  }
  void write(double (*out)[8]) const {
    low.write(out, 0);
    high.write(out, 4);
  }
};
