// Fields of packed codes, for every instruction set.
#pragma once

#include "simd/target.h"
#include ONNXQUANT_SIMD_HEADER

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Bits [kShift, kShift + kBits) of each byte, moved to the lowest ones.
template <int kBits, int kField>
ONNXQUANT_INLINE Codes field(Codes codes) {
  constexpr int kShift = kBits * kField;
  if constexpr (kShift > 0) codes = shift_bytes_right<kShift>(codes);
  if constexpr (kBits == 8 || (kShiftsBytes && kShift + kBits == 8)) return codes;
  return and_bytes(codes, splat_byte((1 << kBits) - 1));
}

// The same field left where it is.
template <int kBits, int kField>
ONNXQUANT_INLINE Codes masked(Codes codes) {
  return and_bytes(codes, splat_byte(((1 << kBits) - 1) << (kBits * kField)));
}

// Low bits of each code with the high ones from bit kShift on of the same byte of `high`.
template <int kHigh, int kShift, int kLow>
ONNXQUANT_INLINE Codes merge(Codes low, Codes high) {
  if constexpr (kShift > kLow) high = shift_bytes_right<kShift - kLow>(high);
  if constexpr (kShift < kLow) high = shift_bytes_left<kLow - kShift>(high);
  return or_bytes(low, and_bytes(high, splat_byte(((1 << kHigh) - 1) << kLow)));
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
