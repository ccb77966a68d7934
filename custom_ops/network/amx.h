// Convolutions and products on AMX: a register holds 64 bytes of a run of 16 pixels, as they lie in the image, another one the weights of a panel
// of 16 outputs, a third one their sums. Lines of few pixels are left to dot products.
#pragma once

#include <cstdint>

#include "kernels/tiles.h"
#include "network/multiply.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Sums in registers 0 to 3 (0 and 1 of the first pixels, 2 and 3 of the others), pixels in 4 and 5, weights in 6 and 7.
constexpr std::int64_t kTileRows = 16, kTileBytes = 64;
constexpr std::int64_t kSumChannels = 2 * kChannelBlock, kSumBytes = kSumChannels * 4;
constexpr std::int64_t kLeastPixels = 4;  // of a line

// Up to 16 neighbouring pixels of a line; the last ones of a line overlap those before them.
struct TileRow {
  const std::uint8_t* at;
  std::uint8_t* to[kTileRows];
};

// One or two rows of pixels times one or two panels, and where their sums are until they become codes.
struct Square {
  TileRow rows[2];
  int height;
};

struct SquareCall {
  const Convolution& convolution;
  std::int64_t row, step;        // bytes to the next row of taps, and to the next pixel
  std::int64_t bytes, steps;     // of a run at a time, and how often
  std::int64_t pixels;           // of a row
  const Square& square;
  std::int64_t panel;
};

template <bool kTall, bool kWide>
ONNXQUANT_INLINE void multiply_square(const SquareCall& call) {
  const Convolution& convolution = call.convolution;
  const Window& window = convolution.window;
  const std::int64_t between = panel_bytes(convolution), tap = window.dilation_x * convolution.pixel;
  const auto* weights = convolution.weights + call.panel * between;
  const std::int32_t* bias = convolution.bias + call.panel * kChannelBlock;
  _tile_loadd(0, bias, 0);
  if constexpr (kWide) _tile_loadd(1, bias + kChannelBlock, 0);
  if constexpr (kTall) _tile_loadd(2, bias, 0);
  if constexpr (kTall && kWide) _tile_loadd(3, bias + kChannelBlock, 0);
  for (std::int64_t ky = 0; ky < window.height; ++ky) {
    for (std::int64_t run = 0; run < convolution.row_runs; ++run, weights += convolution.run_padded * kChannelBlock) {
      const std::int64_t offset = ky * call.row + run * tap;
      const std::uint8_t *first = call.square.rows[0].at + offset, *second = call.square.rows[1].at + offset;
      const std::int8_t* w = weights;
      for (std::int64_t i = 0; i < call.steps; ++i, first += call.bytes, second += call.bytes, w += call.bytes * kChannelBlock) {
        _tile_loadd(4, first, call.step);
        _tile_loadd(6, w, kTileBytes);
        _tile_dpbusd(0, 4, 6);
        if constexpr (kWide) _tile_loadd(7, w + between, kTileBytes);
        if constexpr (kWide) _tile_dpbusd(1, 4, 7);
        if constexpr (kTall) _tile_loadd(5, second, call.step);
        if constexpr (kTall) _tile_dpbusd(2, 5, 6);
        if constexpr (kTall && kWide) _tile_dpbusd(3, 5, 7);
      }
    }
  }
}

ONNXQUANT_INLINE void store_sums(bool tall, bool wide, std::int32_t* sums) {
  _tile_stored(0, sums, kSumBytes);
  if (wide) _tile_stored(1, sums + kChannelBlock, kSumBytes);
  if (tall) _tile_stored(2, sums + kTileRows * kSumChannels, kSumBytes);
  if (tall && wide) _tile_stored(3, sums + kTileRows * kSumChannels + kChannelBlock, kSumBytes);
  ONNXQUANT_TILE_BARRIER();
}

// Codes of the sums of a row of pixels: of two at a time where there are two panels, else of four.
template <Rounding kRounding>
ONNXQUANT_INLINE void finish_wide(const Requantization& to_codes, const std::int32_t* sums, std::int64_t pixels, std::int64_t first,
                                  std::uint8_t* const* to) {
  Scale<kRounding> scales[2];
  for (int v = 0; v < 2; ++v) scales[v].load_from(to_codes.scales + first + v * kChannelBlock);
  const Limits<kRounding> limits = limits_of<kRounding>(to_codes);
  std::int64_t p = 0;
  for (; p + 2 <= pixels; p += 2, sums += 2 * kSumChannels) {
    Ints four[4];
    for (int i = 0; i < 4; ++i) four[i] = scales[i % 2].of(load_ints(sums + i * kChannelBlock));
    const Codes codes = in_order(limits.of(four));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to[p] + first), _mm512_castsi512_si256(codes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to[p + 1] + first), _mm512_extracti64x4_epi64(codes, 1));
  }
  if (p < pixels) {
    Ints four[4];
    for (int i = 0; i < 4; ++i) four[i] = scales[i % 2].of(load_ints(sums + i % 2 * kChannelBlock));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to[p] + first), _mm512_castsi512_si256(in_order(limits.of(four))));
  }
}

template <Rounding kRounding>
ONNXQUANT_INLINE void finish_narrow(const Requantization& to_codes, const std::int32_t* sums, std::int64_t pixels, std::int64_t first,
                                    std::uint8_t* const* to) {
  Scale<kRounding> scale;
  scale.load_from(to_codes.scales + first);
  const Limits<kRounding> limits = limits_of<kRounding>(to_codes);
  for (std::int64_t p = 0; p < pixels; p += 4) {
    const std::int64_t last = pixels - 1;
    Ints four[4];
    std::uint8_t* places[4];
    // Beyond the last pixel it is computed again.
    for (int i = 0; i < 4; ++i) {
      const std::int64_t at = p + i < last ? p + i : last;
      four[i] = scale.of(load_ints(sums + at * kSumChannels));
      places[i] = to[at] + first;
    }
    scatter<4>(in_order(limits.of(four)), places);
  }
}

// Sums that are to become codes while the next ones are computed.
struct Pending {
  const Square* square = nullptr;
  const std::int32_t* sums;
  std::int64_t panel;
  bool wide;
};

template <Rounding kRounding>
ONNXQUANT_NOINLINE void finish_square(const Requantization& to_codes, std::int64_t pixels, const Pending& pending) {
  if (pending.square == nullptr) return;
  const std::int64_t first = pending.panel * kChannelBlock;
  for (int h = 0; h < pending.square->height; ++h) {
    const std::int32_t* sums = pending.sums + h * kTileRows * kSumChannels;
    std::uint8_t* const* to = pending.square->rows[h].to;
    if (pending.wide) {
      finish_wide<kRounding>(to_codes, sums, pixels, first, to);
    } else {
      finish_narrow<kRounding>(to_codes, sums, pixels, first, to);
    }
  }
}

using FinishSquare = void (*)(const Requantization&, std::int64_t pixels, const Pending&);

inline FinishSquare select_finish(Rounding rounding) {
  switch (rounding) {
    case Rounding::kPlain: return finish_square<Rounding::kPlain>;
    case Rounding::kRectified: return finish_square<Rounding::kRectified>;
    case Rounding::kBounded: return finish_square<Rounding::kBounded>;
    default: return finish_square<Rounding::kAny>;
  }
}

// Rows of pixels of all lines, one after the other.
class TileRows {
 public:
  TileRows(const Lines& lines, const Image& out)
      : lines_(lines), outputs_(out), pixels_(lines.length() < kTileRows ? lines.length() : kTileRows),
        in_line_((lines.length() + kTileRows - 1) / kTileRows) {}

  std::int64_t count() const { return lines_.count() * in_line_; }
  std::int64_t pixels() const { return pixels_; }
  void restart() {
    number_ = 0;
    from_ = lines_.length();
  }
  void next(TileRow& row) {
    const std::int64_t last = lines_.length() - pixels_;
    if (from_ >= last) {
      line_ = lines_.line(number_++);
      outputs_.begin(line_);
      from_ = 0;
    } else {
      const std::int64_t step = last - from_ < kTileRows ? last - from_ : kTileRows;
      from_ += step;
      outputs_.skip(step);
    }
    row.at = line_.at + from_ * line_.step;
    outputs_.find(pixels_, row.to);
  }

 private:
  const Lines& lines_;
  Outputs outputs_;
  std::int64_t pixels_, in_line_, number_ = 0, from_ = 0;
  Line line_{};
};

inline TileShapes shapes_of(std::int64_t pixels, std::int64_t bytes) {
  TileShapes out{};
  out.palette = 1;
  for (int i = 0; i < 8; ++i) {
    const bool of_pixels = i == 4 || i == 5, of_weights = i >= 6;
    out.row_bytes[i] = static_cast<std::uint16_t>(of_pixels ? bytes : kTileBytes);
    out.rows[i] = static_cast<std::uint8_t>(of_weights ? bytes / 4 : pixels);
  }
  return out;
}

inline void convolve_by_tiles(const Convolution& convolution, const Image& in, const Image& out, const Lines& lines) {
  const Window& window = convolution.window;
  TileRows rows(lines, out);
  const std::int64_t panels = round_up(convolution.out_channels, kChannelBlock) / kChannelBlock;
  const std::int64_t steps = (convolution.run_bytes + kTileBytes - 1) / kTileBytes;
  const std::int64_t bytes = round_up((convolution.run_bytes + steps - 1) / steps, 4), squares = (rows.count() + 1) / 2;
  const std::int64_t image = lines.count() * lines.length() * window.stride_x * convolution.pixel;
  const bool inner = pixels_first(image, squares, panel_bytes(convolution) * panels, (panels + 1) / 2);
  const std::int64_t at_once = inner ? panels : 2;
  const FinishSquare finish = select_finish(convolution.to_codes.rounding);
  alignas(64) std::int32_t sums[2][2 * kTileRows * kSumChannels];
  alignas(64) const TileShapes shapes = shapes_of(rows.pixels(), bytes);
  Square all[2];
  Pending pending;
  int turn = 0, sums_turn = 0;
  const Tiles tiles(shapes);
  for (std::int64_t first = 0; first < panels; first += at_once) {
    rows.restart();
    for (std::int64_t i = 0; i < squares; ++i, turn ^= 1) {
      Square& square = all[turn];
      square.height = 2 * i + 1 < rows.count() ? 2 : 1;
      for (int h = 0; h < square.height; ++h) rows.next(square.rows[h]);
      if (square.height == 1) square.rows[1].at = square.rows[0].at;
      const bool tall = square.height == 2;
      for (std::int64_t panel = first; panel < panels && panel < first + at_once; panel += 2, sums_turn ^= 1) {
        const SquareCall call{convolution, window.dilation_y * in.row, lines.step(), bytes, steps, rows.pixels(), square, panel};
        const bool wide = panel + 1 < panels;
        if (tall && wide) multiply_square<true, true>(call);
        if (tall && !wide) multiply_square<true, false>(call);
        if (!tall && wide) multiply_square<false, true>(call);
        if (!tall && !wide) multiply_square<false, false>(call);
        finish(convolution.to_codes, rows.pixels(), pending);
        store_sums(tall, wide, sums[sums_turn]);
        pending = Pending{&square, sums[sums_turn], panel, wide};
      }
    }
  }
  finish(convolution.to_codes, rows.pixels(), pending);
}

inline void convolve(const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  const Lines lines(convolution.window, in, out, begin, end, kTileRows);
  if (lines.length() < kLeastPixels) return convolve_by_dots(convolution, in, out, begin, end);
  convolve_by_tiles(convolution, in, out, lines);
}

// ---- products ----

// The part of an output that is to be finished while the next sums are computed: one or two blocks of rows.
struct PendingRows {
  Sums sums;
  std::int64_t at[2];  // their first rows
  int height = 0;
};

inline void finish_rows(const DynamicProduct& product, const PendingRows& pending, float* out) {
  for (int h = 0; h < pending.height; ++h) {
    Sums sums = pending.sums;
    sums.at += h * kTileRows * kSumChannels;
    finish(product, sums, out + pending.at[h] * product.weights.out_channels);
  }
}

inline void multiply_by_tiles(const DynamicProduct& product, const std::uint8_t* codes, std::int64_t stride, std::int64_t rows,
                              std::int64_t first, std::int64_t last, float* out) {
  const Convolution& weights = product.weights;
  const std::int64_t steps = (weights.run_bytes + kTileBytes - 1) / kTileBytes;
  const std::int64_t bytes = round_up((weights.run_bytes + steps - 1) / steps, 4);
  const std::int64_t height = rows < kTileRows ? rows : kTileRows, blocks = (rows + kTileRows - 1) / kTileRows;
  alignas(64) std::int32_t sums[2][2 * kTileRows * kSumChannels];
  alignas(64) const TileShapes shapes = shapes_of(height, bytes);
  PendingRows pending;
  int turn = 0;
  const Tiles tiles(shapes);
  for (std::int64_t panel = first; panel < last; panel += 2) {
    const bool wide = panel + 1 < last;
    for (std::int64_t block = 0; block < blocks; block += 2, turn ^= 1) {
      PendingRows next;
      next.height = block + 1 < blocks ? 2 : 1;
      next.sums = Sums{sums[turn], kSumChannels, height, panel, wide ? 2 : 1};
      Square square{};
      for (int h = 0; h < 2; ++h) {
        // The last rows overlap those before them.
        const std::int64_t row = (block + (h < next.height ? h : 0)) * kTileRows;
        next.at[h] = row + height <= rows ? row : rows - height;
        square.rows[h].at = codes + next.at[h] * stride;
      }
      const bool tall = next.height == 2;
      const SquareCall call{weights, 0, stride, bytes, steps, height, square, panel};
      if (tall && wide) multiply_square<true, true>(call);
      if (tall && !wide) multiply_square<true, false>(call);
      if (!tall && wide) multiply_square<false, true>(call);
      if (!tall && !wide) multiply_square<false, false>(call);
      finish_rows(product, pending, out);
      store_sums(tall, wide, sums[turn]);
      pending = next;
    }
  }
  finish_rows(product, pending, out);
}

inline void multiply_rows(const DynamicProduct& product, const std::uint8_t* codes, std::int64_t stride, std::int64_t rows, std::int64_t first,
                          std::int64_t last, float* out) {
  if (rows < kLeastPixels) return multiply_by_dots(product, codes, stride, rows, first, last, out);
  multiply_by_tiles(product, codes, stride, rows, first, last, out);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
