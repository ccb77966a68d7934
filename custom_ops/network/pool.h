// Windows of pixels: the largest code and the mean, and the sums of a whole image.
#pragma once

#include <cstdint>

#include "network/positions.h"
#include "network/requantize.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Blocks of channels that a vector holds from channel c on.
inline std::int64_t blocks_from(std::int64_t rounded, std::int64_t c) {
  const std::int64_t blocks = (rounded - c) / kChannelBlock;
  return blocks < kBlocks ? blocks : kBlocks;
}

inline void max_pool(const Window& window, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  const std::int64_t rounded = round_up(out.channels, kChannelBlock);
  for (std::int64_t y = begin; y < end; ++y) {
    for (std::int64_t x = 0; x < out.width; ++x) {
      const std::uint8_t* first = first_tap(window, in, y) + x * window.stride_x * in.pixel;
      std::uint8_t* to = out.data + y * out.row + x * out.pixel;
      for (std::int64_t c = 0; c < rounded; c += kCodeBytes) {
        Codes largest = load_codes(first + c);
        for (std::int64_t ky = 0; ky < window.height; ++ky) {
          const std::uint8_t* tap = first + ky * window.dilation_y * in.row + c;
          for (std::int64_t kx = 0; kx < window.width; ++kx, tap += window.dilation_x * in.pixel) {
            largest = larger_bytes(largest, load_codes(tap));
          }
        }
        store_blocks(to + c, largest, blocks_from(rounded, c));
      }
    }
  }
}

// Sums of pixels, one vector of channels: four pixels are interleaved at a time.
class PixelSums {
 public:
  PixelSums() {
    for (int k = 0; k < 4; ++k) sums_[k] = splat_int(0);
  }

  ONNXQUANT_INLINE void add_row(const std::uint8_t* from, std::int64_t pixel, std::int64_t count) {
    const Codes none = splat_byte(0);
    for (; count > 0; count -= 4, from += 4 * pixel) {
      Codes rows[4] = {load_codes(from), none, none, none};
      if (count > 1) rows[1] = load_codes(from + pixel);
      if (count > 2) rows[2] = load_codes(from + 2 * pixel);
      if (count > 3) rows[3] = load_codes(from + 3 * pixel);
      Codes mixed[4];
      interleave(rows, mixed);
      for (int k = 0; k < 4; ++k) sums_[k] = add_four(sums_[k], mixed[k]);
    }
  }

  const Ints& of(int k) const { return sums_[k]; }

  // Adds them to those of `blocks` blocks of channels.
  void store(std::int32_t* to, std::int64_t blocks) const {
    alignas(64) std::int32_t all[4 * kLanes];
    for (int k = 0; k < 4; ++k) store_ints(all + k * kLanes, sums_[k]);
    for (std::int64_t block = 0; block < blocks; ++block) {
      for (int k = 0; k < 4; ++k) {
        for (int i = 0; i < 4; ++i) to[block * kChannelBlock + 4 * k + i] += all[k * kLanes + 4 * block + i];
      }
    }
  }

 private:
  Ints sums_[4];
};

inline void pixel_sums(const Image& in, std::int64_t begin, std::int64_t end, std::int32_t* sums) {
  const std::int64_t rounded = round_up(in.channels, kChannelBlock);
  for (std::int64_t c = 0; c < rounded; c += kCodeBytes) {
    PixelSums all;
    for (std::int64_t y = begin; y < end; ++y) all.add_row(in.data + y * in.row + c, in.pixel, in.width);
    all.store(sums + c, blocks_from(rounded, c));
  }
}

// Taps of a window that lie inside of an image, along one axis.
inline std::int64_t taps_inside(std::int64_t first, std::int64_t taps, std::int64_t dilation, std::int64_t size) {
  std::int64_t inside = 0;
  for (std::int64_t i = 0; i < taps; ++i) inside += first + i * dilation >= 0 && first + i * dilation < size ? 1 : 0;
  return inside;
}

inline void average_pool(const Average& average, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  const Window& window = average.window;
  const std::int64_t rounded = round_up(out.channels, kChannelBlock), all = window.height * window.width;
  const Limits<Rounding::kAny> limits(average.zero, 0, 255);
  const Ints less = splat_int(-static_cast<std::int32_t>(all * average.x_zero));
  for (std::int64_t y = begin; y < end; ++y) {
    const std::int64_t inside_y = taps_inside(y * window.stride_y - window.pad_top, window.height, window.dilation_y, in.height);
    for (std::int64_t x = 0; x < out.width; ++x) {
      const std::int64_t inside =
          inside_y * taps_inside(x * window.stride_x - window.pad_left, window.width, window.dilation_x, in.width);
      const std::int64_t count = average.counts_border ? all : inside > 0 ? inside : 1;
      const Scale<Rounding::kAny> factor{splat(average.factor / static_cast<float>(count)), splat(0.0f)};
      const std::uint8_t* first = first_tap(window, in, y) + x * window.stride_x * in.pixel;
      std::uint8_t* to = out.data + y * out.row + x * out.pixel;
      for (std::int64_t c = 0; c < rounded; c += kCodeBytes) {
        PixelSums sums;
        for (std::int64_t ky = 0; ky < window.height; ++ky) {
          sums.add_row(first + ky * window.dilation_y * in.row + c, window.dilation_x * in.pixel, window.width);
        }
        Ints four[4];
        for (int k = 0; k < 4; ++k) four[k] = factor.of(add_int(sums.of(k), less));
        store_blocks(to + c, limits.of(four), blocks_from(rounded, c));
      }
    }
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
