// Dot products of int8 and the rounding of activations on AVX-512 VNNI. kernels/int8.h says what each name means.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/dot/x86.h"
#include "simd/avx512.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kRowsAtOnce = 4, kFloatRowsAtOnce = 8;
constexpr int vectors_at_once(int, int) { return 2; }

template <int kBits>
struct Dot {
  using Partial = __m512i;
  static constexpr bool kExact = true;
  static constexpr int kOffset = 0, kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    std::int32_t four;
    std::memcpy(&four, x + 4 * kGroup, sizeof four);
    partial = _mm512_dpbusd_epi32(partial, codes, _mm512_set1_epi32(four));
  }
  static Ints end(Ints, Partial partial) { return partial; }
};

struct LargestMagnitude {
  __m512i bits = _mm512_setzero_si512();
  void add(const float* x) {
    const __m512i values = _mm512_loadu_si512(x);
    bits = _mm512_max_epi32(bits, _mm512_and_si512(values, _mm512_set1_epi32(0x7fffffff)));
  }
  std::int32_t reduce() const { return _mm512_reduce_max_epi32(bits); }
};

template <int kBits>
struct Rounder {
  __m512 inverse;
  __m512i sum = _mm512_setzero_si512();
  FieldOrder<kBits> order;
  explicit Rounder(float inverse_scale) : inverse(splat(inverse_scale)) {}
  void put(const float* x, std::int8_t* out) {
    const __m512i codes = _mm512_cvtps_epi32(multiply(load(x), inverse));
    sum = _mm512_add_epi32(sum, codes);
    const __m128i bytes = _mm512_cvtsepi32_epi8(codes);
    order.store(out, bytes);
  }
  std::int32_t reduce() const { return _mm512_reduce_add_epi32(sum); }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
