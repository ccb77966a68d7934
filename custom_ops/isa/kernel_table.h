// The functions that exist once per instruction set, and the data they exchange with the portable code.
#pragma once

#include <cstdint>

#include "kernels/weights.h"

namespace onnxquant {

// Rows that a caller of a tile function may ask for at once.
constexpr int kMostRows = 8;

// Activation rows rounded to int8 with one scale per block, k in the order in which the fields of a code vector hold it.
struct QuantizedRows {
  std::int8_t* codes;
  float* scales;       // NaN for a block that holds a NaN or an infinity: it makes the row's outputs NaN
  std::int32_t* sums;  // of the block's codes
  std::int64_t code_stride, block_stride;
};

struct FloatRows {
  const float* values;
  std::int64_t stride;
};

using QuantizeRow = void (*)(const Weights&, const float* x, const QuantizedRows&, std::int64_t row);
// out[rows][16] = rows of activations times the 16 channels of a tile; rows <= kMostRows.
using Int8Tile = void (*)(const Weights&, const QuantizedRows&, std::int64_t tile, std::int64_t row, int rows,
                          float* out);
using FloatTile = void (*)(const Weights&, const FloatRows&, std::int64_t tile, std::int64_t row, int rows,
                           float* out);

struct KernelTable {
  const char* name;
  bool (*usable)();
  QuantizeRow (*quantize)(int bits);
  Int8Tile (*int8_tile)(const Weights&);
  FloatTile (*float_tile)(const Weights&);
  void (*widen)(const std::uint16_t* half, float* out, std::int64_t count);
  void (*narrow)(const float* values, std::uint16_t* out, std::int64_t count);
};

}  // namespace onnxquant
