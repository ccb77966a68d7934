// Convolutions of each channel by itself. The bytes of four rows of taps are interleaved, so that a dot product of four bytes
// multiplies a column of them; a column is interleaved once for all outputs that read it, which are those of one row, or of two
// where the rows between share what is interleaved.
//
// A vector holds neighbouring channels of one pixel; where there are too few channels, the same channels of several pixels, which
// are as far apart as the pieces are that the row of outputs is cut into.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/inline.h"
#include "network/positions.h"
#include "network/requantize.h"
#include "network/unroll.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Interleaved columns that fit into the first cache.
constexpr std::int64_t kMostColumns = 96;

// The parameters of as many channels as a vector has codes, in the order of interleave().
class DepthwiseBlock {
 public:
  // Vectors of weights that fit; where there are more they are looked up in the packed ones.
  static constexpr std::int64_t kMostTaps = 2 * 2 * 8;

  // `pieces` of a vector have the same channels, from `first` on.
  void fill(const Convolution& convolution, std::int64_t first, int pieces) {
    const std::int64_t rounded = round_up(convolution.out_channels, kChannelBlock);
    const std::int32_t* bias = kSignedCodes ? convolution.signed_bias : convolution.bias;
    const std::int64_t size = taps(convolution) * 64;
    for (int block = 0; block < kBlocks; ++block) {
      std::int64_t channel = first + block % (kBlocks / pieces) * kChannelBlock;
      if (channel >= rounded) channel = rounded - kChannelBlock;  // not stored
      const std::int8_t* weights = convolution.weights + channel / kChannelBlock * size;
      for (int k = 0; k < 4; ++k) {
        std::memcpy(bias_ + k * kLanes + 4 * block, bias + channel + 4 * k, 16);
        std::memcpy(scales_ + k * kLanes + 4 * block, convolution.to_codes.scales + channel + 4 * k, 16);
      }
      for (std::int64_t tap = 0; tap < taps(convolution); ++tap) {
        for (int k = 0; k < 4; ++k) {
          std::memcpy(weights_ + ((tap * 4 + k) * kBlocks + block) * 16, weights + tap * 64 + 16 * k, 16);
        }
      }
    }
  }

  static std::int64_t groups(const Convolution& convolution) {
    return round_up(convolution.window.height, kTapRows) / kTapRows;
  }
  static std::int64_t taps(const Convolution& convolution) {
    return convolution.output_rows * groups(convolution) * convolution.window.width;
  }

  ONNXQUANT_INLINE Ints bias(int k) const { return load_ints(bias_ + k * kLanes); }
  const float* scales() const { return scales_; }
  const std::uint8_t* weights() const { return weights_; }

 private:
  alignas(64) std::int32_t bias_[4 * kLanes];
  alignas(64) float scales_[4 * kLanes];
  alignas(64) std::uint8_t weights_[kMostTaps * 4 * kCodeBytes];
};

struct DepthwiseCall {
  const Convolution& convolution;
  const Image &in, &out;
  const DepthwiseBlock& block;
  std::int64_t first, blocks;  // channel, and blocks of channels that are stored of each piece
  std::int64_t groups;
  int pieces;  // of a vector
};

// Where the rows of a group of taps begin, at the column of output 0; rows that the window has not repeat the last one.
inline void rows_of_group(const DepthwiseCall& call, std::int64_t y, std::int64_t rows, std::int64_t group,
                          const std::uint8_t* (&at)[4]) {
  const Window& window = call.convolution.window;
  const std::int64_t last = window.height - 1 + (rows - 1) * window.stride_y;
  for (int i = 0; i < 4; ++i) {
    std::int64_t ky = group * kTapRows + i;
    if (ky > last) ky = last;
    at[i] = first_tap(window, call.in, y) + ky * window.dilation_y * call.in.row + call.first;
  }
}

// columns[count][4] = columns of a group of rows, from column `from` on; `apart`: bytes between the pieces of a vector.
template <int kPieces>
ONNXQUANT_NOINLINE void interleave_columns(const std::uint8_t* const (&rows)[4], std::int64_t pixel, std::int64_t apart,
                                           std::int64_t from, std::int64_t count, std::uint8_t* columns) {
  const std::uint8_t* at[4];
  for (int i = 0; i < 4; ++i) at[i] = rows[i] + from * pixel;
  for (std::int64_t column = 0; column < count; ++column, columns += 4 * kCodeBytes) {
    Codes four[4], mixed[4];
    for (int i = 0; i < 4; ++i) {
      four[i] = load_pieces<kPieces>(at[i], apart);
      at[i] += pixel;
    }
    interleave(four, mixed);
    for (int k = 0; k < 4; ++k) store_codes(columns + k * kCodeBytes, mixed[k]);
  }
}

// Stores the pieces of a vector of outputs that lie in the row.
template <int kPieces>
ONNXQUANT_INLINE void scatter_pieces(const DepthwiseCall& call, Codes codes, std::int64_t x, std::int64_t length, std::uint8_t* to) {
  constexpr int kBlocksOfPiece = kBlocks / kPieces;
  std::uint8_t nowhere[kChannelBlock];
  std::uint8_t* places[kBlocks];
  for (int block = 0; block < kBlocks; ++block) {
    const std::int64_t piece = block / kBlocksOfPiece, at = block % kBlocksOfPiece;
    const bool valid = x + piece * length < call.out.width && at < call.blocks;
    places[block] = valid ? to + piece * length * call.out.pixel + at * kChannelBlock : nowhere;
  }
  scatter<kBlocks>(codes, places);
}

// Stores a vector of outputs; what lies beyond the row, or is the next piece's, is left out.
ONNXQUANT_INLINE void store_pieces(const DepthwiseCall& call, Codes codes, std::int64_t y, std::int64_t x, std::int64_t length) {
  if (x >= length) return;
  std::uint8_t* to = call.out.data + y * call.out.row + x * call.out.pixel + call.first;
  if (call.pieces == 1) return store_blocks(to, codes, call.blocks);
  if constexpr (kBlocks >= 4) {
    if (call.pieces == 4) return scatter_pieces<4>(call, codes, x, length, to);
  }
  if constexpr (kBlocks >= 2) scatter_pieces<2>(call, codes, x, length, to);
}

// Of a window of 3 columns with one group of rows, next to each other, and outputs kStride apart; kStride 0: of any window.
// kCount outputs of kRows rows from column `columns` on, which is that of the first one's first tap. Four channels of each block are
// computed after the other. Outputs beyond the row's end are not stored.
template <Rounding kRounding, int kRows, int kCount, int kStride>
ONNXQUANT_INLINE void depthwise_outputs(const DepthwiseCall& call, const std::uint8_t* columns, std::int64_t between,
                                        std::int64_t y, std::int64_t x, std::int64_t length) {
  constexpr int kColumn = 4 * kCodeBytes, kOutputs = kRows * kCount, kThree = 3;
  const Convolution& convolution = call.convolution;
  const Window& window = convolution.window;
  const std::int64_t width = kStride > 0 ? kThree : window.width, groups = kStride > 0 ? 1 : call.groups;
  const std::int64_t step = (kStride > 0 ? kStride : window.stride_x) * kColumn;
  const std::int64_t tap_step = kStride > 0 ? kColumn : window.dilation_x * kColumn, row_weights = groups * width * kColumn;
  const std::uint8_t* all_weights = call.block.weights();
  const Limits<kRounding> limits = limits_of<kRounding>(convolution.to_codes);
  Words words[2][kOutputs];
  Ints even[kOutputs];
  unrolled<4>([&](auto k) ONNXQUANT_INLINE_LAMBDA {
    Ints sums[kOutputs];
    const Ints bias = call.block.bias(k);
    unrolled<kOutputs>([&](auto i) ONNXQUANT_INLINE_LAMBDA { sums[i] = bias; });
    const auto add_tap = [&](const std::uint8_t* at, const std::uint8_t* weights) ONNXQUANT_INLINE_LAMBDA {
      Codes w[kRows];
      unrolled<kRows>([&](auto r) ONNXQUANT_INLINE_LAMBDA { w[r] = load_codes(weights + r * row_weights); });
      unrolled<kCount>([&](auto i) ONNXQUANT_INLINE_LAMBDA {
        const Codes codes = load_codes(at + i * step);
        unrolled<kRows>([&](auto r) ONNXQUANT_INLINE_LAMBDA { sums[r * kCount + i] = dot(sums[r * kCount + i], codes, w[r]); });
      });
    };
    const std::uint8_t *at = columns + k * kCodeBytes, *weights = all_weights + k * kCodeBytes;
    if constexpr (kStride > 0) {
      unrolled<kThree>([&](auto kx) ONNXQUANT_INLINE_LAMBDA { add_tap(at + kx * kColumn, weights + kx * kColumn); });
    } else {
      for (std::int64_t g = 0; g < groups; ++g, at += between) {
        for (std::int64_t kx = 0; kx < width; ++kx, weights += kColumn) add_tap(at + kx * tap_step, weights);
      }
    }
    Scale<kRounding> scale;
    scale.load_from(call.block.scales() + k * kLanes);
    unrolled<kOutputs>([&](auto i) ONNXQUANT_INLINE_LAMBDA {
      if constexpr (decltype(k)::kIndex % 2 == 0) {
        even[i] = scale.of(sums[i]);
      } else {
        words[k / 2][i] = limits.words(even[i], scale.of(sums[i]));
      }
    });
  });
  unrolled<kRows>([&](auto r) ONNXQUANT_INLINE_LAMBDA {
    unrolled<kCount>([&](auto i) ONNXQUANT_INLINE_LAMBDA {
      store_pieces(call, limits.codes(words[0][r * kCount + i], words[1][r * kCount + i]), y + r, x + i, length);
    });
  });
}

using InterleaveColumns = void (*)(const std::uint8_t* const (&rows)[4], std::int64_t pixel, std::int64_t apart, std::int64_t from,
                                   std::int64_t count, std::uint8_t* columns);

inline InterleaveColumns select_interleave(int pieces) {
  if constexpr (kBlocks >= 4) {
    if (pieces == 4) return interleave_columns<4>;
  }
  if constexpr (kBlocks >= 2) {
    if (pieces == 2) return interleave_columns<2>;
  }
  return interleave_columns<1>;
}

// Rows y .. y + kRows - 1 of the outputs of a block of channels.
template <Rounding kRounding, int kRows, int kStride>
ONNXQUANT_NOINLINE void depthwise_row(const DepthwiseCall& call, std::int64_t y) {
  constexpr int kCount = kDepthwiseOutputs / kRows;
  const Window& window = call.convolution.window;
  const InterleaveColumns interleave_all = select_interleave(call.pieces);
  alignas(64) std::uint8_t columns[kMostColumns * 4 * kCodeBytes];
  const std::int64_t length = (call.out.width + call.pieces - 1) / call.pieces, apart = length * window.stride_x * call.in.pixel;
  const std::int64_t reach = (window.width - 1) * window.dilation_x + 1;  // columns of one output
  const std::int64_t room = kMostColumns / call.groups, between = room * 4 * kCodeBytes;
  const std::int64_t step = window.stride_x * 4 * kCodeBytes, most = (room - reach) / window.stride_x + 1;
  const std::int64_t chunk = most >= kCount ? most / kCount * kCount : most;
  for (std::int64_t from = 0; from < length; from += chunk) {
    const std::int64_t count = length - from < chunk ? length - from : chunk;
    const std::int64_t used = (count - 1) * window.stride_x + reach;
    for (std::int64_t g = 0; g < call.groups; ++g) {
      const std::uint8_t* rows[4];
      rows_of_group(call, y, kRows, g, rows);
      interleave_all(rows, call.in.pixel, apart, from * window.stride_x, used, columns + g * between);
    }
    for (std::int64_t i = 0; i < count; i += most >= kCount ? kCount : 1) {
      if (most >= kCount) {
        depthwise_outputs<kRounding, kRows, kCount, kStride>(call, columns + i * step, between, y, from + i, length);
      } else {
        depthwise_outputs<kRounding, kRows, 1, 0>(call, columns + i * step, between, y, from + i, length);
      }
    }
  }
}

template <Rounding kRounding, int kStride>
void depthwise_rows(const DepthwiseCall& call, std::int64_t begin, std::int64_t end) {
  std::int64_t y = begin;
  if (call.convolution.output_rows == 2) {
    for (; y + 2 <= end; y += 2) depthwise_row<kRounding, 2, kStride>(call, y);
  }
  for (; y < end; ++y) depthwise_row<kRounding, 1, kStride>(call, y);
}

using DepthwiseRows = void (*)(const DepthwiseCall&, std::int64_t begin, std::int64_t end);

template <int kStride>
DepthwiseRows depthwise_of_stride(Rounding rounding) {
  if (rounding == Rounding::kPlain) return depthwise_rows<Rounding::kPlain, kStride>;
  return rounding == Rounding::kRectified ? depthwise_rows<Rounding::kRectified, kStride> : depthwise_rows<Rounding::kBounded, kStride>;
}

inline DepthwiseRows select_depthwise(const Convolution& convolution) {
  const Window& window = convolution.window;
  const Rounding rounding = convolution.to_codes.rounding;
  const bool three = window.width == 3 && window.dilation_x == 1 && DepthwiseBlock::groups(convolution) == 1;
  if (three && window.stride_x == 1) return depthwise_of_stride<1>(rounding);
  if (three && window.stride_x == 2) return depthwise_of_stride<2>(rounding);
  return depthwise_of_stride<0>(rounding);
}

// One tap after the other: for windows larger than the room for them, and for scales that no other kernel takes.
inline void depthwise_plainly(const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin,
                              std::int64_t end) {
  const Window& window = convolution.window;
  const std::int64_t taps = DepthwiseBlock::taps(convolution);
  const Requantization& to_codes = convolution.to_codes;
  const Limits<Rounding::kAny> limits = limits_of<Rounding::kAny>(to_codes);
  for (std::int64_t y = begin; y < end; ++y) {
    for (std::int64_t x = 0; x < out.width; ++x) {
      const std::uint8_t* first = first_tap(window, in, y) + x * window.stride_x * in.pixel;
      std::uint8_t* to = out.data + y * out.row + x * out.pixel;
      for (std::int64_t c = 0; c < convolution.out_channels; c += kChannelBlock) {
        std::uint32_t sums[kChannelBlock];
        for (int i = 0; i < kChannelBlock; ++i) {
          const std::uint32_t begin_at = to_codes.rounding >= Rounding::kRectified ? kRectifiedBias : 0;
          sums[i] = static_cast<std::uint32_t>(convolution.bias[c + i]) - begin_at;
        }
        const std::int8_t* weights = convolution.weights + c / kChannelBlock * taps * 64;
        for (std::int64_t ky = 0; ky < window.height; ++ky) {
          for (std::int64_t kx = 0; kx < window.width; ++kx) {
            const std::uint8_t* codes = first + ky * window.dilation_y * in.row + kx * window.dilation_x * in.pixel + c;
            const std::int8_t* column = weights + (ky / kTapRows * window.width + kx) * 64 + ky % kTapRows;
            for (int i = 0; i < kChannelBlock; ++i) sums[i] += static_cast<std::uint32_t>(codes[i] * column[4 * i]);
          }
        }
        alignas(64) std::int32_t totals[kChannelBlock];
        std::memcpy(totals, sums, sizeof totals);
        Ints four[4];
        for (int k = 0; k < 4; ++k) {
          const int at = k < kVectorsOfBlock ? k * kLanes : 0;
          Scale<Rounding::kAny> scale;
          scale.load_from(to_codes.scales + c + at);
          four[k] = scale.of(load_ints(totals + at));
        }
        store_block<0>(to + c, in_order(limits.of(four)));
      }
    }
  }
}

// Bytes of rows that stay in the second cache from one block of channels to the next.
constexpr std::int64_t kStripBytes = 128 << 10;

inline void depthwise(const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  const Window& window = convolution.window;
  const std::int64_t groups = DepthwiseBlock::groups(convolution), reach = (window.width - 1) * window.dilation_x + 1;
  const bool fits = DepthwiseBlock::taps(convolution) <= DepthwiseBlock::kMostTaps && reach <= kMostColumns / groups;
  if (!fits || convolution.to_codes.rounding == Rounding::kAny) {
    return depthwise_plainly(convolution, in, out, begin, end);
  }
  const std::int64_t rounded = round_up(convolution.out_channels, kChannelBlock);
  std::int64_t strip = kStripBytes / (in.row * window.stride_y) / 2 * 2;
  if (strip < 2) strip = 2;
  DepthwiseBlock block;
  const DepthwiseRows rows = select_depthwise(convolution);
  for (std::int64_t from = begin; from < end; from += strip) {
    const std::int64_t to = end - from < strip ? end : from + strip;
    for (std::int64_t first = 0; first < rounded; first += kCodeBytes) {
      const std::int64_t blocks = (rounded - first) / kChannelBlock < kBlocks ? (rounded - first) / kChannelBlock : kBlocks;
      int pieces = 1;
      while (kBlocks / (2 * pieces) >= blocks) pieces *= 2;
      block.fill(convolution, first, pieces);
      const DepthwiseCall call{convolution, in, out, block, first, blocks, groups, pieces};
      rows(call, from, to);
    }
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
