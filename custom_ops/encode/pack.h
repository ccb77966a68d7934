// Codes, one per byte, into planes. Loops are written to be vectorised.
//
// rows: the codes of a row one after the other, the first one in the lowest bits (MatMulNBits).
// tiles: that, in words of 4 bytes interleaved over 16 rows. Codes of 3, 5 and 6 bits are split: the low plane is that of
// 2 or 4 bits; a word of the high plane holds the high bits of 32 / high consecutive codes, in the byte in which the low
// plane has their low bits, vector after vector of the low plane, field after field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "encode/jobs.h"
#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kTile = 16;
// Columns at a time: a multiple of every word's, small enough for a tile of them to stay in the first cache.
constexpr int kPackStep = 256;

// The bits from `kFrom` up, `kWidth` of them, of `kFields` codes to a byte.
template <int kFields, int kWidth, int kFrom>
inline void fields_to_bytes(const std::uint8_t* codes, int bytes, std::uint8_t* out) {
  constexpr int kMask = (1 << kWidth) - 1;
  for (int i = 0; i < bytes; ++i) {
    int byte = 0;
    for (int f = 0; f < kFields; ++f) byte |= (codes[kFields * i + f] >> kFrom & kMask) << (kWidth * f);
    out[i] = static_cast<std::uint8_t>(byte);
  }
}

template <int kLow, int kHigh>
struct Packer {
  static constexpr int kFields = 8 / kLow;
  static constexpr int kLowBytes = kPackStep * kLow / 8, kHighBytes = kPackStep * kHigh / 8;

  static void low(const std::uint8_t* codes, int count, std::uint8_t* out) {
    fields_to_bytes<kFields, kLow, 0>(codes, count / kFields, out);
  }
  static void high(const std::uint8_t* codes, std::uint8_t* out) {
    if constexpr (kHigh != 0) {
      constexpr int kVectors = 8 / (kHigh * kFields);
      std::uint32_t parts[kPackStep / kFields / 4];
      fields_to_bytes<kFields, kHigh, kLow>(codes, kPackStep / kFields, reinterpret_cast<std::uint8_t*>(parts));
      for (int w = 0; w < kHighBytes / 4; ++w) {
        std::uint32_t word = 0;
        for (int v = 0; v < kVectors; ++v) word |= parts[kVectors * w + v] << (kHigh * kFields * v);
        std::memcpy(out + 4 * w, &word, sizeof word);
      }
    }
  }
};

// out[i][16] = from[16][i] for i < count.
inline void interleave(const std::uint32_t* from, std::int64_t stride, std::int64_t count, std::uint32_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (int row = 0; row < kTile; ++row) out[i * kTile + row] = from[row * stride + i];
  }
}

// `count` codes of a row from column `first` on, padded; the codes themselves where they are all there.
inline const std::uint8_t* padded_codes(const PackJob& job, std::int64_t row, std::int64_t first, int count,
                                        std::uint8_t* buffer) {
  const std::int64_t there = row < job.rows ? (job.cols - first < count ? job.cols - first : count) : 0;
  const auto* from = static_cast<const std::uint8_t*>(job.from);
  if (there == count) return from + row * job.stride + first;
  std::memset(buffer, static_cast<int>(job.pad), static_cast<std::size_t>(count));
  if (there > 0) std::memcpy(buffer, from + row * job.stride + first, static_cast<std::size_t>(there));
  return buffer;
}

template <int kLow, int kHigh>
void pack_tiles(const PackJob& job) {
  using P = Packer<kLow, kHigh>;
  alignas(64) std::uint32_t low[kTile][P::kLowBytes / 4], high[kTile][kHigh ? P::kHighBytes / 4 : 1];
  alignas(64) std::uint8_t buffer[kPackStep];
  auto* low_out = static_cast<std::uint32_t*>(job.low);
  auto* high_out = static_cast<std::uint32_t*>(job.high);
  for (std::int64_t row = 0; row < job.rows; row += kTile) {
    for (std::int64_t first = 0; first < job.padded; first += kPackStep) {
      const int count = static_cast<int>(job.padded - first < kPackStep ? job.padded - first : kPackStep);
      for (int r = 0; r < kTile; ++r) {
        const std::uint8_t* codes = padded_codes(job, row + r, first, kPackStep, buffer);
        P::low(codes, kPackStep, reinterpret_cast<std::uint8_t*>(low[r]));
        P::high(codes, reinterpret_cast<std::uint8_t*>(high[r]));
      }
      const int low_words = count * kLow / 32, high_words = (count * kHigh + 31) / 32;
      interleave(low[0], P::kLowBytes / 4, low_words, low_out);
      low_out += low_words * kTile;
      if (kHigh == 0) continue;
      interleave(high[0], P::kHighBytes / 4, high_words, high_out);
      high_out += high_words * kTile;
    }
  }
}

template <int kBits>
void pack_rows(const PackJob& job) {
  alignas(64) std::uint8_t buffer[kPackStep];
  auto* out = static_cast<std::uint8_t*>(job.low);
  for (std::int64_t row = 0; row < job.rows; ++row) {
    for (std::int64_t first = 0; first < job.padded; first += kPackStep) {
      const int count = static_cast<int>(job.padded - first < kPackStep ? job.padded - first : kPackStep);
      const std::uint8_t* codes = padded_codes(job, row, first, count, buffer);
      Packer<kBits, 0>::low(codes, count, out);
      out += count * kBits / 8;
    }
  }
}

// The job is checked.
inline void pack(const PackJob& job) {
  const int bits = static_cast<int>(job.bits);
  switch (job.layout[0] == 't' ? bits : 100 + bits) {
    case 2: return pack_tiles<2, 0>(job);
    case 3: return pack_tiles<2, 1>(job);
    case 4: return pack_tiles<4, 0>(job);
    case 5: return pack_tiles<4, 1>(job);
    case 6: return pack_tiles<4, 2>(job);
    case 8: return pack_tiles<8, 0>(job);
    case 102: return pack_rows<2>(job);
    case 104: return pack_rows<4>(job);
    case 108: return pack_rows<8>(job);
    default: return;
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
