// The product of activation rows with one tile of 16 channels, and the rounding of those rows.
//
// No include guard: each instruction set includes this inside its own namespace, after its wrapper, so that everything
// is compiled, and inlined, for that instruction set alone. The wrapper defines:
//   kLanes, kRowsAtOnce       channels per vector; rows that fit its registers
//   Floats, Ints, Codes       vectors of float, of int32, and of 4 code bytes per lane
//   Dot<bits>                 begin(sum), add(partial, codes, 4 activations), end(sum, partial): exact int32 sums over
//                             at most kChunk weights; kOffset is what add() leaves in the codes
//   element<bits>             one decoded code per lane
//   LargestMagnitude, Rounder the two passes over 16 activations
// Every float operation is the same, in the same order, on each instruction set and for each number of rows, so int8
// results are equal to the bit. (multiply_add is for float compute only: it may or may not round the product.)

// ---- activations ----

// Below this the scale or its inverse would leave the range of normal floats; such a block counts as zero.
constexpr float kSmallestMagnitude = 1.5e-36f;
constexpr std::int32_t kInfinityBits = 0x7f800000;

inline void clear(std::int8_t* codes, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) codes[k] = 0;
}

// One block: `count` values, up to `block` codes.
template <int kBits>
inline void quantize_block(const float* x, std::int64_t count, std::int64_t block, std::int8_t* codes, float* scale,
                           std::int32_t* sum) {
  const std::int64_t whole = count & ~std::int64_t{15};
  float tail[16] = {};
  for (std::int64_t k = whole; k < count; ++k) tail[k - whole] = x[k];

  LargestMagnitude largest;
  for (std::int64_t k = 0; k < whole; k += 16) largest.add(x + k);
  largest.add(tail);
  const std::int32_t bits = largest.reduce();
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof magnitude);

  *sum = 0;
  if (bits >= kInfinityBits || magnitude < kSmallestMagnitude) {
    clear(codes, block);
    const std::int32_t nan_or_zero = bits >= kInfinityBits ? 0x7fc00000 : 0;
    std::memcpy(scale, &nan_or_zero, sizeof nan_or_zero);
    return;
  }
  Rounder<kBits> rounder(127.0f / magnitude);
  for (std::int64_t k = 0; k < whole; k += 16) rounder.put(x + k, codes + k);
  if (whole < block) {
    rounder.put(tail, codes + whole);
    clear(codes + whole + 16, block - whole - 16);
  }
  *scale = magnitude / 127.0f;
  *sum = rounder.reduce();
}

template <int kBits>
void quantize_row(const Weights& weights, const float* x, const QuantizedRows& rows, std::int64_t row) {
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    const std::int64_t first = b * weights.block;
    const std::int64_t rest = weights.K - first;
    const std::int64_t at = row * rows.block_stride + b;
    quantize_block<kBits>(x + first, rest < weights.block ? rest : weights.block, weights.block,
                          rows.codes + row * rows.code_stride + first, rows.scales + at, rows.sums + at);
  }
}

// ---- scales ----

// The scales of a tile where they do not depend on the block.
inline void fixed_scales(const Weights& weights, std::int64_t tile, float* out) {
  if (weights.granularity == kPerRow) {
    const std::uint16_t* from = static_cast<const std::uint16_t*>(weights.scales) + tile * kTileChannels;
    for (int lane = 0; lane < kTileChannels; lane += kLanes) store(out + lane, load_half(from + lane));
    return;
  }
  float scale;
  if (weights.format->scale_type == ScaleType::kFloat) {
    std::memcpy(&scale, weights.scales, sizeof scale);
  } else {
    std::uint16_t half;
    std::memcpy(&half, weights.scales, sizeof half);
    scale = half_to_float(half);
  }
  for (int lane = 0; lane < kTileChannels; ++lane) out[lane] = scale;
}

// Scales of the channels [lane, lane + kLanes) of a tile in block b.
template <bool kBlockwise>
inline Floats scales_at(const Weights& weights, const float* fixed, std::int64_t tile, std::int64_t b, int lane) {
  if constexpr (kBlockwise) {
    const std::int64_t at = (tile * weights.blocks + b) * kTileChannels + lane;
    return load_half(static_cast<const std::uint16_t*>(weights.scales) + at);
  } else {
    return load(fixed + lane);
  }
}

// ---- int8 ----

// All fields of one code vector times the 4 activations each of them meets.
template <int kBits, int kRows, int kField = 0>
inline void dot_fields(typename Dot<kBits>::Partial (&partial)[kRows], const Codes& codes,
                       const std::int8_t* const (&x)[kRows], std::int64_t k) {
  if constexpr (kField < 8 / kBits) {
    const Codes one = field<kBits, kField>(codes);
    for (int r = 0; r < kRows; ++r) Dot<kBits>::add(partial[r], one, x[r] + k + 4 * kField);
    dot_fields<kBits, kRows, kField + 1>(partial, codes, x, k);
  }
}

template <int kBits, bool kBlockwise, int kChunk, int kRows, int kParts>
inline void int8_rows(const Weights& weights, const QuantizedRows& rows, const float* fixed, std::int64_t tile,
                      std::int64_t row, int lane, float* out) {
  constexpr int kStep = 32 / kBits;
  const std::uint8_t* codes = weights.codes + tile * weights.vectors * kVectorBytes + 4 * lane;
  const std::int8_t* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = rows.codes + (row + r) * rows.code_stride;
  const float* x_scales = rows.scales + row * rows.block_stride;
  const std::int32_t* x_sums = rows.sums + row * rows.block_stride;

  Floats total[kParts][kRows];
  for (auto& part : total) {
    for (Floats& value : part) value = splat(0.0f);
  }
  std::int64_t k = 0;
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    Ints sum[kParts][kRows];
    for (auto& part : sum) {
      for (int r = 0; r < kRows; ++r) part[r] = splat_int(-Dot<kBits>::kOffset * x_sums[r * rows.block_stride + b]);
    }
    for (const std::int64_t end = k + weights.block; k < end;) {
      typename Dot<kBits>::Partial partial[kParts][kRows];
      for (int p = 0; p < kParts; ++p) {
        for (int r = 0; r < kRows; ++r) partial[p][r] = Dot<kBits>::begin(sum[p][r]);
      }
      for (int step = 0; step < kChunk; step += kStep, k += kStep, codes += kVectorBytes) {
        for (int p = 0; p < kParts; ++p) {
          dot_fields<kBits, kRows>(partial[p], load_codes(codes + 4 * kLanes * p), x, k);
        }
      }
      for (int p = 0; p < kParts; ++p) {
        for (int r = 0; r < kRows; ++r) sum[p][r] = Dot<kBits>::end(sum[p][r], partial[p][r]);
      }
    }
    for (int p = 0; p < kParts; ++p) {
      const Floats scale = scales_at<kBlockwise>(weights, fixed, tile, b, lane + p * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Floats both = multiply(splat(x_scales[r * rows.block_stride + b]), scale);
        total[p][r] = add(total[p][r], multiply(to_float(sum[p][r]), both));
      }
    }
  }
  for (int p = 0; p < kParts; ++p) {
    for (int r = 0; r < kRows; ++r) store(out + r * kTileChannels + lane + p * kLanes, total[p][r]);
  }
}

// kRows rows at a time, then what is left in smaller steps. A single row takes all lanes of the tile at once, so that
// codes are read in one pass; more rows take one vector of lanes at a time and share its unpacked codes.
template <int kBits, bool kBlockwise, int kChunk, int kRows = kRowsAtOnce>
inline void int8_all_rows(const Weights& weights, const QuantizedRows& rows, const float* fixed, std::int64_t tile,
                          std::int64_t row, int count, float* out) {
  constexpr int kParts = kRows == 1 ? static_cast<int>(kTileChannels) / kLanes : 1;
  for (; count >= kRows; count -= kRows, row += kRows, out += kRows * kTileChannels) {
    for (int lane = 0; lane < kTileChannels; lane += kLanes * kParts) {
      int8_rows<kBits, kBlockwise, kChunk, kRows, kParts>(weights, rows, fixed, tile, row, lane, out);
    }
  }
  if constexpr (kRows > 1) int8_all_rows<kBits, kBlockwise, kChunk, kRows / 2>(weights, rows, fixed, tile, row, count, out);
}

template <int kBits, bool kBlockwise, int kChunk>
void int8_tile(const Weights& weights, const QuantizedRows& rows, std::int64_t tile, std::int64_t row, int count,
               float* out) {
  float fixed[kTileChannels];
  if (!kBlockwise) fixed_scales(weights, tile, fixed);
  int8_all_rows<kBits, kBlockwise, kChunk>(weights, rows, fixed, tile, row, count, out);
}

// ---- float32 ----

template <int kBits, bool kBlockwise, int kRows>
inline void float_rows(const Weights& weights, const FloatRows& rows, const float* fixed, std::int64_t tile,
                       std::int64_t row, int lane, float* out) {
  constexpr int kStep = 32 / kBits;
  const std::uint8_t* codes = weights.codes + tile * weights.vectors * kVectorBytes + 4 * lane;
  const float* x = rows.values + row * rows.stride;
  Floats total[kRows];
  for (Floats& value : total) value = splat(0.0f);
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    const Floats scale = scales_at<kBlockwise>(weights, fixed, tile, b, lane);
    // One sum per block, then their sum: the error grows with the block and the number of blocks, not with K.
    Floats sum[kRows];
    for (Floats& value : sum) value = splat(0.0f);
    const std::int64_t end = (b + 1) * weights.block;
    for (std::int64_t k = b * weights.block; k < end; k += kStep, codes += kVectorBytes) {
      const Codes vector = load_codes(codes);
      const std::int64_t rest = weights.K - k;
      const auto accumulate = [&](int index) {
        const Floats weight = multiply(element<kBits>(vector, index), scale);
        for (int r = 0; r < kRows; ++r) {
          sum[r] = multiply_add(weight, splat(x[r * rows.stride + k + index]), sum[r]);
        }
      };
      if (rest >= kStep) {
        for (int index = 0; index < kStep; ++index) accumulate(index);
      } else {
        for (int index = 0; index < rest; ++index) accumulate(index);
      }
    }
    for (int r = 0; r < kRows; ++r) total[r] = add(total[r], sum[r]);
  }
  for (int r = 0; r < kRows; ++r) store(out + r * kTileChannels + lane, total[r]);
}

template <int kBits, bool kBlockwise, int kRows = kRowsAtOnce>
inline void float_all_rows(const Weights& weights, const FloatRows& rows, const float* fixed, std::int64_t tile,
                           std::int64_t row, int count, float* out) {
  for (; count >= kRows; count -= kRows, row += kRows, out += kRows * kTileChannels) {
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      float_rows<kBits, kBlockwise, kRows>(weights, rows, fixed, tile, row, lane, out);
    }
  }
  if constexpr (kRows > 1) float_all_rows<kBits, kBlockwise, kRows / 2>(weights, rows, fixed, tile, row, count, out);
}

template <int kBits, bool kBlockwise>
void float_tile(const Weights& weights, const FloatRows& rows, std::int64_t tile, std::int64_t row, int count,
                float* out) {
  float fixed[kTileChannels];
  if (!kBlockwise) fixed_scales(weights, tile, fixed);
  float_all_rows<kBits, kBlockwise>(weights, rows, fixed, tile, row, count, out);
}

// ---- float16 ----

void widen(const std::uint16_t* half, float* out, std::int64_t count) {
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store(out + at, load_half(half + at));
  for (; at < count; ++at) out[at] = half_to_float(half[at]);
}

void narrow(const float* values, std::uint16_t* out, std::int64_t count) {
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store_half(out + at, load(values + at));
  for (; at < count; ++at) out[at] = float_to_half(values[at]);
}

// ---- selection ----

QuantizeRow select_quantize(int bits) {
  return bits == 8 ? quantize_row<8> : bits == 4 ? quantize_row<4> : quantize_row<2>;
}

template <int kBits>
Int8Tile select_int8(const Weights& weights) {
  if (weights.granularity == kPerBlock) {
    return weights.block < 32 ? int8_tile<kBits, true, 16> : int8_tile<kBits, true, 32>;
  }
  return weights.block < 32 ? int8_tile<kBits, false, 16> : int8_tile<kBits, false, 32>;
}

Int8Tile select_int8_tile(const Weights& weights) {
  const int bits = weights.format->bits;
  return bits == 8 ? select_int8<8>(weights) : bits == 4 ? select_int8<4>(weights) : select_int8<2>(weights);
}

template <int kBits>
FloatTile select_float(const Weights& weights) {
  return weights.granularity == kPerBlock ? float_tile<kBits, true> : float_tile<kBits, false>;
}

FloatTile select_float_tile(const Weights& weights) {
  const int bits = weights.format->bits;
  return bits == 8 ? select_float<8>(weights) : bits == 4 ? select_float<4>(weights) : select_float<2>(weights);
}
