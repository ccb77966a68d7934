// Channels last from channels first, and back: blocks of 16 channels of as many pixels as a vector has bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "network/requantize.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Rows of an image that can be one, if neither side has anything between them.
struct PixelRows {
  std::int64_t count, width;
};
inline PixelRows pixel_rows(const Image& image, std::int64_t begin, std::int64_t end) {
  if (image.row == image.width * image.pixel) return {1, (end - begin) * image.width};
  return {end - begin, image.width};
}

// kCodeBytes pixels of a plane, of which there are `count`; what is beyond them is 0.
ONNXQUANT_INLINE Codes load_plane(const std::uint8_t* from, std::int64_t count, Codes flip) {
  if (count >= kCodeBytes) return exclusive_or(load_codes(from), flip);
  alignas(64) std::uint8_t bytes[kCodeBytes] = {};
  for (std::int64_t i = 0; i < count; ++i) bytes[i] = from[i];
  return exclusive_or(load_codes(bytes), flip);
}
ONNXQUANT_INLINE void store_plane(std::uint8_t* to, std::int64_t count, Codes codes) {
  if (count >= kCodeBytes) return store_codes(to, codes);
  alignas(64) std::uint8_t bytes[kCodeBytes];
  store_codes(bytes, codes);
  for (std::int64_t i = 0; i < count; ++i) to[i] = bytes[i];
}

// Block b of a vector is of pixel 16 b + `first`.
template <int kBlock = 0>
ONNXQUANT_INLINE void store_pixels(Codes codes, int first, std::int64_t count, std::int64_t pixel, std::uint8_t* to) {
  if constexpr (kBlock < kBlocks) {
    const std::int64_t at = 16 * kBlock + first;
    if (at < count) store_block<kBlock>(to + at * pixel, codes);
    store_pixels<kBlock + 1>(codes, first, count, pixel, to);
  }
}

// The other way round; beyond the last pixel bytes are any.
ONNXQUANT_INLINE Codes load_pixels(const std::uint8_t* from, int first, std::int64_t count, std::int64_t pixel) {
  if (count >= kCodeBytes) return load_pieces<kBlocks>(from + first * pixel, 16 * pixel);
  alignas(64) std::uint8_t bytes[kCodeBytes] = {};
  for (int block = 0; block < kBlocks; ++block) {
    const std::int64_t at = 16 * block + first;
    if (at < count) std::memcpy(bytes + 16 * block, from + at * pixel, 16);
  }
  return load_codes(bytes);
}

// Block b of a vector is of the four pixels of kSmallPixel bytes from 16 b + `first` on.
template <int kBlock = 0>
ONNXQUANT_INLINE void store_small_pixels(Codes codes, int first, std::int64_t count, std::uint8_t* to) {
  if constexpr (kBlock < kBlocks) {
    const std::int64_t at = 16 * kBlock + first;
    if (at + 4 <= count) {
      store_block<kBlock>(to + at * kSmallPixel, codes);
    } else if (at < count) {
      std::uint8_t bytes[16];
      store_block<kBlock>(bytes, codes);
      for (std::int64_t i = 0; i < (count - at) * kSmallPixel; ++i) to[at * kSmallPixel + i] = bytes[i];
    }
    store_small_pixels<kBlock + 1>(codes, first, count, to);
  }
}

// Four planes from `channel` on; there are `channels`.
ONNXQUANT_INLINE void interleave_planes(const std::uint8_t* planes, std::int64_t plane, std::int64_t channel, std::int64_t channels,
                                        std::int64_t count, Codes flip, Codes (&mixed)[4]) {
  Codes rows[4];
  for (int i = 0; i < 4; ++i) {
    rows[i] = channel + i < channels ? load_plane(planes + (channel + i) * plane, count, flip) : splat_byte(0);
  }
  interleave(rows, mixed);
}

inline void from_planes(const std::uint8_t* planes, std::uint8_t flip, const Image& out, std::int64_t begin, std::int64_t end) {
  const std::int64_t plane = out.height * out.width;
  const Codes change = splat_byte(flip);
  const PixelRows rows = pixel_rows(out, begin, end);
  for (std::int64_t y = 0; y < rows.count; ++y) {
    for (std::int64_t x = 0; x < rows.width; x += kCodeBytes) {
      const std::int64_t count = rows.width - x;
      const std::uint8_t* from = planes + (begin + y) * out.width + x;
      std::uint8_t* to = out.data + (begin + y) * out.row + x * out.pixel;
      if (out.pixel == kSmallPixel) {
        Codes mixed[4];
        interleave_planes(from, plane, 0, out.channels, count, change, mixed);
        for (int k = 0; k < 4; ++k) store_small_pixels(mixed[k], 4 * k, count, to);
        continue;
      }
      for (std::int64_t c = 0; c < out.channels; c += kChannelBlock) {
        Codes mixed[4][4];  // of channels, of pixels
        for (int g = 0; g < 4; ++g) interleave_planes(from, plane, c + 4 * g, out.channels, count, change, mixed[g]);
        for (int k = 0; k < 4; ++k) {
          const Codes four[4] = {mixed[0][k], mixed[1][k], mixed[2][k], mixed[3][k]};
          Codes pixels[4];
          transpose_lanes(four, pixels);
          for (int j = 0; j < 4; ++j) store_pixels(pixels[j], 4 * k + j, count, out.pixel, to + c);
        }
      }
    }
  }
}

inline void to_planes(const Image& in, std::uint8_t flip, std::uint8_t* planes, std::int64_t begin, std::int64_t end) {
  const std::int64_t plane = in.height * in.width;
  const Codes change = splat_byte(flip);
  const PixelRows rows = pixel_rows(in, begin, end);
  for (std::int64_t y = 0; y < rows.count; ++y) {
    for (std::int64_t x = 0; x < rows.width; x += kCodeBytes) {
      const std::int64_t count = rows.width - x;
      const std::uint8_t* from = in.data + (begin + y) * in.row + x * in.pixel;
      std::uint8_t* to = planes + (begin + y) * in.width + x;
      for (std::int64_t c = 0; c < in.channels; c += kChannelBlock) {
        Codes mixed[4][4];  // of channels, of pixels
        for (int k = 0; k < 4; ++k) {
          Codes pixels[4], four[4];
          for (int j = 0; j < 4; ++j) pixels[j] = load_pixels(from + c, 4 * k + j, count, in.pixel);
          transpose_lanes(pixels, four);
          for (int g = 0; g < 4; ++g) mixed[g][k] = transpose_bytes(four[g]);
        }
        for (int g = 0; g < 4; ++g) {
          Codes channels[4];
          transpose_lanes(mixed[g], channels);
          for (int i = 0; i < 4 && c + 4 * g + i < in.channels; ++i) {
            store_plane(to + (c + 4 * g + i) * plane, count, exclusive_or(channels[i], change));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
