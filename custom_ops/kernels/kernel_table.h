// The kernels of an instruction set, and the data they exchange with the portable code.
#pragma once

#include <cstdint>

#include "kernels/weights.h"

namespace onnxquant {

// Stands for a number of bits where codes choose from a table.
constexpr int kTable = 0;
// Rows and tiles that a caller of an int8 function may ask for at once.
constexpr int kMostRows = 8;
constexpr int kMostTiles = 2;
// Channels of an output of the int8 function.
constexpr int kMostChannels = kMostTiles * static_cast<int>(kTileChannels);
// Weights along K that are decoded at a time where products are computed in float.
constexpr std::int64_t kPanel = 256;
// Where ManyRows multiplies the rows of a panel, rows of zeros make their number a multiple of this one.
constexpr std::int64_t kRowPadding = 16;

// Activation rows rounded to int8 with one scale per block, k in the order in which the fields of a code vector hold it.
struct QuantizedRows {
  std::int8_t* codes;
  float* scales;         // NaN for a block that holds a NaN or an infinity: it makes the row's outputs NaN
  std::int32_t* starts;  // the block's sum of codes times the offset of the weight's codes
  float* totals;         // the sum times the scale: what minima are multiplied with
  std::int64_t code_stride, block_stride;
};

struct FloatRows {
  const float* values;
  std::int64_t stride;
};

// Activation rows rounded to bfloat16, each followed by zeros up to a multiple of kBfloatStep.
constexpr std::int64_t kBfloatStep = 32;
struct BfloatRows {
  std::uint16_t* values;
  std::int64_t stride;
};

using QuantizeRow = void (*)(const Weights&, const float* x, const QuantizedRows&, std::int64_t row);
// out[rows][kMostChannels] = rows of activations times the channels of 1 or 2 tiles; rows <= kMostRows.
using Int8Tiles = void (*)(const Weights&, const QuantizedRows&, std::int64_t tile, int tiles, std::int64_t row, int rows,
                           float* out);
// panel[count][16] = weights [k, k + count) of the channels of a tile; k a multiple of kPanel, count <= kPanel.
using DecodePanel = void (*)(const Weights&, std::int64_t tile, std::int64_t k, std::int64_t count, float* panel);
// sums[rows][16] += rows [rows][count] times a panel.
using MultiplyPanel = void (*)(const float* panel, std::int64_t count, const FloatRows&, std::int64_t rows, float* sums);

// out[count] = x[count] as bfloat16, then zeros up to a multiple of kBfloatStep.
using RoundRow = void (*)(const float* x, std::int64_t count, std::uint16_t* out);
// sums[rows][kMostChannels] = rows of activations times the channels of 1 or 2 tiles; rows may be any number, both arrays
// are padded to a multiple of kRowPadding. Only the kind of rows that ManyRows asks for is there.
using MultiplyRows = void (*)(const Weights&, const QuantizedRows&, const BfloatRows&, std::int64_t tile, int tiles,
                              std::int64_t row, std::int64_t rows, float* sums);

// The kernels of an instruction set for many rows of X at a time, under int8 compute; null where it has none.
struct ManyRows {
  std::int64_t least = 0;  // rows of X from which it is worth it
  RoundRow round = nullptr;  // null: it takes rows rounded to int8
  MultiplyRows multiply = nullptr;
};

struct KernelTable {
  QuantizeRow (*quantize)(int low_bits);
  Int8Tiles (*int8_tiles)(const Weights&);
  DecodePanel (*decode)(const Weights&);
  // For panels of which every weight is -1, 0 or 1: additions alone.
  MultiplyPanel multiply, add_signed;
  void (*widen)(const std::uint16_t* half, float* out, std::int64_t count);
  void (*narrow)(const float* values, std::uint16_t* out, std::int64_t count);
};

}  // namespace onnxquant
