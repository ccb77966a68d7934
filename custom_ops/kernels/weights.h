// A weight of N output channels and K contracted channels, as the planes in which it is stored.
#pragma once

#include <cstdint>

#include "kernels/format.h"

namespace onnxquant {

// Channels interleaved in one tile, and the bytes of one vector of a tile (4 bytes per channel).
constexpr std::int64_t kTileChannels = 16;
constexpr std::int64_t kVectorBytes = 64;

struct Weights {
  const Format* format;
  std::int64_t N, K, block;
  std::int64_t tiles;         // of 16 channels
  std::int64_t blocks;        // along K, the last one padded
  std::int64_t vectors;       // of 64 bytes in a tile
  Granularity granularity;    // of the scales
  const std::uint8_t* codes;  // [tiles, vectors, 16, 4]
  const void* scales;         // [tiles, blocks or 1, 16], or [1]
};

// Sizes of a weight; the planes are left null. Throws Error when the format does not allow them or they overflow.
Weights weights_of(const Format& format, std::int64_t N, std::int64_t K, std::int64_t block);

// Number of scales of a weight at this granularity.
std::int64_t scale_count(const Weights& weights, Granularity granularity);

// Throws Error unless the format allows scales of this granularity.
void check_granularity(const Weights& weights, Granularity granularity);

// The format of this name. Throws Error for an unknown one.
const Format& find_format(const char* name);

// Decodes channel n into out[K]: the plain reading of the plane layout, against which the kernels are tested.
void decode_row(const Weights& weights, std::int64_t n, float* out) noexcept;

}  // namespace onnxquant
