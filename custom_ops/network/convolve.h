// Convolutions by dot products of four bytes: the sums of a tile of pixels times one or two panels of 16 outputs stay in registers.
#pragma once

#include <cstdint>

#include "kernels/inline.h"
#include "network/positions.h"
#include "network/requantize.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// A tile's call: the first panel of outputs, and where each pixel is read and written.
struct TileCall {
  const Convolution& convolution;
  std::int64_t row;  // bytes of a row of taps further
  const std::uint8_t* at;
  std::int64_t step, panel;
  std::uint8_t* const* to;
};

inline std::int64_t panel_bytes(const Convolution& convolution) {
  return convolution.window.height * convolution.row_runs * convolution.run_padded * kChannelBlock;
}

template <int kPixels, int kPanels>
struct PixelTile {
  static constexpr int kVectors = kPanels * kVectorsOfBlock;
  Ints sums[kPixels][kVectors];

  ONNXQUANT_INLINE void start(const std::int32_t* bias) {
    for (int v = 0; v < kVectors; ++v) {
      const Ints first = load_ints(bias + v * kLanes);
      for (int p = 0; p < kPixels; ++p) sums[p][v] = first;
    }
  }

  // Pixels are addressed in threes: x86 adds a register once or twice to another.
  ONNXQUANT_INLINE void add_run(const std::uint8_t* x, std::int64_t step, const std::uint8_t* weights, std::int64_t between,
                                std::int64_t bytes) {
    constexpr int kThrees = (kPixels + 2) / 3;
    const std::uint8_t* threes[kThrees];
    for (int i = 0; i < kThrees; ++i) threes[i] = x + 3 * i * step;
    for (std::int64_t at = 0; at < bytes; at += 4, weights += 4 * kChannelBlock) {
      Codes w[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        w[v] = load_codes(weights + v / kVectorsOfBlock * between + v % kVectorsOfBlock * kCodeBytes);
      }
      for (int p = 0; p < kPixels; ++p) {
        const Codes four = splat_four(threes[p / 3] + p % 3 * step + at);
        for (int v = 0; v < kVectors; ++v) sums[p][v] = dot(sums[p][v], four, w[v]);
      }
    }
  }

  // Vector i of the tile, one pixel's after the other's.
  ONNXQUANT_INLINE const Ints& vector(int i) const { return sums[i / kVectors][i % kVectors]; }

  template <Rounding kRounding>
  ONNXQUANT_INLINE void finish(const Requantization& to_codes, std::int64_t first, std::uint8_t* const* to) const {
    Scale<kRounding> scales[kVectors];
    for (int v = 0; v < kVectors; ++v) scales[v].load_from(to_codes.scales + first + v * kLanes);
    finish_blocks<kRounding, 0>(scales, limits_of<kRounding>(to_codes), first, to);
  }

 private:
  // Four vectors at a time are as many blocks of outputs as a vector of codes has.
  template <Rounding kRounding, int kFirst>
  ONNXQUANT_INLINE void finish_blocks(const Scale<kRounding> (&scales)[kVectors], const Limits<kRounding>& limits,
                                      std::int64_t first, std::uint8_t* const* to) const {
    constexpr int kAll = kPixels * kPanels, kCount = kAll - kFirst < kBlocks ? kAll - kFirst : kBlocks;
    Ints four[4];
    std::uint8_t* places[kBlocks];
    for (int i = 0; i < 4; ++i) {
      const int at = kFirst * kVectorsOfBlock + i, last = kAll * kVectorsOfBlock - 1, v = at < last ? at : last;
      four[i] = scales[v % kVectors].of(vector(v));
    }
    for (int i = 0; i < kCount; ++i) places[i] = to[(kFirst + i) / kPanels] + first + (kFirst + i) % kPanels * kChannelBlock;
    scatter<kCount>(in_order(limits.of(four)), places);
    if constexpr (kFirst + kCount < kAll) finish_blocks<kRounding, kFirst + kCount>(scales, limits, first, to);
  }
};

template <int kPixels, int kPanels>
ONNXQUANT_NOINLINE void multiply_tile(const TileCall& call) {
  const Convolution& convolution = call.convolution;
  const Window& window = convolution.window;
  const std::int64_t between = panel_bytes(convolution), first = call.panel * kChannelBlock;
  const std::int64_t run_weights = convolution.run_padded * kChannelBlock, tap = window.dilation_x * convolution.pixel;
  const auto* weights = reinterpret_cast<const std::uint8_t*>(convolution.weights) + call.panel * between;
  PixelTile<kPixels, kPanels> tile;
  tile.start((kSignedCodes ? convolution.signed_bias : convolution.bias) + first);
  for (std::int64_t ky = 0; ky < window.height; ++ky) {
    for (std::int64_t run = 0; run < convolution.row_runs; ++run, weights += run_weights) {
      tile.add_run(call.at + ky * call.row + run * tap, call.step, weights, between, convolution.run_bytes);
    }
  }
  if (convolution.to_codes.rounding >= Rounding::kRectified) {
    tile.template finish<Rounding::kRectified>(convolution.to_codes, first, call.to);
  } else {
    tile.template finish<Rounding::kAny>(convolution.to_codes, first, call.to);
  }
}

using MultiplyTile = void (*)(const TileCall&);

// One for each number of pixels.
template <int kPanels>
struct TilesOf {
  MultiplyTile of[kTilePixels + 1] = {};
  constexpr TilesOf() { put<kTilePixels>(); }

 private:
  template <int kPixels>
  constexpr void put() {
    if constexpr (kPixels > 0) {
      of[kPixels] = multiply_tile<kPixels, kPanels>;
      put<kPixels - 1>();
    }
  }
};

// Bytes that stay in the first cache while others pass.
constexpr std::int64_t kNearBytes = 24 << 10, kFarBytes = 1 << 20;

// Whether all outputs of a tile of pixels come before the next tile: else the weights of some outputs stay near while the image passes.
inline bool pixels_first(std::int64_t image, std::int64_t tiles, std::int64_t weights, std::int64_t panels) {
  if (weights <= kNearBytes) return true;
  if (image <= kNearBytes) return false;
  return image + weights * tiles <= weights + image * panels * (image > kFarBytes ? 2 : 1);
}

inline void convolve_by_dots(const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  static constexpr TilesOf<1> kSingle;
  static constexpr TilesOf<kTilePanels> kWide;
  const Window& window = convolution.window;
  const Lines lines(window, in, out, begin, end, kTilePixels);
  const std::int64_t panels = round_up(convolution.out_channels, kChannelBlock) / kChannelBlock, length = lines.length();
  // A line's positions are shared out evenly.
  const std::int64_t tiles = (length + kTilePixels - 1) / kTilePixels;
  const std::int64_t image = lines.count() * length * window.stride_x * convolution.pixel;
  const bool inner = pixels_first(image, lines.count() * tiles, panel_bytes(convolution) * panels, (panels + kTilePanels - 1) / kTilePanels);
  const std::int64_t at_once = inner ? panels : kTilePanels;
  Outputs outputs(out);
  for (std::int64_t first = 0; first < panels; first += at_once) {
    const std::int64_t last = first + at_once < panels ? first + at_once : panels;
    for (std::int64_t i = 0; i < lines.count(); ++i) {
      const Line line = lines.line(i);
      outputs.begin(line);
      for (std::int64_t t = 0, from = 0; t < tiles; ++t) {
        const std::int64_t count = length * (t + 1) / tiles - from;
        std::uint8_t* to[kTilePixels];
        outputs.find(count, to);
        outputs.skip(count);
        TileCall call{convolution, window.dilation_y * in.row, line.at + from * line.step, line.step, first, to};
        while (call.panel < last) {
          const bool wide = call.panel + kTilePanels <= last;
          (wide ? kWide.of : kSingle.of)[count](call);
          call.panel += wide ? kTilePanels : 1;
        }
        from += count;
      }
    }
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
