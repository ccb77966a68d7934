// Float compute: weights decoded into panels of one tile, and activation rows multiplied with those.
#pragma once

#include <cstdint>

#include "kernels/code_planes.h"
#include "kernels/kernel_table.h"
#include "kernels/scales.h"
#include ONNXQUANT_DOT_HEADER

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Codes around an offset, scaled, and a minimum added.
template <int kBits>
void decode_codes(const Weights& weights, std::int64_t tile, std::int64_t first, std::int64_t count, float* panel) {
  const Ints offset = splat_int(-offset_of(*weights.format));
  const bool minimum = weights.format->has_minimum();
  const std::int64_t length = SideSpan::length(weights);
  SideSpan span;
  for (std::int64_t k = first; k < first + count;) {
    const std::int64_t b = k / weights.block;
    if (k == first || b % length == 0) {
      const std::int64_t from = b / length * length, rest = weights.blocks - from;
      span.fill(weights, tile, from, rest < length ? rest : length);
    }
    const std::int64_t end = (b + 1) * weights.block < first + count ? (b + 1) * weights.block : first + count;
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      const CodePointers at = codes_at(weights, tile, lane);
      const Floats scale = load(span.scales[b % length] + lane);
      const Floats low = minimum ? load(span.minima[b % length] + lane) : splat(0.0f);
      for (std::int64_t i = k; i < end; ++i) {
        const Floats value = multiply(to_float(add_int(code_at<kBits>(at, i), offset)), scale);
        store(panel + (i - first) * kTileChannels + lane, minimum ? add(value, low) : value);
      }
    }
    k = end;
  }
}

// Entries of a table, scaled.
template <int kBits>
void decode_table(const Weights& weights, std::int64_t tile, std::int64_t first, std::int64_t count, float* panel) {
  const float* table = weights.format->table->values;
  for (int lane = 0; lane < kTileChannels; lane += kLanes) {
    const CodePointers at = codes_at(weights, tile, lane);
    for (std::int64_t k = first; k < first + count;) {
      const std::int64_t b = k / weights.block;
      const std::int64_t group = weights.granularity == kPerBlock ? b >> weights.group_shift : 0;
      const Floats scale = load_scales(weights, tile, group, lane);
      const std::int64_t end = (b + 1) * weights.block < first + count ? (b + 1) * weights.block : first + count;
      for (; k < end; ++k) {
        const Floats value = multiply(table_floats<kBits>(table, code_at<kBits>(at, k)), scale);
        store(panel + (k - first) * kTileChannels + lane, value);
      }
    }
  }
}

template <bool kBfloat>
void decode_floats(const Weights& weights, std::int64_t tile, std::int64_t first, std::int64_t count, float* panel) {
  const auto* values =
      reinterpret_cast<const std::uint16_t*>(weights.codes) + (tile * weights.padded_k() + first) * kTileChannels;
  for (std::int64_t i = 0; i < count * kTileChannels; i += kLanes) {
    store(panel + i, kBfloat ? load_bfloat(values + i) : load_half(values + i));
  }
}

// Two sums per row, of the weights at even and at odd places: a single one would wait for every addition.
template <bool kSigned, int kRows>
inline void panel_rows(const float* panel, std::int64_t count, const float* x, std::int64_t stride, int lane, float* sums) {
  Floats sum[2][kRows];
  for (int r = 0; r < kRows; ++r) {
    sum[0][r] = load(sums + r * kTileChannels + lane);
    sum[1][r] = splat(0.0f);
  }
  const auto step = [&](std::int64_t k, Floats (&into)[kRows]) {
    const Floats weight = load(panel + k * kTileChannels + lane);
    for (int r = 0; r < kRows; ++r) {
      const Floats value = splat(x[r * stride + k]);
      into[r] = kSigned ? add(into[r], times_sign(value, weight)) : multiply_add(weight, value, into[r]);
    }
  };
  std::int64_t k = 0;
  for (; k + 2 <= count; k += 2) {
    step(k, sum[0]);
    step(k + 1, sum[1]);
  }
  if (k < count) step(k, sum[0]);
  for (int r = 0; r < kRows; ++r) store(sums + r * kTileChannels + lane, add(sum[0][r], sum[1][r]));
}

template <bool kSigned, int kRows = kFloatRowsAtOnce>
inline void panel_all_rows(const float* panel, std::int64_t count, FloatRows x, std::int64_t rows, float* sums) {
  for (; rows >= kRows; rows -= kRows, x.values += kRows * x.stride, sums += kRows * kTileChannels) {
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      panel_rows<kSigned, kRows>(panel, count, x.values, x.stride, lane, sums);
    }
  }
  if constexpr (kRows > 1) panel_all_rows<kSigned, kRows / 2>(panel, count, x, rows, sums);
}

inline void multiply_panel(const float* panel, std::int64_t count, const FloatRows& x, std::int64_t rows, float* sums) {
  panel_all_rows<false>(panel, count, x, rows, sums);
}

inline void add_signed_panel(const float* panel, std::int64_t count, const FloatRows& x, std::int64_t rows, float* sums) {
  panel_all_rows<true>(panel, count, x, rows, sums);
}

inline DecodePanel select_decode(const Weights& weights) {
  switch (weights.format->values) {
    case Values::kHalf: return decode_floats<false>;
    case Values::kBfloat: return decode_floats<true>;
    case Values::kTable: return weights.format->bits == 4 ? decode_table<4> : decode_table<8>;
    default: break;
  }
  switch (weights.format->bits) {
    case 8: return decode_codes<8>;
    case 6: return decode_codes<6>;
    case 5: return decode_codes<5>;
    case 4: return decode_codes<4>;
    case 3: return decode_codes<3>;
    default: return decode_codes<2>;
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
