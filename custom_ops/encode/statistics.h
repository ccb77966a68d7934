// Sums of the errors of an encoded weight.
#pragma once

#include <cstdint>

#include "encode/jobs.h"
#include "kernels/inline.h"
#include "simd/simd.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Eight lanes of doubles: element i goes to lane i % 8 on every instruction set.
struct Sums {
  static constexpr int kWidth = kLanes / 2, kParts = 8 / kWidth;
  Doubles error[kParts], bias[kParts], reference[kParts], actual[kParts], worst[kParts];
  std::int64_t unequal_count = 0;

  Sums() {
    for (int i = 0; i < kParts; ++i) error[i] = bias[i] = reference[i] = actual[i] = worst[i] = splat_double(0.0);
  }

  ONNXQUANT_INLINE void add(Sixteen x, Sixteen y) {
    unequal_count += bit_count(mask_bits(unequal(x, y)));
    add_parts<0>(x, y);
  }
  template <int kPart>
  ONNXQUANT_INLINE void add_parts(const Sixteen& x, const Sixteen& y) {
    const Floats a = part<kPart>(x), b = part<kPart>(y);
    add_doubles<2 * kPart % kParts>(lower_doubles(a), lower_doubles(b));
    add_doubles<(2 * kPart + 1) % kParts>(upper_doubles(a), upper_doubles(b));
    if constexpr (kPart + 1 < kVectorsOfSixteen) add_parts<kPart + 1>(x, y);
  }
  template <int kAt>
  ONNXQUANT_INLINE void add_doubles(const Doubles& a, const Doubles& b) {
    const Doubles delta = subtract(b, a), square = multiply(delta, delta);
    error[kAt] = ONNXQUANT_ISA::add(error[kAt], square);
    bias[kAt] = ONNXQUANT_ISA::add(bias[kAt], delta);
    worst[kAt] = larger(square, worst[kAt]);
    reference[kAt] = add_square(a, reference[kAt]);
    actual[kAt] = add_square(b, actual[kAt]);
  }
  void write(double (*out)[8]) const {
    const Doubles* sums[] = {error, bias, reference, actual, worst};
    for (int i = 0; i < 5; ++i) {
      for (int j = 0; j < kParts; ++j) store(out[i] + j * kWidth, sums[i][j]);
    }
  }
};

ONNXQUANT_INLINE void add_errors(const float* x, const float* y, std::int64_t count, Sums& sums) {
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) sums.add(load_16(x + i), load_16(y + i));
  if (i == count) return;
  float a[16] = {}, b[16] = {};
  for (int j = 0; i < count; ++i, ++j) {
    a[j] = x[i];
    b[j] = y[i];
  }
  sums.add(load_16(a), load_16(b));
}

inline void write(const Sums& sums, Statistics& out) {
  double lanes[5][8];
  sums.write(lanes);
  double* totals[] = {&out.error, &out.bias, &out.reference, &out.actual};
  for (int i = 0; i < 4; ++i) {
    *totals[i] = 0;
    for (const double lane : lanes[i]) *totals[i] += lane;
  }
  out.worst = 0;  // squared
  for (const double lane : lanes[4]) out.worst = lane > out.worst ? lane : out.worst;
  out.unequal = sums.unequal_count;
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
