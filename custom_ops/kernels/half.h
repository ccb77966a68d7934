// float16 to float32 and back (round to nearest even) without any instruction that not every CPU has, and powers of two.
//
// All work on bits wherever a float32 could be subnormal, so that they mean the same under flush-to-zero.
#pragma once

#include <cstdint>
#include <cstring>

namespace onnxquant {
// Internal linkage: sources compiled for different instruction sets must not share one compiled copy.
namespace {

inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 31u;
  const std::uint32_t mantissa = half & 0x3ffu;
  std::uint32_t bits;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    bits |= sign;
  } else if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
    if (mantissa != 0) bits |= 0x400000u;  // NaNs leave quiet, as from the hardware conversion
  } else {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  }
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint16_t float_to_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds beyond 65504
  const int exponent = static_cast<int>(magnitude >> 23);
  if (exponent < 102) return static_cast<std::uint16_t>(sign);  // below half of the smallest subnormal
  // A subnormal result drops more bits, the implicit one made explicit.
  const bool subnormal = exponent < 113;
  const int drop = subnormal ? 126 - exponent : 13;
  const std::uint32_t significand = subnormal ? (magnitude & 0x7fffffu) | 0x800000u : magnitude - (112u << 23);
  const std::uint32_t half_way = (1u << (drop - 1)) - 1 + (significand >> drop & 1u);
  return static_cast<std::uint16_t>(sign | (significand + half_way) >> drop);
}

// OCP's E8M0: 2^(exponent - 127), and NaN for the largest exponent.
inline float power_of_two(std::uint8_t exponent) {
  const std::uint32_t bits = exponent == 0     ? 0x00400000u
                             : exponent == 255 ? 0x7fc00000u
                                               : static_cast<std::uint32_t>(exponent) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace
}  // namespace onnxquant
