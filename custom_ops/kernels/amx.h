// AMX: registers of 16 rows of 64 bytes, and instructions that multiply two of them into a third. One of them holds 16
// rows of activations, another the weights of 16 channels, a third their sums.
//
// Codes: 16 vectors of unpacked codes, 4 weights of each channel in each of them, are a register as they are, and the
// order of the fields in which activations are rounded is theirs. Floats: pairs of weights take the place of fours.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/int8.h"
#include "kernels/kernel_table.h"
#include "kernels/panels.h"
#include "kernels/tiles.h"
#include "simd/avx512.h"
namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Sums in registers 0 to 3 (0 and 1 above, 2 and 3 below), activations in 4 and 5, weights in 6 and 7.
constexpr std::int64_t kTileRows = 16, kTileBytes = 64, kTileSize = kTileRows * kTileBytes;
constexpr std::int64_t kSumBytes = kMostChannels * 4;  // of a row of sums
static_assert(kRowPadding == kTileRows, "activations are padded to whole registers");

alignas(64) constexpr TileShapes kShapes = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// One or two registers of rows times one or two of channels.
template <bool kTall, bool kWide>
struct Square {
  static ONNXQUANT_INLINE void clear() {
    _tile_zero(0);
    if constexpr (kWide) _tile_zero(1);
    if constexpr (kTall) _tile_zero(2);
    if constexpr (kTall && kWide) _tile_zero(3);
  }

  // Sums are [32][kMostChannels], int32 or float.
  static ONNXQUANT_INLINE void load(const void* sums) {
    const auto* at = static_cast<const char*>(sums);
    ONNXQUANT_TILE_BARRIER();
    _tile_loadd(0, at, kSumBytes);
    if constexpr (kWide) _tile_loadd(1, at + kTileBytes, kSumBytes);
    if constexpr (kTall) _tile_loadd(2, at + kTileRows * kSumBytes, kSumBytes);
    if constexpr (kTall && kWide) _tile_loadd(3, at + kTileRows * kSumBytes + kTileBytes, kSumBytes);
  }

  static ONNXQUANT_INLINE void store(void* sums) {
    auto* at = static_cast<char*>(sums);
    _tile_stored(0, at, kSumBytes);
    if constexpr (kWide) _tile_stored(1, at + kTileBytes, kSumBytes);
    if constexpr (kTall) _tile_stored(2, at + kTileRows * kSumBytes, kSumBytes);
    if constexpr (kTall && kWide) _tile_stored(3, at + kTileRows * kSumBytes + kTileBytes, kSumBytes);
  }

  // 64 bytes of each row of x at a time, and as many registers of each tile of weights.
  template <bool kCodes>
  static ONNXQUANT_INLINE void add(const void* x, std::int64_t stride, const std::uint8_t* const (&weights)[kMostTiles],
                                   std::int64_t steps) {
    const auto* rows = static_cast<const char*>(x);
    for (std::int64_t step = 0; step < steps; ++step) {
      ONNXQUANT_TILE_BARRIER();
      _tile_loadd(4, rows + step * kTileBytes, stride);
      _tile_loadd(6, weights[0] + step * kTileSize, kTileBytes);
      if constexpr (kWide) _tile_loadd(7, weights[1] + step * kTileSize, kTileBytes);
      if constexpr (kTall) _tile_loadd(5, rows + kTileRows * stride + step * kTileBytes, stride);
      if constexpr (kCodes) {
        _tile_dpbsud(0, 4, 6);
        if constexpr (kWide) _tile_dpbsud(1, 4, 7);
        if constexpr (kTall) _tile_dpbsud(2, 5, 6);
        if constexpr (kTall && kWide) _tile_dpbsud(3, 5, 7);
      } else {
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (kWide) _tile_dpbf16ps(1, 4, 7);
        if constexpr (kTall) _tile_dpbf16ps(2, 5, 6);
        if constexpr (kTall && kWide) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
};

// The arguments of a MultiplyRows.
struct ManyCall {
  const Weights& weights;
  const QuantizedRows& quantized;
  const BfloatRows& bfloats;
  std::int64_t tile;
  int tiles;
  std::int64_t row, rows;
  float* sums;
};

// Where the codes of weight k on are; k a multiple of kPanel.
template <int kBits>
CodePointers codes_from(const Weights& weights, std::int64_t tile, std::int64_t k) {
  CodePointers at = codes_at(weights, tile, 0);
  at.low += k * low_bits(kBits) / 32 * kVectorBytes;
  if constexpr (high_bits(kBits) > 0) at.high += k * high_bits(kBits) / 32 * kVectorBytes;
  return at;
}

// ---- codes ----

// kPanel weights of each channel as whole codes. Blocks are 64 at least, so a register's sums share their scale.
constexpr std::int64_t kLeastBlock = kTileBytes;
template <int kBits>
class CodePanel {
 public:
  void fill(const ManyCall& call, std::int64_t k) {
    const Weights& weights = call.weights;
    k_ = k;
    first_ = k / weights.block;
    blocks_ = (weights.padded_k() - k < kPanel ? weights.padded_k() - k : kPanel) / weights.block;
    for (int t = 0; t < call.tiles; ++t) {
      sides_[t].fill(weights, call.tile + t, first_, blocks_);
      CodePointers codes = codes_from<kBits>(weights, call.tile + t, k);
      if constexpr (kBits == 8) {
        at_[t] = codes.low;
      } else {
        at_[t] = unpacked_[t];
        for (std::int64_t i = 0; i < blocks_ * weights.block; i += kChunk, advance<kBits>(codes, kChunk)) {
          unpack<0>(codes, unpacked_[t] + i / 4 * kVectorBytes);
        }
      }
    }
  }

  template <bool kTall, bool kWide>
  void multiply(const ManyCall& call, std::int64_t row, std::int64_t height) const {
    using Registers = Square<kTall, kWide>;
    alignas(64) std::int32_t exact[2 * kTileRows * kMostChannels];
    const std::int64_t block = call.weights.block, stride = call.quantized.code_stride;
    const std::int8_t* x = call.quantized.codes + (call.row + row) * stride + k_;
    for (std::int64_t b = 0; b < blocks_; ++b, x += block) {
      const std::int64_t at = b * block / 4 * kVectorBytes;
      const std::uint8_t* const weights[] = {at_[0] + at, kWide ? at_[1] + at : nullptr};
      Registers::clear();
      Registers::template add<true>(x, stride, weights, block / kTileBytes);
      Registers::store(exact);
      if (call.weights.format->has_minimum()) {
        add_scaled<true>(call, b, row, height, exact);
      } else {
        add_scaled<false>(call, b, row, height, exact);
      }
    }
  }

 private:
  static constexpr int kChunk = 32;

  template <int kGroup>
  static ONNXQUANT_INLINE void unpack(const CodePointers& codes, std::uint8_t* to) {
    _mm512_store_si512(to + kGroup * kVectorBytes, code_group<kBits, kGroup>(codes));
    if constexpr (kGroup + 1 < kChunk / 4) unpack<kGroup + 1>(codes, to);
  }

  // Scales the exact sums of a block and adds them to the outputs, as int8_rows does.
  template <bool kMinimum>
  void add_scaled(const ManyCall& call, std::int64_t b, std::int64_t row, std::int64_t height,
                  const std::int32_t* exact) const {
    const QuantizedRows& x = call.quantized;
    Floats scale[kMostTiles], minimum[kMostTiles];
    for (int t = 0; t < call.tiles; ++t) {
      scale[t] = load(sides_[t].scales[b]);
      if constexpr (kMinimum) minimum[t] = load(sides_[t].minima[b]);
    }
    std::int64_t at = (call.row + row) * x.block_stride + first_ + b;
    float* sums = call.sums + row * kMostChannels;
    for (std::int64_t r = 0; r < height; ++r, at += x.block_stride, sums += kMostChannels, exact += kMostChannels) {
      const Ints start = splat_int(x.starts[at]);
      for (int t = 0; t < call.tiles; ++t) {
        const Ints sum = add_int(_mm512_load_si512(exact + t * kTileChannels), start);
        const Floats scaled = ONNXQUANT_ISA::multiply(to_float(sum), scale[t]);
        Floats total = add(load(sums + t * kTileChannels), ONNXQUANT_ISA::multiply(scaled, splat(x.scales[at])));
        if constexpr (kMinimum) total = add(total, ONNXQUANT_ISA::multiply(splat(x.totals[at]), minimum[t]));
        store(sums + t * kTileChannels, total);
      }
    }
  }

  std::int64_t k_, first_, blocks_;
  const std::uint8_t* at_[kMostTiles];
  SideSpan sides_[kMostTiles];
  alignas(64) std::uint8_t unpacked_[kMostTiles][kPanel / 4 * kVectorBytes];
};

// ---- floats ----

// kPanel weights of each channel as pairs of bfloat16. After the last one there are zeros: what the planes' padding
// stands for may be anything. Codes of kBits are decoded here; for kDecoded there is a DecodePanel, and floats between.
constexpr int kDecoded = 0;
template <int kBits>
class BfloatPanel {
 public:
  void fill(const ManyCall& call, std::int64_t k) {
    const std::int64_t rest = call.weights.K - k, count = rest < kPanel ? rest : kPanel;
    k_ = k;
    steps_ = (count + kBfloatStep - 1) / kBfloatStep;
    for (int t = 0; t < call.tiles; ++t) {
      if constexpr (kBits == kDecoded) {
        fill_decoded(call.weights, call.tile + t, k, count, pairs_[t]);
      } else {
        fill_codes(call.weights, call.tile + t, k, count, pairs_[t]);
      }
      clear_after(count, pairs_[t]);
    }
  }

  template <bool kTall, bool kWide>
  void multiply(const ManyCall& call, std::int64_t row, std::int64_t) const {
    using Registers = Square<kTall, kWide>;
    const std::uint8_t* const weights[] = {pairs_[0], pairs_[1]};
    const std::int64_t stride = call.bfloats.stride;
    float* sums = call.sums + row * kMostChannels;
    Registers::load(sums);
    Registers::template add<false>(call.bfloats.values + (call.row + row) * stride + k_, stride * 2, weights, steps_);
    Registers::store(sums);
  }

 private:
  static void fill_decoded(const Weights& weights, std::int64_t tile, std::int64_t k, std::int64_t count,
                           std::uint8_t* to) {
    alignas(64) float panel[kPanel * kTileChannels];
    select_decode(weights)(weights, tile, k, count, panel);
    if (count % 2 != 0) ONNXQUANT_ISA::store(panel + count * kTileChannels, splat(0.0f));
    for (std::int64_t i = 0; i < count; i += 2, to += kTileBytes) {
      put_pair(ONNXQUANT_ISA::load(panel + i * kTileChannels), ONNXQUANT_ISA::load(panel + (i + 1) * kTileChannels), to);
    }
  }

  // Does the same as decode_codes, with the place of each code known to the compiler.
  static void fill_codes(const Weights& weights, std::int64_t tile, std::int64_t k, std::int64_t count,
                         std::uint8_t* to) {
    const std::int64_t blocks = (count + weights.block - 1) / weights.block;
    SideSpan sides;
    sides.fill(weights, tile, k / weights.block, blocks);
    CodePointers codes = codes_from<kBits>(weights, tile, k);
    const Ints offset = splat_int(-offset_of(*weights.format));
    const bool has_minimum = weights.format->has_minimum();
    for (std::int64_t b = 0; b < blocks; ++b) {
      const Floats scale = ONNXQUANT_ISA::load(sides.scales[b]);
      const Floats minimum = has_minimum ? ONNXQUANT_ISA::load(sides.minima[b]) : splat(0.0f);
      const auto scaled = [=](Ints code) { return ONNXQUANT_ISA::multiply(to_float(add_int(code, offset)), scale); };
      const auto raised = [=](Ints code) { return add(scaled(code), minimum); };
      for (std::int64_t i = 0; i < weights.block; i += kChunk, to += kChunk / 2 * kTileBytes) {
        if (has_minimum) {
          put_chunk<0>(codes, to, raised);
        } else {
          put_chunk<0>(codes, to, scaled);
        }
        advance<kBits>(codes, kChunk);
      }
    }
  }

  static constexpr int kChunk = kBits == 3 || kBits == 5 ? 32 : 16;  // weights of a whole number of vectors

  template <int kAt, class Decode>
  static ONNXQUANT_INLINE void put_chunk(const CodePointers& codes, std::uint8_t* to, const Decode& decode) {
    put_pair(decode(code_in_chunk<kAt>(codes)), decode(code_in_chunk<kAt + 1>(codes)), to + kAt / 2 * kTileBytes);
    if constexpr (kAt + 2 < kChunk) put_chunk<kAt + 2>(codes, to, decode);
  }

  // code_at, by immediate shifts.
  template <int kAt>
  static ONNXQUANT_INLINE Ints code_in_chunk(const CodePointers& at) {
    constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits), kStep = 32 / kLow, kWithin = kAt % kStep;
    const Ints low = some_bits<kLow, kWithin * kLow>(load_codes(at.low + kAt / kStep * kVectorBytes));
    if constexpr (kHigh == 0) {
      return low;
    } else {
      constexpr int kWord = 32 / kHigh, kFields = 8 / kLow;
      constexpr int kByte = kWithin / kFields, kField = kAt % kWord / kStep * kFields + kWithin % kFields;
      const Ints high = some_bits<kHigh, 8 * kByte + kHigh * kField>(load_codes(at.high + kAt / kWord * kVectorBytes));
      return add_int(low, shift_left<kLow>(high));
    }
  }

  template <int kCount, int kFirst>
  static ONNXQUANT_INLINE Ints some_bits(Codes codes) {
    return _mm512_and_si512(_mm512_srli_epi32(codes, kFirst), _mm512_set1_epi32((1 << kCount) - 1));
  }

  // Weights k and k + 1 of 16 channels.
  static ONNXQUANT_INLINE void put_pair(Floats even, Floats odd, std::uint8_t* to) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const auto both = _mm512_cvtne2ps_pbh(odd, even);
    __m512i bits;
    std::memcpy(&bits, &both, sizeof bits);
    _mm512_store_si512(to, _mm512_permutexvar_epi16(order, bits));
  }

  void clear_after(std::int64_t count, std::uint8_t* pairs) const {
    if (count % 2 != 0) {
      std::uint8_t* last = pairs + count / 2 * kTileBytes;
      _mm512_store_si512(last, _mm512_and_si512(_mm512_load_si512(last), _mm512_set1_epi32(0xffff)));
    }
    for (std::int64_t i = (count + 1) / 2; i < steps_ * kBfloatStep / 2; ++i) {
      _mm512_store_si512(pairs + i * kTileBytes, _mm512_setzero_si512());
    }
  }

  std::int64_t k_, steps_;
  alignas(64) std::uint8_t pairs_[kMostTiles][kPanel / 2 * kTileBytes];
};

inline void round_row(const float* x, std::int64_t count, std::uint16_t* out) {
  const std::int64_t padded = (count + kBfloatStep - 1) / kBfloatStep * kBfloatStep;
  for (std::int64_t k = 0; k < padded; k += kLanes) {
    const std::int64_t rest = count - k;
    const auto used = static_cast<__mmask16>(rest >= kLanes ? 0xffff : rest > 0 ? (1 << rest) - 1 : 0);
    const auto rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(used, x + k));
    std::memcpy(out + k, &rounded, sizeof rounded);
  }
}

// ---- all of it ----

// Panels are read one turn after they were written: registers that load what has just been stored would wait for it.
template <class Panel>
void multiply_rows(const Weights& weights, const QuantizedRows& quantized, const BfloatRows& bfloats, std::int64_t tile,
                   int tiles, std::int64_t row, std::int64_t rows, float* sums) {
  const ManyCall call{weights, quantized, bfloats, tile, tiles, row, rows, sums};
  const std::int64_t padded = (rows + kTileRows - 1) / kTileRows * kTileRows;
  for (std::int64_t i = 0; i < padded * kMostChannels; i += kLanes) store(sums + i, splat(0.0f));
  Panel panels[2];
  panels[0].fill(call, 0);
  const Tiles tiles_in_use(kShapes);
  for (std::int64_t k = 0, turn = 0; k < weights.K; k += kPanel, turn ^= 1) {
    if (k + kPanel < weights.K) panels[turn ^ 1].fill(call, k + kPanel);
    const Panel& panel = panels[turn];
    for (std::int64_t r = 0; r < rows; r += 2 * kTileRows) {
      const std::int64_t height = rows - r < 2 * kTileRows ? rows - r : 2 * kTileRows;
      const bool tall = height > kTileRows, wide = tiles > 1;
      if (tall && wide) panel.template multiply<true, true>(call, r, height);
      if (tall && !wide) panel.template multiply<true, false>(call, r, height);
      if (!tall && wide) panel.template multiply<false, true>(call, r, height);
      if (!tall && !wide) panel.template multiply<false, false>(call, r, height);
    }
  }
}

template <int kBits>
ManyRows many_rows_of(bool coarse) {
  // On Granite Rapids whole codes paid off from between 8 and 16 rows on, decoded floats from between 16 and 32.
  if (coarse) return {16, nullptr, multiply_rows<CodePanel<kBits>>};
  return {32, round_row, multiply_rows<BfloatPanel<kBits>>};
}

inline ManyRows select_many_rows(const Weights& weights) {
  const Values values = weights.format->values;
  if (values == Values::kHalf) return {};  // float16 has more bits than the tiles keep
  if (values != Values::kOffset && values != Values::kUnsigned) {
    return {32, round_row, multiply_rows<BfloatPanel<kDecoded>>};
  }
  // Two blocks share a word of high bits.
  if (weights.format->step(weights.block) != weights.block) return {32, round_row, multiply_rows<BfloatPanel<kDecoded>>};
  const bool coarse = weights.block >= kLeastBlock;
  switch (weights.format->bits) {
    case 8: return many_rows_of<8>(coarse);
    case 6: return many_rows_of<6>(coarse);
    case 5: return many_rows_of<5>(coarse);
    case 4: return many_rows_of<4>(coarse);
    case 3: return many_rows_of<3>(coarse);
    default: return many_rows_of<2>(coarse);
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
