// What the kernels of networks need of vectors beside simd/scalar.h; network/vectors/avx2.h, avx512.h and neon.h define the same
// names, and they mean the same bits. A vector of codes has kLanes / 4 blocks of 16 bytes, as the halves and quarters of x86's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd/scalar.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kBlocks = kLanes / 4;
// Pixels and panels of 16 outputs whose sums are in registers at a time.
constexpr int kTilePixels = 4, kTilePanels = 1;
// Outputs whose sums a depthwise kernel has in registers at a time.
constexpr int kDepthwiseOutputs = 4;
// Whether whole networks were measured to be faster than on ONNX Runtime's own kernels.
constexpr bool kIsFaster = false;
// The weights' partners are codes less 128.
constexpr bool kSignedCodes = false;

inline Ints load_ints(const std::int32_t* from) {
  Ints out;
  std::memcpy(out.at, from, sizeof out.at);
  return out;
}
inline void store_ints(std::int32_t* to, const Ints& x) { std::memcpy(to, x.at, sizeof x.at); }
inline void store_codes(std::uint8_t* to, const Codes& x) { std::memcpy(to, x.at, sizeof x.at); }
// The first 16 * blocks bytes.
inline void store_blocks(std::uint8_t* to, const Codes& x, std::int64_t blocks) {
  std::memcpy(to, x.at, static_cast<std::size_t>(16 * blocks));
}
template <int kBlock>
inline void store_block(std::uint8_t* to, const Codes& x) {
  std::memcpy(to, x.at + 16 * kBlock, 16);
}

// Pieces of equal size, `distance` bytes apart.
template <int kPieces>
inline Codes load_pieces(const std::uint8_t* from, std::int64_t distance) {
  Codes out;
  constexpr std::size_t kSize = sizeof out.at / kPieces;
  for (int i = 0; i < kPieces; ++i) std::memcpy(out.at + static_cast<std::size_t>(i) * kSize, from + i * distance, kSize);
  return out;
}
// Four bytes in every lane.
inline Codes splat_four(const std::uint8_t* from) {
  Codes out;
  for (int i = 0; i < kLanes; ++i) std::memcpy(out.at + 4 * i, from, 4);
  return out;
}

// sum + the products of four codes and four weights, which are signed bytes; in the arithmetic of 32 bits.
inline Ints dot(const Ints& sum, const Codes& codes, const Codes& weights) {
  Ints out;
  for (int i = 0; i < kLanes; ++i) {
    std::int32_t four = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) four += codes.at[j] * static_cast<std::int8_t>(weights.at[j]);
    out.at[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum.at[i]) + static_cast<std::uint32_t>(four));
  }
  return out;
}

// sum + four codes.
inline Ints add_four(const Ints& sum, const Codes& codes) {
  Ints out;
  for (int i = 0; i < kLanes; ++i) {
    out.at[i] = sum.at[i] + codes.at[4 * i] + codes.at[4 * i + 1] + codes.at[4 * i + 2] + codes.at[4 * i + 3];
  }
  return out;
}

// Bytes of four rows: lane i of out[k] has the byte 16 * (i / 4) + 4 k + i % 4 of each of them.
inline void interleave(const Codes (&rows)[4], Codes (&out)[4]) {
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < kLanes; ++i) {
      for (int row = 0; row < 4; ++row) out[k].at[4 * i + row] = rows[row].at[i / 4 * 16 + 4 * k + i % 4];
    }
  }
}

// a * b + sum, rounded once.
inline Floats fused(const Floats& a, const Floats& b, const Floats& sum) {
  Floats out;
  for (int i = 0; i < kLanes; ++i) out.at[i] = std::fma(a.at[i], b.at[i], sum.at[i]);
  return out;
}
// (sum - kRectifiedBias) * scale, rounded once, of sums from kRectifiedBias on; not above 0 otherwise. `shift` is -2^23 * scale.
inline Floats rectified(const Ints& sum, const Floats& scale, const Floats&) {
  Floats out;
  std::memcpy(out.at, sum.at, sizeof out.at);
  for (int i = 0; i < kLanes; ++i) out.at[i] = (out.at[i] - 0x1p23f) * scale.at[i];
  return out;
}
// The nearest integer, halves to even; what no int holds becomes a large one, of the same sign if it is negative.
inline Ints round_to_int(const Floats& x) {
  Ints out;
  for (int i = 0; i < kLanes; ++i) out.at[i] = absolute(x.at[i]) < 0x1p30f ? static_cast<std::int32_t>(rounded(x.at[i])) : -(1 << 30);
  return out;
}
// At most `most`.
inline Floats at_most(const Floats& x, float most) { return smaller(x, splat(most)); }

// Sixteen bits of what is an int, cut off at the ends: lane i of a, then of b, in each block.
struct Words {
  std::int16_t at[2 * kLanes];
};
inline Words pack_words(const Ints& a, const Ints& b) {
  const auto cut = [](std::int32_t x) { return static_cast<std::int16_t>(x < -32768 ? -32768 : x > 32767 ? 32767 : x); };
  Words out;
  for (int i = 0; i < kLanes; ++i) {
    out.at[i / 4 * 8 + i % 4] = cut(a.at[i]);
    out.at[i / 4 * 8 + 4 + i % 4] = cut(b.at[i]);
  }
  return out;
}
// The sum, cut off at the ends.
inline Words add_word(const Words& x, int value) {
  Words out;
  for (int i = 0; i < 2 * kLanes; ++i) {
    const int sum = x.at[i] + value;
    out.at[i] = static_cast<std::int16_t>(sum > 32767 ? 32767 : sum);
  }
  return out;
}
// Words as bytes, between 0 and 255; a's, then b's, in each block. Of pack_words(x[0], x[1]) and pack_words(x[2], x[3]) this is the
// order of interleave(): lane i of x[k] is byte 16 * (i / 4) + 4 k + i % 4.
inline Codes pack_codes(const Words& a, const Words& b) {
  const auto cut = [](std::int16_t x) { return static_cast<std::uint8_t>(x < 0 ? 0 : x > 255 ? 255 : x); };
  Codes out;
  for (int i = 0; i < 2 * kLanes; ++i) {
    out.at[i / 8 * 16 + i % 8] = cut(a.at[i]);
    out.at[i / 8 * 16 + 8 + i % 8] = cut(b.at[i]);
  }
  return out;
}
// The same in the order of the lanes: those of x[0] first.
inline Codes in_order(const Codes& x) {
  Codes out;
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < kLanes; ++i) out.at[k * kLanes + i] = x.at[i / 4 * 16 + 4 * k + i % 4];
  }
  return out;
}
inline Codes larger_bytes(const Codes& a, const Codes& b) {
  Codes out;
  for (int i = 0; i < 4 * kLanes; ++i) out.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];
  return out;
}
inline Codes smaller_bytes(const Codes& a, const Codes& b) {
  Codes out;
  for (int i = 0; i < 4 * kLanes; ++i) out.at[i] = a.at[i] < b.at[i] ? a.at[i] : b.at[i];
  return out;
}

inline Codes exclusive_or(const Codes& a, const Codes& b) {
  Codes out;
  for (int i = 0; i < 4 * kLanes; ++i) out.at[i] = static_cast<std::uint8_t>(a.at[i] ^ b.at[i]);
  return out;
}
// Of each block: lane j of out[i] is lane i of x[j].
inline void transpose_lanes(const Codes (&x)[4], Codes (&out)[4]) {
  for (int i = 0; i < 4; ++i) {
    for (int block = 0; block < kBlocks; ++block) {
      for (int j = 0; j < 4; ++j) std::memcpy(out[i].at + 16 * block + 4 * j, x[j].at + 16 * block + 4 * i, 4);
    }
  }
}
// Of each block: byte j of lane i becomes byte i of lane j.
inline Codes transpose_bytes(const Codes& x) {
  Codes out;
  for (int i = 0; i < 4 * kLanes; ++i) out.at[i] = x.at[i / 16 * 16 + i % 4 * 4 + i / 4 % 4];
  return out;
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
