// A weight of N output channels and K contracted channels, as the planes in which it is stored.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/format.h"

namespace onnxquant {

// Channels interleaved in one tile, and the bytes of one vector of a tile (4 bytes per channel).
constexpr std::int64_t kTileChannels = 16;
constexpr std::int64_t kVectorBytes = 64;
// Weights per super-block of ggml's K-quants, and bytes of its factors of 6 bits: eight scales and minima, or sixteen scales.
constexpr std::int64_t kSuperBlock = 256, kSixBitBytes = 12;
// Scales per nested scale, in the order of the rows.
constexpr std::int64_t kNested = 256;

enum class Type { kU8, kI8, kI32, kHalf, kBfloat, kFloat };

// The planes that a weight may have, in the order in which operators take them.
enum class Plane {
  kCodes,
  kHigh,
  kScales,
  kMinima,
  kZeroPoints,
  kFactors,
  kNestedScales,
  kNestedOffset,
  kOutlierColumns,
  kOutliers,
  kPermutation,
};
const char* name_of(Plane plane);

struct PlaneType {
  Plane plane;
  Type type;
};

// A short list without memory of its own.
struct PlaneTypes {
  std::array<PlaneType, 8> at;
  std::size_t count = 0;
  const PlaneType* begin() const { return at.data(); }
  const PlaneType* end() const { return at.data() + count; }
};

// The planes of a format, in order; `permuted` adds the permutation of the contracted channels.
PlaneTypes planes_of(const Format& format, bool permuted);

struct Dims {
  const std::int64_t* at;
  std::size_t rank;
};

struct Weights {
  const Format* format;
  std::int64_t N, K, block;
  std::int64_t tiles;         // of 16 channels
  std::int64_t blocks;        // along K, the last one padded
  std::int64_t vectors;       // of 64 bytes in a tile of codes
  std::int64_t high_vectors;  // of 64 bytes in a tile of high bits
  Granularity granularity;    // of the scales
  std::int64_t groups;        // scales along a row of the plane, 1 for coarser ones
  int group_shift;            // block >> group_shift is its group
  std::int64_t outlier_count;

  const std::uint8_t* codes;         // [tiles, vectors, 16, 4]; 16-bit floats [tiles, K, 16]
  const std::uint8_t* high;          // [tiles, high_vectors, 16, 4]
  const void* scales;                // [tiles, groups, 16], or [1]
  const std::uint16_t* minima;       // as scales
  const void* zero_points;           // as scales
  const std::uint8_t* factors;       // [tiles, groups, 12, 16] or [tiles, 16 groups, 16]
  const float* nested_scales;        // [ceil(N groups / 256)], then
  const float* nested_offset;        // [1]
  const std::int32_t* outlier_columns;  // [outlier_count]
  const std::uint16_t* outliers;        // [tiles, outlier_count, 16]
  const std::int32_t* permutation;      // [K]

  std::int64_t padded_k() const { return blocks * block; }
};

// Sizes of a weight; the planes are left null. Throws Error when the format does not allow them or they overflow.
Weights weights_of(const Format& format, std::int64_t N, std::int64_t K, std::int64_t block);

// Sets a plane. Planes are bound in the order of planes_of. Throws Error unless the shape fits, and where the plane
// holds indices, unless they are in range.
void bind(Weights& weights, Plane plane, const void* data, const Dims& dims);

// The format of this name. Throws Error for an unknown one.
const Format& find_format(const char* name);

// Decodes channel n into out[K]: the plain reading of the plane layout, against which the kernels are tested.
void decode_row(const Weights& weights, std::int64_t n, float* out) noexcept;

}  // namespace onnxquant
