// What a format is to the kernels: how many bits a code has, and what its scales look like.
#pragma once

#include <cstdint>

namespace onnxquant {

enum class ScaleType { kHalf, kFloat };

// Bits of Format::granularities: how many weights may share one scale.
enum Granularity : unsigned { kPerBlock = 1, kPerRow = 2, kPerTensor = 4 };

// A weight is (code - 2^(bits-1)) * scale. Blocks are powers of two; where scales are coarser than blocks, the block
// still says how many activations share a scale and to what multiple K is padded.
struct Format {
  const char* name;    // as everywhere in this project, e.g. q4_0
  const char* suffix;  // of its ops, e.g. MatMulQ4_0
  int bits;
  ScaleType scale_type;
  unsigned granularities;
  std::int64_t min_block;
  std::int64_t max_block;
};

}  // namespace onnxquant
