// Dot products of int8 and the rounding of activations on AVX2, and on AVX-VNNI where ONNXQUANT_VNNI_256 is its instruction.
// kernels/int8.h says what each name means.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/dot/x86.h"
#include "simd/avx2.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kRowsAtOnce = 4, kFloatRowsAtOnce = 4;
// Two vectors share the broadcast activations, unless their sums would not fit.
#ifdef ONNXQUANT_VNNI_256
constexpr int vectors_at_once(int, int) { return 2; }
#else
constexpr int vectors_at_once(int rows, int bits) { return rows > 1 && (bits == kTable || bits == 6) ? 1 : 2; }
#endif

inline Ints splat_4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}

#ifdef ONNXQUANT_VNNI_256
// Four products and their sum per instruction, for codes of any width.
template <int kBits>
struct Dot {
  using Partial = __m256i;
  static constexpr bool kExact = true;
  static constexpr int kOffset = 0, kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    partial = ONNXQUANT_VNNI_256(partial, codes, splat_4(x + 4 * kGroup));
  }
  static Ints end(Ints, Partial partial) { return partial; }
};
#else
// Compilers put such additions off until they have run out of registers for what is to be added.
ONNXQUANT_INLINE void add_now(__m256i& sum) {
#if !defined(_MSC_VER)
  __asm__("" : "+x"(sum));
#else
  (void)sum;
#endif
}

// Pairs of products in 16 bits: at most 2 * (2^bits - 1) * 127 each, of which kGroups fit.
template <int kBits>
struct Dot {
  using Partial = __m256i;
  static constexpr bool kExact = false;
  static constexpr int kOffset = 0, kGroups = kBits <= 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  static_assert(kGroups * 2 * ((1 << kBits) - 1) * 127 <= 32767);
  static Partial begin(Ints) { return _mm256_setzero_si256(); }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    partial = _mm256_add_epi16(partial, _mm256_maddubs_epi16(codes, splat_4(x + 4 * kGroup)));
    add_now(partial);
  }
  static Ints end(Ints sum, Partial partial) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(partial, _mm256_set1_epi16(1)));
  }
};

// 8-bit codes would saturate 16 bits (2 * 255 * 127). Their magnitude after the offset does not (2 * 128 * 127); the
// sign goes to the activation.
template <>
struct Dot<8> {
  using Partial = __m256i;
  static constexpr bool kExact = false;
  static constexpr int kOffset = 128, kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    const __m256i weights = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const __m256i signed_x = _mm256_sign_epi8(splat_4(x + 4 * kGroup), weights);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed_x);
    partial = _mm256_add_epi32(partial, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    add_now(partial);
  }
  static Ints end(Ints, Partial partial) { return partial; }
};
#endif

inline std::int32_t lane_sum(__m256i values) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

struct LargestMagnitude {
  __m256i bits = _mm256_setzero_si256();
  void add(const float* x) {
    for (int half = 0; half < 16; half += 8) {
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + half));
      bits = _mm256_max_epi32(bits, _mm256_and_si256(values, _mm256_set1_epi32(0x7fffffff)));
    }
  }
  std::int32_t reduce() const {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
};

template <int kBits>
struct Rounder {
  __m256 inverse;
  __m256i sum = _mm256_setzero_si256();
  FieldOrder<kBits> order;
  explicit Rounder(float inverse_scale) : inverse(splat(inverse_scale)) {}
  void put(const float* x, std::int8_t* out) {
    const __m256i low = _mm256_cvtps_epi32(multiply(load(x), inverse));
    const __m256i high = _mm256_cvtps_epi32(multiply(load(x + 8), inverse));
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
    const __m128i words_low = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    const __m128i words_high = _mm_packs_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    const __m128i bytes = _mm_packs_epi16(words_low, words_high);
    order.store(out, bytes);
  }
  std::int32_t reduce() const { return lane_sum(sum); }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
