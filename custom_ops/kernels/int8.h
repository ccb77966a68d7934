// The product of activation rows, rounded to int8, with tiles of 16 channels.
//
// The instruction set's dot header (kernels/dot) defines, beside what simd/scalar.h explains:
//   kRowsAtOnce, vectors_at_once(rows, bits)   what fits its registers: rows, and vectors of channels for so many rows
//   kFloatRowsAtOnce          the same of float compute
//   Dot<bits>                 begin(sum), add<group>(partial, codes, activations from group 0 on), end(sum, partial):
//                             exact int32 sums over at most kGroups groups of 4; kOffset is what add() takes off codes;
//                             kExact says that any byte is a code and a sum is its own partial one
//   LargestMagnitude, Rounder the two passes over 16 activations
// Every float operation of int8 compute is the same, in the same order, on each instruction set and for each number of
// rows, so its results are equal to the bit. (multiply_add is for float compute: it may or may not round the product.)
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/activations.h"
#include "kernels/code_planes.h"
#include "kernels/kernel_table.h"
#include "kernels/scales.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kHalfScales = 0, kFixedScales = 1, kAnyScales = 2;
constexpr int kScalesAhead = 16;  // blocks


// Exact sums of weights times activations for some rows and vectors of channels: one block at a time. They begin with what
// quantize_row put into `starts`.
template <int kBits, int kRows, int kVectors>
struct Sums {
  using D = Dot<kBits>;
  // A single row leaves each field of the codes where it is, a power of two too large, and has a sum for each field: the
  // shifts are then done once per block. More rows share them anyway, and need the registers.
  static constexpr bool kInPlace = D::kExact && kRows == 1 && (kBits == 4 || kBits == 2);
  static constexpr int kFields = kInPlace ? 8 / kBits : 1;
  Ints sum[kVectors][kRows][kFields];
  typename D::Partial partial[kVectors][kRows];

  explicit Sums(const Weights&) {}

  ONNXQUANT_INLINE void start(const std::int32_t* starts, std::int64_t stride) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sum[v][r][0] = splat_int(starts[r * stride]);
        for (int f = 1; f < kFields; ++f) sum[v][r][f] = splat_int(0);
      }
    }
  }

  // Step kGroup of a chunk, then the next; partial sums are widened before they could overflow.
  template <int kGroup, int kEnd, int kFirst = kGroup>
  ONNXQUANT_INLINE void add_groups(const CodePointers (&codes)[kVectors], const std::int8_t* const (&x)[kRows],
                                   std::int64_t k) {
    if constexpr (kGroup < kEnd) {
      if constexpr (kInPlace) {
        add_in_place<kGroup>(codes, x[0] + k);
      } else {
        add_group<kGroup, kEnd, kFirst>(codes, x, k);
      }
      add_groups<kGroup + 1, kEnd, kFirst>(codes, x, k);
    }
  }

  // All fields of the vector of codes that step kGroup begins.
  template <int kGroup>
  ONNXQUANT_INLINE void add_in_place(const CodePointers (&codes)[kVectors], const std::int8_t* x) {
    if constexpr (kGroup % kFields == 0) {
      for (int v = 0; v < kVectors; ++v) {
        const Codes packed = in_register(load_codes(codes[v].low + kGroup / kFields * kVectorBytes));
        add_fields<kGroup, 0>(sum[v][0], packed, x);
      }
    }
  }

  template <int kGroup, int kField>
  static ONNXQUANT_INLINE void add_fields(Ints (&sums)[kFields], Codes packed, const std::int8_t* x) {
    if constexpr (kField < kFields) {
      D::template add<kGroup + kField>(sums[kField], masked<kBits, kField>(packed), x);
      add_fields<kGroup, kField + 1>(sums, packed, x);
    }
  }

  template <int kGroup, int kEnd, int kFirst>
  ONNXQUANT_INLINE void add_group(const CodePointers (&codes)[kVectors], const std::int8_t* const (&x)[kRows],
                                  std::int64_t k) {
    if constexpr (kGroup == kFirst || kGroup % D::kGroups == 0) {
      for (int v = 0; v < kVectors; ++v) {
        for (int r = 0; r < kRows; ++r) partial[v][r] = D::begin(sum[v][r][0]);
      }
    }
    Codes one[kVectors];
    for (int v = 0; v < kVectors; ++v) one[v] = code_group<kBits, kGroup>(codes[v]);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) D::template add<kGroup>(partial[v][r], one[v], x[r] + k);
    }
    if constexpr ((kGroup + 1) % D::kGroups == 0 || kGroup + 1 == kEnd) {
      for (int v = 0; v < kVectors; ++v) {
        for (int r = 0; r < kRows; ++r) sum[v][r][0] = D::end(sum[v][r][0], partial[v][r]);
      }
    }
  }

  ONNXQUANT_INLINE Ints result(int v, int r) const {
    Ints out = sum[v][r][0];
    if constexpr (kFields > 1) out = add_int(out, shift_right<kBits>(sum[v][r][1]));
    if constexpr (kFields > 2) {
      out = add_int(out, shift_right<2 * kBits>(sum[v][r][2]));
      out = add_int(out, shift_right<3 * kBits>(sum[v][r][3]));
    }
    return out;
  }
};

// Codes of 4 bits that choose from a table: its integers in two parts, 128 * upper + lower.
template <int kRows, int kVectors>
struct Sums<kTable, kRows, kVectors> {
  using Upper = Dot<8>;
  using Lower = Dot<7>;
  Ints upper[kVectors][kRows], lower[kVectors][kRows];
  Lookup upper_bytes, lower_bytes;

  explicit Sums(const Weights& weights) {
    std::uint8_t above[16], below[16];
    for (int i = 0; i < 16; ++i) {
      const int fine = weights.format->table->fine[i];
      above[i] = static_cast<std::uint8_t>((fine >> 7) + kTableOffset);
      below[i] = static_cast<std::uint8_t>(fine & 127);
    }
    upper_bytes = make_lookup(above);
    lower_bytes = make_lookup(below);
  }

  ONNXQUANT_INLINE void start(const std::int32_t* starts, std::int64_t stride) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        upper[v][r] = splat_int(starts[r * stride]);
        lower[v][r] = splat_int(0);
      }
    }
  }

  template <int kGroup, int kEnd>
  ONNXQUANT_INLINE void add_groups(const CodePointers (&codes)[kVectors], const std::int8_t* const (&x)[kRows],
                                   std::int64_t k) {
    if constexpr (kGroup < kEnd) {
      for (int v = 0; v < kVectors; ++v) {
        const Codes one = code_group<4, kGroup>(codes[v]);
        const Codes above = lookup(upper_bytes, one), below = lookup(lower_bytes, one);
        for (int r = 0; r < kRows; ++r) {
          add_one<Upper, kGroup>(upper[v][r], above, x[r] + k);
          add_one<Lower, kGroup>(lower[v][r], below, x[r] + k);
        }
      }
      add_groups<kGroup + 1, kEnd>(codes, x, k);
    }
  }
  template <class D, int kGroup>
  static ONNXQUANT_INLINE void add_one(Ints& sum, Codes codes, const std::int8_t* x) {
    typename D::Partial partial = D::begin(sum);
    D::template add<kGroup>(partial, codes, x);
    sum = D::end(sum, partial);
  }

  ONNXQUANT_INLINE Ints result(int v, int r) const { return add_int(shift_left<7>(upper[v][r]), lower[v][r]); }
};

constexpr int kVectorsPerTile = static_cast<int>(kTileChannels) / kLanes;

struct Int8Call {
  const Weights& weights;
  const QuantizedRows& rows;
  std::int64_t tile;  // of the first lane vector
  std::int64_t row;
  float* out;
  bool fetch;  // the weights of the tiles that come next
};

// Asks for the same blocks of the tiles that come next: the CPU's own prefetching begins anew with every tile of a small K,
// and at every page of a large one.
template <int kWeights, int kBits>
ONNXQUANT_INLINE void fetch_next(const Weights& weights, const CodePointers& at) {
  constexpr int kLow = kWeights * low_bits(kBits) / 32, kHigh = kWeights * high_bits(kBits) / 32;
  const std::uint8_t* low = at.low + kMostTiles * weights.vectors * kVectorBytes;
  for (int line = 0; line < kLow; ++line) ONNXQUANT_PREFETCH(low + line * kVectorBytes);
  if constexpr (kHigh > 0) {
    const std::uint8_t* high = at.high + kMostTiles * weights.high_vectors * kVectorBytes;
    for (int line = 0; line < kHigh; ++line) ONNXQUANT_PREFETCH(high + line * kVectorBytes);
  }
}

// kRows rows times kVectors lane vectors, the first of which is number `first` of the call's tiles. kBlock is the block of
// activations where it is known, else 0.
template <int kBits, int kScales, bool kMinimum, int kBlock, int kRows, int kVectors>
ONNXQUANT_NOINLINE void int8_rows(const Int8Call& call, int first) {
  const Weights& weights = call.weights;
  const QuantizedRows& rows = call.rows;
  constexpr int kWidth = kBits == kTable ? 4 : kBits, kChunk = kBlock == 16 ? 16 : 32;
  CodePointers codes[kVectors];
  std::int64_t tile[kVectors];
  int lane[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    tile[v] = call.tile + (first + v) / kVectorsPerTile;
    lane[v] = (first + v) % kVectorsPerTile * kLanes;
    codes[v] = codes_at(weights, tile[v], lane[v]);
  }
  const std::int8_t* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = rows.codes + (call.row + r) * rows.code_stride;
  const std::int64_t at = call.row * rows.block_stride;

  Sums<kBits, kRows, kVectors> sums(weights);
  const Floats unit = splat(kBits == kTable ? weights.format->table->unit : 1.0f);

  Floats total[kVectors][kRows], fixed[kVectors];
  const std::uint16_t* halves[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    halves[v] = static_cast<const std::uint16_t*>(weights.scales) + side_at(weights, tile[v], 0, lane[v]);
    for (Floats& value : total[v]) value = splat(0.0f);
    if constexpr (kScales == kFixedScales) fixed[v] = load_scales(weights, tile[v], 0, lane[v]);
  }
  // Vectors come in powers of two: they are parts of one tile, or whole tiles.
  constexpr int kTiles = kVectors > kVectorsPerTile ? kVectors / kVectorsPerTile : 1;
  SideSpan spans[kScales == kAnyScales ? kTiles : 1];
  const std::int64_t span = kScales == kAnyScales ? SideSpan::length(weights) : 1;
  std::int64_t k = 0;
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    const std::int64_t in_span = b & (span - 1);
    if (kScales == kAnyScales && in_span == 0) {
      const std::int64_t rest = weights.blocks - b;
      for (int t = 0; t < kTiles; ++t) spans[t].fill(weights, tile[0] + t, b, rest < span ? rest : span);
    }
    if constexpr (kScales == kHalfScales && kRows == 1) {
      // Scales are a stream beside the codes: asked for some lines at a time, memory switches less between the two.
      if (b % kScalesAhead == 0) {
        for (int line = 0; line < kScalesAhead / 2; ++line) {
          ONNXQUANT_PREFETCH(halves[0] + (b + kScalesAhead) * kTileChannels + line * 32);
        }
      }
    }
    sums.start(rows.starts + at + b, rows.block_stride);
    const std::int64_t end = k + (kBlock > 0 ? kBlock : weights.block);
    do {
      if (call.fetch) {
        for (int v = 0; v < kVectors; v += kVectorsPerTile) fetch_next<kChunk, kWidth>(weights, codes[v]);
      }
      if constexpr (kChunk * high_bits(kWidth) % 32 == 0) {
        sums.template add_groups<0, kChunk / 4>(codes, x, k);
        for (CodePointers& pointers : codes) advance<kWidth>(pointers, kChunk);
      } else if (b % 2 == 0) {  // two blocks share a word of high bits
        sums.template add_groups<0, kChunk / 4>(codes, x, k);
      } else {
        sums.template add_groups<kChunk / 4, kChunk / 2>(codes, x, k - kChunk);
        for (CodePointers& pointers : codes) advance<kWidth>(pointers, 2 * kChunk);
      }
      k += kChunk;
    } while (kBlock != kChunk && k < end);
    for (int v = 0; v < kVectors; ++v) {
      Floats scale, minimum;
      if constexpr (kScales == kHalfScales) {
        scale = load_half(halves[v] + (b >> weights.group_shift) * kTileChannels);
      } else if constexpr (kScales == kFixedScales) {
        scale = fixed[v];
      } else {
        const SideSpan& of_tile = spans[v / kVectorsPerTile];
        scale = load(of_tile.scales[in_span] + lane[v]);
        if constexpr (kMinimum) minimum = load(of_tile.minima[in_span] + lane[v]);
      }
      if constexpr (kBits == kTable) scale = multiply(scale, unit);
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t x_at = at + r * rows.block_stride + b;
        // The weight's scale first: the product of two small scales could be flushed to zero.
        const Floats scaled = multiply(to_float(sums.result(v, r)), scale);
        total[v][r] = add(total[v][r], multiply(scaled, splat(rows.scales[x_at])));
        if constexpr (kMinimum) total[v][r] = add(total[v][r], multiply(splat(rows.totals[x_at]), minimum));
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int r = 0; r < kRows; ++r) store(call.out + r * kMostChannels + (first + v) * kLanes, total[v][r]);
  }
}

template <int kBits, int kScales, bool kMinimum, int kBlock, int kRows, int kVectors>
inline void int8_vectors(const Int8Call& call, int first, int count) {
  for (; count >= kVectors; count -= kVectors, first += kVectors) {
    int8_rows<kBits, kScales, kMinimum, kBlock, kRows, kVectors>(call, first);
  }
  // Parts of a tile leave nothing over, whole tiles may.
  if constexpr (kVectors > kVectorsPerTile) {
    int8_vectors<kBits, kScales, kMinimum, kBlock, kRows, kVectors / 2>(call, first, count);
  }
}

// kRows rows at a time, then what is left in smaller steps.
template <int kBits, int kScales, bool kMinimum, int kBlock, int kRows = kRowsAtOnce>
inline void int8_all_rows(Int8Call call, int vectors, int rows) {
  for (; rows >= kRows; rows -= kRows, call.row += kRows, call.out += kRows * kMostChannels) {
    int8_vectors<kBits, kScales, kMinimum, kBlock, kRows, vectors_at_once(kRows, kBits)>(call, 0, vectors);
    call.fetch = false;
  }
  if constexpr (kRows > 1) int8_all_rows<kBits, kScales, kMinimum, kBlock, kRows / 2>(call, vectors, rows);
}

template <int kBits, int kScales, bool kMinimum, int kBlock>
void int8_tiles(const Weights& weights, const QuantizedRows& rows, std::int64_t tile, int tiles, std::int64_t row,
                int count, float* out) {
  const int vectors = tiles * kVectorsPerTile;
  int8_all_rows<kBits, kScales, kMinimum, kBlock>(Int8Call{weights, rows, tile, row, out, true}, vectors, count);
}

template <int kBits, int kBlock>
Int8Tiles select_scales(const Weights& weights) {
  if (weights.format->has_minimum()) return int8_tiles<kBits, kAnyScales, true, kBlock>;
  if (weights.granularity != kPerBlock) return int8_tiles<kBits, kFixedScales, false, kBlock>;
  const bool plain = weights.format->side == Side::kNone && weights.format->scale_type == ScaleType::kHalf;
  return plain ? int8_tiles<kBits, kHalfScales, false, kBlock> : int8_tiles<kBits, kAnyScales, false, kBlock>;
}

template <int kBits>
Int8Tiles select_block(const Weights& weights) {
#ifndef ONNXQUANT_FEWER_KERNELS
  if (weights.block == 32) return select_scales<kBits, 32>(weights);
#endif
  return select_scales<kBits, 0>(weights);
}

template <int kBits>
Int8Tiles select_any_block(const Weights& weights) {
  return weights.block == 16 ? select_scales<kBits, 16>(weights) : select_block<kBits>(weights);
}

inline Int8Tiles select_int8_tiles(const Weights& weights) {
  if (weights.format->values == Values::kTable) return int8_tiles<kTable, kAnyScales, false, 0>;
  switch (weights.format->bits) {
    case 8: return select_any_block<8>(weights);
    case 6: return select_any_block<6>(weights);
    case 5: return select_block<5>(weights);
    case 4: return select_any_block<4>(weights);
    case 3: return select_any_block<3>(weights);
    default: return select_any_block<2>(weights);
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
