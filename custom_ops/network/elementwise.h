// Sums and products of two tensors of codes.
#pragma once

#include <cstdint>

#include "network/requantize.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// out = rounded(a, b) as codes; `count` is a multiple of kChannelBlock.
template <class Rounded>
ONNXQUANT_INLINE void combine(const std::uint8_t* a, const std::uint8_t* b, std::int64_t count, const Limits<Rounding::kAny>& limits,
                              std::uint8_t* out, Rounded rounded) {
  std::int64_t at = 0;
  Ints four[4];
  for (; at + kCodeBytes <= count; at += kCodeBytes) {
    for (int k = 0; k < 4; ++k) four[k] = rounded(load_bytes(a + at + k * kLanes), load_bytes(b + at + k * kLanes));
    store_codes(out + at, in_order(limits.of(four)));
  }
  for (; at < count; at += kChannelBlock) {
    for (int k = 0; k < 4; ++k) {
      const std::int64_t from = at + k % kVectorsOfBlock * kLanes;
      four[k] = rounded(load_bytes(a + from), load_bytes(b + from));
    }
    store_block<0>(out + at, in_order(limits.of(four)));
  }
}

// A value that is no code becomes one at the end of its range, whatever an int holds.
ONNXQUANT_INLINE Ints rounded_code(Floats value) { return round_to_int(at_most(value, kBeyondCodes)); }

inline void add_codes(const Addition& addition, const std::uint8_t* a, const std::uint8_t* b, std::int64_t count, std::uint8_t* out) {
  const Floats a_factor = splat(addition.a_factor), b_factor = splat(addition.b_factor), offset = splat(addition.offset);
  combine(a, b, count, {0, addition.low, addition.high}, out, [=](Floats x, Floats y) {
    return rounded_code(fused(a_factor, x, fused(b_factor, y, offset)));
  });
}

inline void multiply_codes(const Multiplication& by, const std::uint8_t* a, const std::uint8_t* b, std::int64_t count,
                           std::uint8_t* out) {
  const Floats factor = splat(by.factor), a_zero = splat(by.a_zero), b_zero = splat(by.b_zero), zero = splat(by.zero);
  combine(a, b, count, {0, by.low, by.high}, out, [=](Floats x, Floats y) {
    return rounded_code(add(multiply(multiply(subtract(x, a_zero), subtract(y, b_zero)), factor), zero));
  });
}

inline void multiply_channels(const Multiplication& by, const std::uint8_t* a, const std::uint8_t* b, std::int64_t pixels,
                              std::int64_t channels, std::uint8_t* out) {
  for (std::int64_t i = 0; i < pixels; ++i) multiply_codes(by, a + i * channels, b, channels, out + i * channels);
}

inline void map_channels(const std::uint8_t* tables, const std::uint8_t* in, std::int64_t pixels, std::int64_t channels,
                         std::int64_t pixel, std::uint8_t* out) {
  for (std::int64_t i = 0; i < pixels; ++i, in += pixel, out += pixel) {
    for (std::int64_t c = 0; c < channels; ++c) out[c] = tables[c * 256 + in[c]];
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
