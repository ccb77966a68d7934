// Vectors of 128 and 256 bits that AVX2 and AVX-512 reduce theirs to.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/inline.h"
#include "simd/numbers.h"
#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

ONNXQUANT_INLINE float from_half(std::uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }
ONNXQUANT_INLINE std::uint16_t to_half(float x) {
  return static_cast<std::uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

ONNXQUANT_INLINE __m128i load_128(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
ONNXQUANT_INLINE void store_128(void* to, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
ONNXQUANT_INLINE __m128i load_64(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }

// Operations that reduce many values to one.
struct Sum {
  static ONNXQUANT_INLINE __m128 of(__m128 a, __m128 b) { return _mm_add_ps(a, b); }
  static ONNXQUANT_INLINE __m256 of(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
};
struct Smallest {
  static ONNXQUANT_INLINE __m128 of(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
  static ONNXQUANT_INLINE __m256 of(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
};
struct Largest {
  static ONNXQUANT_INLINE __m128 of(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
  static ONNXQUANT_INLINE __m256 of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
};

template <class Operation>
ONNXQUANT_INLINE float across(__m256 eight) {
  __m128 x = Operation::of(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  x = Operation::of(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(Operation::of(x, _mm_shuffle_ps(x, x, 1)));
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
