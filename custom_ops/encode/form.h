// Parts of forms. A form is a pair of functions: from one group of weights to its codes and scales, and back. The rules
// are those of onnxquant/formats, operation by operation.
//
// A form derives from Form and has a Code type, kUnit (weights of a group where they are always as many, else 0), and
//   quantize(x, at, codes): codes and whatever belongs to the group, of `size` floats, a multiple of 16;
//   dequantize(codes, at, from, count, y): `count` weights, a multiple of 16, from weight `from` of the group on.
// Forms of blocks of 32 that split quantize in two (kBatches) are given 16 groups at a time, which share their reductions:
//   prepare(low, high, x, at): what belongs to the group, from its lowest and highest value (kPeak: high is the magnitude);
//   write(x, grid, codes): the codes.
// An encoder is a form, or has with_form(job, visit), which calls visit(form) with the one that the job asks for, and kTraits.
#pragma once

#include <cstdint>
#include <cstring>

#include "encode/encoder_table.h"
#include "encode/jobs.h"
#include "kernels/inline.h"
#include "simd/simd.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

struct Form {
  const EncodeJob& job;
  explicit Form(const EncodeJob& of) : job(of) {}
  static constexpr bool kBatches = false;
  static constexpr bool kOverwrites = false;  // quantize gets a copy of the weights that it may change
};

// The encoder of a format that the library does not encode.
struct NoEncoder {};

// Which group: its row, its number in the row, its number in these rows, and its weights.
struct Group {
  std::int64_t row, in_row, number;
  int size;
};

template <class T>
ONNXQUANT_INLINE T* plane(void* data) {
  return static_cast<T*>(data);
}

ONNXQUANT_INLINE float peak(const float* x, int size) {
  Sixteen most = magnitude(load_16(x));
  for (int i = 16; i < size; i += 16) most = larger(most, magnitude(load_16(x + i)));
  return largest(most);
}

// The signed element of largest magnitude, the first one on ties.
ONNXQUANT_INLINE float extreme(const float* x, int size) {
  const Sixteen most = splat_16(peak(x, size));
  for (int i = 0; i < size; i += 16) {
    const unsigned peaks = mask_bits(equal(magnitude(load_16(x + i)), most));
    if (peaks != 0) return x[i + lowest_bit(peaks)];
  }
  return x[0];  // NaN: refused afterwards
}

struct Range {
  float low, high;
};

template <bool kPeak>
ONNXQUANT_INLINE Range range(const float* x, int size) {
  if constexpr (kPeak) return {0.0f, peak(x, size)};
  Sixteen lows = load_16(x), highs = lows;
  for (int i = 16; i < size; i += 16) {
    lows = smaller(lows, load_16(x + i));
    highs = larger(highs, load_16(x + i));
  }
  return {smallest(lows), largest(highs)};
}

// Lowest and highest value of each of 16 groups of 32; with kPeak the highest magnitude alone.
template <bool kPeak>
ONNXQUANT_INLINE void ranges(const float* x, float* low, float* high) {
  Sixteen lows[16], highs[16];
  for (int g = 0; g < 16; ++g) {
    Sixteen a = load_16(x + 32 * g), b = load_16(x + 32 * g + 16);
    if constexpr (kPeak) {
      a = magnitude(a);
      b = magnitude(b);
    } else {
      lows[g] = smaller(a, b);
    }
    highs[g] = larger(a, b);
  }
  if constexpr (!kPeak) store_smallest_of_each(lows, low);
  store_largest_of_each(highs, high);
}

// The grid that the codes of a group are chosen on: 1 / scale, and the zero point or the minimum.
struct Grid {
  float inverse, zero;
};

ONNXQUANT_INLINE Sixteen clip(Sixteen x, float low, float high) { return smaller(larger(x, splat_16(low)), splat_16(high)); }

// To the nearest integer, halves away from zero, once it is truncated: 0.5 less one bit makes no sum reach the next integer
// that the exact one does not reach.
ONNXQUANT_INLINE Sixteen before_truncation(Sixteen x) { return add(x, copy_sign(0x1.fffffep-2f, x)); }

// y = table[code] * scale. Sixteen at a time: how long a loop over single codes takes depends on where in memory it is.
ONNXQUANT_INLINE void scale_entries(const std::uint8_t* codes, const float* table, int entries, float scale, int count, float* y) {
  for (int i = 0; i < count; i += 16) {
    for (int j = 0; j < 16; ++j) y[i + j] = table[codes[i + j] & (entries - 1)] * scale;
  }
}

// y = (code - zero) * scale.
ONNXQUANT_INLINE void scale_codes(const std::uint8_t* codes, float zero, float scale, int count, float* y) {
  const Sixteen zeros = splat_16(zero), scales = splat_16(scale);
  for (int i = 0; i < count; i += 16) store(y + i, multiply(subtract(load_bytes_16(codes + i), zeros), scales));
}

// The scale in float16; what would underflow takes the smallest subnormal with its sign.
ONNXQUANT_INLINE std::uint16_t lasting_half(float scale) {
  const std::uint16_t half = to_half(scale);
  return static_cast<std::uint16_t>((half & 0x7fffu) == 0 && scale != 0 ? half | 1u : half);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
