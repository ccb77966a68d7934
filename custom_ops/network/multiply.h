// Dynamic integer products: floats to codes in the range that they have, and sums of codes times weights to floats. Products by dot
// products of four bytes are here; amx.h has those by matrix registers.
#pragma once

#include <cstdint>
#include <cstring>

#include "network/convolve.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// ---- floats to codes ----

inline void range_of(const float* x, std::int64_t count, float* low, float* high) {
  Floats least = splat(*low), most = splat(*high);
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats value = load(x + i);
    least = smaller(value, least);
    most = larger(value, most);
  }
  *low = smallest(least);
  *high = largest(most);
  for (; i < count; ++i) {
    *low = x[i] < *low ? x[i] : *low;
    *high = x[i] > *high ? x[i] : *high;
  }
}

// x / scale, rounded as a division rounds it. Where the scale leaves room above and below, by its inverse and what that misses.
template <bool kHasRoom>
struct Quotient {
  Floats scale, inverse;
  explicit Quotient(float by) : scale(splat(kHasRoom ? -by : by)), inverse(splat(1.0f / by)) {}
  ONNXQUANT_INLINE Floats of(Floats x) const {
    if constexpr (!kHasRoom) return divide(x, scale);
    const Floats near = multiply(x, inverse);
    return fused(fused(near, scale, x), inverse, near);
  }
};

template <bool kHasRoom>
ONNXQUANT_NOINLINE void quantize_floats(const Quantization& to_codes, const float* x, std::int64_t rows, std::int64_t length,
                                        std::uint8_t* codes, std::int64_t stride) {
  const Quotient<kHasRoom> quotient(to_codes.scale);
  const Limits<Rounding::kAny> limits(to_codes.zero, 0, 255);
  const auto vector_of = [&](const float* from) {
    Ints four[4];
    for (int i = 0; i < 4; ++i) {
      // What is no number is below all codes.
      const Floats value = larger(quotient.of(load(from + i * kLanes)), splat(-kBeyondCodes));
      four[i] = round_to_int(at_most(value, kBeyondCodes));
    }
    return in_order(limits.of(four));
  };
  for (std::int64_t row = 0; row < rows; ++row, x += length, codes += stride) {
    std::int64_t i = 0;
    for (; i + kCodeBytes <= length; i += kCodeBytes) store_codes(codes + i, vector_of(x + i));
    if (i == length) continue;
    float last[kCodeBytes] = {};
    std::memcpy(last, x + i, static_cast<std::size_t>(length - i) * sizeof(float));
    store_codes(codes + i, vector_of(last));
  }
}

inline void quantize(const Quantization& to_codes, const float* x, std::int64_t rows, std::int64_t length, std::uint8_t* codes,
                     std::int64_t stride) {
  const bool has_room = to_codes.scale > 0x1p-60f && to_codes.scale < 0x1p60f;
  (has_room ? quantize_floats<true> : quantize_floats<false>)(to_codes, x, rows, length, codes, stride);
}

// ---- sums to floats ----

template <Activation kActivation>
ONNXQUANT_INLINE Floats activated(Floats x);

template <>
ONNXQUANT_INLINE Floats activated<Activation::kNone>(Floats x) {
  return x;
}
template <>
ONNXQUANT_INLINE Floats activated<Activation::kRelu>(Floats x) {
  return larger(splat(0.0f), x);
}
// x / 2 * (1 + erf(z)), z = x / sqrt(2): erf(z) / z by a polynomial of its square, whose error is below 3e-7. From 3.8 on it is 1.
template <>
ONNXQUANT_INLINE Floats activated<Activation::kGelu>(Floats x) {
  constexpr float kEnd = 3.8f, kOf[] = {-2.97570508e-3f, 1.08377058e-2f, -1.87042393e-2f, 2.61380505e-2f, -3.87373157e-2f,
                                        5.52330911e-2f,  -7.25686103e-2f, 9.08062384e-2f, -1.11179672e-1f, 1.37740985e-1f,
                                        -1.85641378e-1f, 3.72107595e-1f};
  const Floats z = smaller(larger(multiply(x, splat(0.707106781f)), splat(-kEnd)), splat(kEnd));
  const Floats t = fused(multiply(z, z), splat(0.138504162f), splat(-1.0f));
  Floats sum = fused(splat(1.23749021e-3f), t, splat(-2.80368398e-3f));
  sum = fused(sum, t, splat(1.66734448e-3f));
  for (const float next : kOf) sum = fused(sum, t, splat(next));
  const Floats half = multiply(x, splat(0.5f));
  return fused(half, multiply(sum, z), half);
}

// The sums of rows and panels as they are in memory: those of a row one behind the other, `stride` from one row to the next.
struct Sums {
  const std::int32_t* at;
  std::int64_t stride, rows, panel, panels;
};

// Vectors of the sums of a row: those of two panels at most.
constexpr int kMostVectors = 2 * kVectorsOfBlock;

// A row's outputs are written one behind the other: rows may be pages apart. kFull: there are as many vectors as there can be.
template <Activation kActivation, bool kFull>
ONNXQUANT_NOINLINE void finish_floats(const DynamicProduct& product, const Sums& sums, float* out) {
  const std::int64_t channels = product.weights.out_channels, first = sums.panel * kChannelBlock;
  const std::int64_t rest = channels - first, width = sums.panels * kChannelBlock, count = rest < width ? rest : width;
  const int whole = kFull ? kMostVectors : static_cast<int>(count / kLanes), last = kFull ? 0 : static_cast<int>(count % kLanes);
  Floats scale[kMostVectors], bias[kMostVectors];
  for (int v = 0; v < whole + (last > 0); ++v) {
    scale[v] = load(product.scales + first + v * kLanes);
    bias[v] = load(product.bias + first + v * kLanes);
  }
  const std::int32_t* at = sums.at;
  const auto output = [&](int v) {
    return activated<kActivation>(add(multiply(to_float(load_ints(at + v * kLanes)), scale[v]), bias[v]));
  };
  out += first;
  for (std::int64_t row = 0; row < sums.rows; ++row, at += sums.stride, out += channels) {
    for (int v = 0; v < whole; ++v) store(out + v * kLanes, output(v));
    if (last == 0) continue;
    float rest_of_row[kLanes];
    store(rest_of_row, output(whole));
    std::memcpy(out + whole * kLanes, rest_of_row, static_cast<std::size_t>(last) * sizeof(float));
  }
}

// `out` is where the row of the first sum begins.
template <Activation kActivation>
ONNXQUANT_INLINE void finish_as(const DynamicProduct& product, const Sums& sums, float* out) {
  const bool is_full = sums.panels == 2 && (sums.panel + 2) * kChannelBlock <= product.weights.out_channels;
  (is_full ? finish_floats<kActivation, true> : finish_floats<kActivation, false>)(product, sums, out);
}

inline void finish(const DynamicProduct& product, const Sums& sums, float* out) {
  switch (product.activation) {
    case Activation::kGelu: return finish_as<Activation::kGelu>(product, sums, out);
    case Activation::kRelu: return finish_as<Activation::kRelu>(product, sums, out);
    default: return finish_as<Activation::kNone>(product, sums, out);
  }
}

// ---- dot products ----

template <int kRows, int kPanels>
ONNXQUANT_NOINLINE void multiply_tile_of_rows(const DynamicProduct& product, const std::uint8_t* codes, std::int64_t stride, std::int64_t panel,
                                              float* out) {
  using Tile = PixelTile<kRows, kPanels>;
  const Convolution& weights = product.weights;
  const std::int64_t between = panel_bytes(weights);
  Tile tile;
  tile.start((kSignedCodes ? weights.signed_bias : weights.bias) + panel * kChannelBlock);
  tile.add_run(codes, stride, reinterpret_cast<const std::uint8_t*>(weights.weights) + panel * between, between, weights.run_bytes);
  std::int32_t sums[kRows * kPanels * kChannelBlock];
  for (int i = 0; i < kRows * Tile::kVectors; ++i) store_ints(sums + i * kLanes, tile.vector(i));
  finish(product, Sums{sums, kPanels * kChannelBlock, kRows, panel, kPanels}, out);
}

inline void multiply_by_dots(const DynamicProduct& product, const std::uint8_t* codes, std::int64_t stride, std::int64_t rows,
                             std::int64_t first, std::int64_t last, float* out) {
  using MultiplyTileOfRows = void (*)(const DynamicProduct&, const std::uint8_t*, std::int64_t, std::int64_t, float*);
  const bool tall = rows >= kTilePixels;
  const MultiplyTileOfRows wide = tall ? multiply_tile_of_rows<kTilePixels, kTilePanels> : multiply_tile_of_rows<1, kTilePanels>;
  const MultiplyTileOfRows single = tall ? multiply_tile_of_rows<kTilePixels, 1> : multiply_tile_of_rows<1, 1>;
  const std::int64_t height = tall ? kTilePixels : 1, channels = product.weights.out_channels;
  for (std::int64_t panel = first; panel < last;) {
    const bool is_wide = panel + kTilePanels <= last;
    for (std::int64_t row = 0; row < rows; row += height) {
      // The last rows overlap those before them.
      const std::int64_t at = row + height <= rows ? row : rows - height;
      (is_wide ? wide : single)(product, codes + at * stride, stride, panel, out + at * channels);
    }
    panel += is_wide ? kTilePanels : 1;
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
