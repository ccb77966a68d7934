// Activation rows rounded to int8, block by block.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/code_planes.h"
#include "kernels/kernel_table.h"
#include "simd/simd.h"
#include ONNXQUANT_DOT_HEADER

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Below this the scale or its inverse would leave the range of normal floats; such a block counts as zero.
constexpr float kSmallestMagnitude = 1.5e-36f;
constexpr std::int32_t kInfinityBits = 0x7f800000;

inline void clear(std::int8_t* codes, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) codes[k] = 0;
}

// One block: `count` values, up to `block` codes.
template <int kBits>
inline void quantize_block(const float* x, std::int64_t count, std::int64_t block, std::int8_t* codes, float* scale,
                           std::int32_t* sum) {
  const std::int64_t whole = count & ~std::int64_t{15};
  float tail[16] = {};
  for (std::int64_t k = whole; k < count; ++k) tail[k - whole] = x[k];

  LargestMagnitude largest;
  for (std::int64_t k = 0; k < whole; k += 16) largest.add(x + k);
  if (whole < count) largest.add(tail);
  const std::int32_t bits = largest.reduce();
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof magnitude);

  *sum = 0;
  if (bits >= kInfinityBits || magnitude < kSmallestMagnitude) {
    clear(codes, block);
    const std::int32_t nan_or_zero = bits >= kInfinityBits ? 0x7fc00000 : 0;
    std::memcpy(scale, &nan_or_zero, sizeof nan_or_zero);
    return;
  }
  Rounder<kBits> rounder(127.0f / magnitude);
  for (std::int64_t k = 0; k < whole; k += 16) rounder.put(x + k, codes + k);
  if (whole < block) {
    rounder.put(tail, codes + whole);
    clear(codes + whole + 16, block - whole - 16);
  }
  *scale = magnitude / 127.0f;
  *sum = rounder.reduce();
}

// The products of a block start at the sum of its activations times this factor, which takes the offset of the codes off.
// Dot<8> takes kOffset off by itself.
inline std::int32_t start_offset(const Format& format) {
  if (format.values == Values::kTable) return Dot<8>::kOffset - kTableOffset;
  return (format.bits == 8 ? Dot<8>::kOffset : 0) - offset_of(format);
}

template <int kBits>
void quantize_row(const Weights& weights, const float* x, const QuantizedRows& rows, std::int64_t row) {
  const std::int32_t offset = start_offset(*weights.format);
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    const std::int64_t first = b * weights.block;
    const std::int64_t rest = weights.K > first ? weights.K - first : 0;  // none: a block that only fills a word of high bits
    const std::int64_t at = row * rows.block_stride + b;
    std::int32_t sum;
    quantize_block<kBits>(x + first, rest < weights.block ? rest : weights.block, weights.block,
                          rows.codes + row * rows.code_stride + first, rows.scales + at, &sum);
    rows.starts[at] = offset * sum;
    rows.totals[at] = rows.scales[at] * static_cast<float>(sum);
  }
}

inline QuantizeRow select_quantize(int low) { return low == 8 ? quantize_row<8> : low == 4 ? quantize_row<4> : quantize_row<2>; }

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
