// A format as the kernels see it: the width and meaning of its codes, and the side information that goes with them.
#pragma once

#include <cstdint>

namespace onnxquant {

// The value that a code of `bits` bits stands for before it is scaled.
enum class Values {
  kOffset,    // code - 2^(bits-1)
  kUnsigned,  // code
  kTable,     // an entry of Format::table
  kHalf,      // the bits of a float16
  kBfloat,    // the bits of a bfloat16
};

enum class ScaleType {
  kNone,
  kHalf,
  kFloat,
  kNested,    // an index in a table, times one of the nested scales, plus an offset
  kExponent,  // OCP's E8M0: uint8, a power of two
};

// Side information of a weight besides its scales.
enum class Side {
  kNone,
  kMinima,         // float16 per group, added
  kZeroCodes,      // uint8 per group, subtracted from the code
  kZeroHalves,     // float16 per group, subtracted from the code
  kSixBits,        // ggml's q4_k, q5_k: scales and minima per 256 weights, times 6-bit factors per 32
  kFourBits,       // ggml's q2_k: the same with 4-bit factors per 16
  kSignedFactors,  // ggml's q6_k: scales per 256 weights, times an int8 per 16
  kSignedSixBits,  // ggml's q3_k: the same with 6 bits per 16
  kOutliers,       // some columns in float16
};
// Scales of super-blocks, times factors of their blocks.
constexpr bool has_factors(Side side) {
  return side == Side::kSixBits || side == Side::kFourBits || side == Side::kSignedFactors || side == Side::kSignedSixBits;
}
// Minima of super-blocks, times factors of their blocks.
constexpr bool has_minimum_factors(Side side) { return side == Side::kSixBits || side == Side::kFourBits; }

// Bits of Format::granularities: how many weights may share one scale.
enum Granularity : unsigned { kPerBlock = 1, kPerRow = 2, kPerTensor = 4 };
constexpr unsigned kAnyGranularity = kPerBlock | kPerRow | kPerTensor;

struct Table {
  const float* values;
  // A table of 16 also as integers, so that values[i] is near fine[i] * unit; null where only floats will do.
  const std::int16_t* fine;
  float unit;
};

// Blocks are powers of two: as many activations are rounded together, and K is padded to that. A scale serves one block
// or more.
struct Format {
  const char* name;    // as everywhere in this project, e.g. q4_0
  const char* suffix;  // of its ops, e.g. MatMulQ4_0
  int bits;
  Values values;
  ScaleType scale_type;
  Side side;
  unsigned granularities;
  std::int64_t min_block;
  std::int64_t max_block;
  const Table* table;

  // Odd widths are stored as two planes: the low bits of each code, and its high ones.
  constexpr int low_bits() const { return bits == 5 || bits == 6 ? 4 : bits == 3 ? 2 : bits; }
  constexpr int high_bits() const { return bits - low_bits(); }
  // K is padded to a multiple of this: whole blocks, and whole words of high bits.
  constexpr std::int64_t step(std::int64_t block) const {
    return high_bits() > 0 && block * high_bits() < 32 ? 32 / high_bits() : block;
  }
  // Activations can be rounded to int8: the codes, or the entries of their table, are integers that a byte or two hold.
  constexpr bool has_int8() const {
    return values == Values::kTable ? table->fine != nullptr : values == Values::kOffset || values == Values::kUnsigned;
  }
  constexpr bool has_minimum() const {
    return side == Side::kMinima || side == Side::kZeroCodes || side == Side::kZeroHalves || has_minimum_factors(side);
  }
};

// Codes around an offset with one scale per block, and perhaps per row or tensor.
constexpr Format scaled(const char* name, const char* suffix, int bits, ScaleType scale_type, unsigned granularities,
                        std::int64_t min_block, std::int64_t max_block) {
  return {name,          suffix,    bits,      Values::kOffset, scale_type, Side::kNone,
          granularities, min_block, max_block, nullptr};
}

// Unsigned codes, or codes around an offset, with side information of its own per block.
constexpr Format sided(const char* name, const char* suffix, int bits, Values values, Side side, std::int64_t min_block,
                       std::int64_t max_block) {
  return {name, suffix, bits, values, ScaleType::kHalf, side, kPerBlock, min_block, max_block, nullptr};
}

// Unsigned codes with a float16 scale and a zero point at any granularity.
constexpr Format zeroed(const char* name, const char* suffix, int bits, Side side, unsigned granularities,
                        std::int64_t min_block, std::int64_t max_block) {
  return {name,          suffix,    bits,      Values::kUnsigned, ScaleType::kHalf, side,
          granularities, min_block, max_block, nullptr};
}

// Codes that choose from a table.
constexpr Format looked_up(const char* name, const char* suffix, int bits, const Table& table, ScaleType scale_type,
                           unsigned granularities, std::int64_t min_block, std::int64_t max_block) {
  return {name,          suffix,    bits,      Values::kTable, scale_type, Side::kNone,
          granularities, min_block, max_block, &table};
}

// Floats of 16 bits.
constexpr Format floats(const char* name, const char* suffix, Values values) {
  return {name, suffix, 16, values, ScaleType::kNone, Side::kNone, kPerBlock, 16, 16, nullptr};
}

}  // namespace onnxquant
