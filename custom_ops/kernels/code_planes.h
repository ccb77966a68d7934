// Codes of a tile as the planes hold them: four weights of each lane at a time, or any one of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/inline.h"
#include "kernels/weights.h"
#include "simd/simd.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// The upper bits of a table's integers are stored with this number added, as unsigned bytes.
constexpr std::int32_t kTableOffset = 128;

// The code of zero: codes are stored that much higher than what they stand for.
inline std::int32_t offset_of(const Format& format) {
  return format.values == Values::kOffset ? 1 << (format.bits - 1) : 0;
}


// Where the codes of one lane vector of a tile are.
struct CodePointers {
  const std::uint8_t* low;
  const std::uint8_t* high;
};

inline CodePointers codes_at(const Weights& weights, std::int64_t tile, int lane) {
  const std::uint8_t* high =
      weights.high_vectors == 0 ? nullptr : weights.high + tile * weights.high_vectors * kVectorBytes + 4 * lane;
  return {weights.codes + tile * weights.vectors * kVectorBytes + 4 * lane, high};
}

constexpr int low_bits(int bits) { return bits == 5 || bits == 6 ? 4 : bits == 3 ? 2 : bits; }
constexpr int high_bits(int bits) { return bits - low_bits(bits); }

// The next 4 weights of each lane, number kGroup of a chunk: whole codes, one per byte.
template <int kBits, int kGroup>
ONNXQUANT_INLINE Codes code_group(const CodePointers& at) {
  constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits), kFields = 8 / kLow;
  constexpr int kVector = kGroup / kFields, kField = kGroup % kFields;
  const Codes low = field<kLow, kField>(load_codes(at.low + kVector * kVectorBytes));
  if constexpr (kHigh == 0) {
    return low;
  } else {
    constexpr int kPerWord = 8 / kHigh;  // groups in a vector of high bits
    return merge<kHigh, kHigh * (kGroup % kPerWord), kLow>(low, load_codes(at.high + kGroup / kPerWord * kVectorBytes));
  }
}

template <int kBits>
ONNXQUANT_INLINE void advance(CodePointers& at, int weights) {
  at.low += weights * low_bits(kBits) / 32 * kVectorBytes;
  if constexpr (high_bits(kBits) > 0) at.high += weights * high_bits(kBits) / 32 * kVectorBytes;
}

// Code k of each lane, its low and high bits put together.
template <int kBits>
inline Ints code_at(const CodePointers& at, std::int64_t k) {
  constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits), kStep = 32 / kLow;
  const int within = static_cast<int>(k % kStep);
  const Ints low = code_bits<kLow>(load_codes(at.low + k / kStep * kVectorBytes), within * kLow);
  if constexpr (kHigh == 0) {
    return low;
  } else {
    constexpr int kWord = 32 / kHigh, kFields = 8 / kLow;
    const int byte = within / kFields, field = static_cast<int>(k % kWord / kStep) * kFields + within % kFields;
    const Ints high = code_bits<kHigh>(load_codes(at.high + k / kWord * kVectorBytes), 8 * byte + kHigh * field);
    return add_int(low, shift_left<kLow>(high));
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
