// Sums to codes, and how the vectors of a tile are made into bytes.
#pragma once

#include <cstdint>

#include "network/kernels.h"
#include "simd/target.h"
#include ONNXQUANT_NETWORK_HEADER

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kCodeBytes = 4 * kLanes;
constexpr int kVectorsOfBlock = 16 / kLanes;  // of sums

// Above what any code is, less any zero point.
constexpr float kBeyondCodes = 1024.0f;

// What a vector of sums is multiplied with.
template <Rounding kRounding>
struct Scale {
  Floats factor, shift;

  ONNXQUANT_INLINE void load_from(const float* scales) {
    factor = load(scales);
    if constexpr (kRounding >= Rounding::kRectified) shift = multiply(factor, splat(-0x1p23f));
  }
  // The integers that sums stand for, without the zero point.
  ONNXQUANT_INLINE Ints of(Ints sum) const {
    if constexpr (kRounding >= Rounding::kRectified) {
      return round_to_int(rectified(sum, factor, shift));
    } else {
      const Floats value = multiply(to_float(sum), factor);
      return round_to_int(kRounding == Rounding::kBounded ? value : at_most(value, kBeyondCodes));
    }
  }
};

// Integers as codes: the zero point is added, and they are between the lowest and the highest one.
template <Rounding kRounding>
class Limits {
 public:
  Limits(std::uint8_t zero, std::uint8_t low, std::uint8_t high) : zero_(zero), low_(splat_byte(low)), high_(splat_byte(high)) {}
  ONNXQUANT_INLINE Words words(Ints a, Ints b) const {
    if constexpr (kRounding == Rounding::kPlain) return pack_words(a, b);
    return add_word(pack_words(a, b), zero_);
  }
  ONNXQUANT_INLINE Codes codes(Words a, Words b) const {
    if constexpr (kRounding == Rounding::kPlain) return pack_codes(a, b);
    return smaller_bytes(larger_bytes(pack_codes(a, b), low_), high_);
  }
  ONNXQUANT_INLINE Codes of(const Ints (&four)[4]) const { return codes(words(four[0], four[1]), words(four[2], four[3])); }

 private:
  int zero_;
  Codes low_, high_;
};

template <Rounding kRounding>
ONNXQUANT_INLINE Limits<kRounding> limits_of(const Requantization& to_codes) {
  return {to_codes.zero, to_codes.low, to_codes.high};
}

// Stores the blocks of a vector to kCount places.
template <int kCount, int kBlock = 0>
ONNXQUANT_INLINE void scatter(Codes codes, std::uint8_t* const* to) {
  if constexpr (kBlock < kCount) {
    store_block<kBlock>(to[kBlock], codes);
    scatter<kCount, kBlock + 1>(codes, to);
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
