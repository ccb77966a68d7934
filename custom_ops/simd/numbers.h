// Single floats, by functions of each instruction set's own.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float absolute(float x) { return float_of(bits_of(x) & 0x7fffffffu); }
inline float copy_sign(float size, float x) { return float_of((bits_of(x) & 0x80000000u) | (bits_of(size) & 0x7fffffffu)); }
inline bool finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }
inline float least(float a, float b) { return a < b ? a : b; }
inline float most(float a, float b) { return a > b ? a : b; }
// To the nearest integer, halves to even: beyond 2^23 there are no fractions, and adding it drops them.
inline float rounded(float x) {
  const float size = absolute(x);
  return size < 0x1p23f ? copy_sign((size + 0x1p23f) - 0x1p23f, x) : x;
}
inline float clipped(float x, float low, float high) { return least(most(x, low), high); }

inline int bit_count(unsigned bits) {
#if defined(__GNUC__)
  return __builtin_popcount(bits);
#else
  int count = 0;
  for (; bits != 0; bits &= bits - 1) ++count;
  return count;
#endif
}
// Place of the lowest bit that is 1; there must be one.
inline int lowest_bit(unsigned bits) {
#if defined(__GNUC__)
  return __builtin_ctz(bits);
#else
  int at = 0;
  for (; (bits & 1u) == 0; bits >>= 1) ++at;
  return at;
#endif
}

inline float bfloat_to_float(std::uint16_t raw) { return float_of(static_cast<std::uint32_t>(raw) << 16); }
inline std::uint16_t float_to_bfloat(float x) {
  const std::uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// 0 where the quotient is not finite.
inline float quotient(float a, float b) {
  const float ratio = a / b;
  return finite(ratio) ? ratio : 0.0f;
}
inline float reciprocal(float x) { return quotient(1.0f, x); }

inline bool finite_sum(double x) { return x - x == 0; }

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
