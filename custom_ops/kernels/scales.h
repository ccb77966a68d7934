// Scales, zero points and minima of some blocks of a tile as floats.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/half.h"
#include "kernels/tables.h"
#include "kernels/weights.h"
#include "simd/simd.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Lanes of a plane that has one value per channel, row or block.
inline std::int64_t side_at(const Weights& weights, std::int64_t tile, std::int64_t group, int lane) {
  return (tile * weights.groups + group) * kTileChannels + lane;
}

inline Floats load_scales(const Weights& weights, std::int64_t tile, std::int64_t group, int lane) {
  if (weights.granularity == kPerTensor) {
    float scale;
    if (weights.format->scale_type == ScaleType::kFloat) {
      std::memcpy(&scale, weights.scales, sizeof scale);
    } else {
      std::uint16_t half;
      std::memcpy(&half, weights.scales, sizeof half);
      scale = half_to_float(half);
    }
    return splat(scale);
  }
  const std::int64_t at = side_at(weights, tile, group, lane);
  if (weights.format->scale_type == ScaleType::kFloat) return load(static_cast<const float*>(weights.scales) + at);
  if (weights.format->scale_type == ScaleType::kHalf) {
    return load_half(static_cast<const std::uint16_t*>(weights.scales) + at);
  }
  if (weights.format->scale_type == ScaleType::kExponent) {
    float powers[kLanes];
    for (int i = 0; i < kLanes; ++i) powers[i] = power_of_two(static_cast<const std::uint8_t*>(weights.scales)[at + i]);
    return load(powers);
  }
  float nested[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const std::int64_t n = tile * kTileChannels + lane + i;
    // The channels that pad N have no nested scale of their own.
    const std::int64_t flat = (n < weights.N ? n : weights.N - 1) * weights.groups + group;
    float outer, offset;
    std::memcpy(&outer, weights.nested_scales + flat / kNested, sizeof outer);
    std::memcpy(&offset, weights.nested_offset, sizeof offset);
    const float own = tables::kDynamic8Values[static_cast<const std::uint8_t*>(weights.scales)[at + i]];
    nested[i] = own * outer + offset;
  }
  return load(nested);
}

// Zero points or minima of a group as what is added to code * scale.
inline Floats load_minima(const Weights& weights, std::int64_t tile, std::int64_t group, int lane, Floats scale) {
  const bool tensor = weights.granularity == kPerTensor;
  const std::int64_t at = tensor ? 0 : side_at(weights, tile, group, lane);
  const auto half = [&](const void* plane) {
    const auto* halves = static_cast<const std::uint16_t*>(plane);
    if (!tensor) return load_half(halves + at);
    std::uint16_t one;
    std::memcpy(&one, halves, sizeof one);
    return splat(half_to_float(one));
  };
  switch (weights.format->side) {
    case Side::kMinima: return half(weights.minima);
    case Side::kZeroHalves: return negate(multiply(half(weights.zero_points), scale));
    case Side::kZeroCodes: {
      const auto* codes = static_cast<const std::uint8_t*>(weights.zero_points);
      return negate(multiply(tensor ? splat(static_cast<float>(codes[0])) : load_bytes(codes + at), scale));
    }
    default: return splat(0.0f);
  }
}

// Bytes of 16 channels at once: ggml's packing of eight 6-bit scales and minima in 12 bytes.
struct SixBits {
  std::uint8_t scales[8][kTileChannels], minima[8][kTileChannels];
  explicit SixBits(const std::uint8_t* packed) {
    constexpr std::uint64_t kLow4 = 0x0f0f0f0f0f0f0f0f, kLow6 = 0x3f3f3f3f3f3f3f3f, kTop2 = 0x3030303030303030;
    for (int j = 0; j < 4; ++j) {
      for (int half = 0; half < kTileChannels; half += 8) {
        std::uint64_t a, b, c;
        std::memcpy(&a, packed + j * kTileChannels + half, 8);
        std::memcpy(&b, packed + (j + 4) * kTileChannels + half, 8);
        std::memcpy(&c, packed + (j + 8) * kTileChannels + half, 8);
        const std::uint64_t values[] = {a & kLow6, b & kLow6, (c & kLow4) | (a >> 2 & kTop2),
                                        (c >> 4 & kLow4) | (b >> 2 & kTop2)};
        std::memcpy(scales[j] + half, values, 8);
        std::memcpy(minima[j] + half, values + 1, 8);
        std::memcpy(scales[j + 4] + half, values + 2, 8);
        std::memcpy(minima[j + 4] + half, values + 3, 8);
      }
    }
  }
};

// The same of sixteen signed 6-bit scales in 12 bytes: 32 higher, the low four bits of number j and j + 8 in byte j, the high two
// of j, j + 4, j + 8 and j + 12 in byte j + 8.
struct SignedSixBits {
  std::uint8_t scales[16][kTileChannels];
  explicit SignedSixBits(const std::uint8_t* packed) {
    constexpr std::uint64_t kLow4 = 0x0f0f0f0f0f0f0f0f, kTop2 = 0x3030303030303030, kMiddle = 0x2020202020202020;
    for (int j = 0; j < 16; ++j) {
      for (int half = 0; half < kTileChannels; half += 8) {
        std::uint64_t low, high;
        std::memcpy(&low, packed + j % 8 * kTileChannels + half, 8);
        std::memcpy(&high, packed + (8 + j % 4) * kTileChannels + half, 8);
        if (j >= 8) low >>= 4;
        high = j < 8 ? high << (4 - j / 4 * 2) : high >> (j / 4 * 2 - 4);
        std::uint64_t value = ((low & kLow4) | (high & kTop2)) ^ kMiddle;  // 6 bits with a sign
        value |= (value & kMiddle) * 6;                                    // and 8
        std::memcpy(scales[j] + half, &value, 8);
      }
    }
  }
};

// And of a byte for each block: a 4-bit scale, and a minimum above it.
struct FourBits {
  std::uint8_t scales[16][kTileChannels], minima[16][kTileChannels];
  FourBits(const std::uint8_t* packed, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) {
      for (int i = 0; i < kTileChannels; ++i) {
        scales[j][i] = packed[j * kTileChannels + i] & 15;
        minima[j][i] = packed[j * kTileChannels + i] >> 4;
      }
    }
  }
};

// Scales and minima of some blocks of a tile as floats: those of one super-block, or of as many blocks.
struct SideSpan {
  static constexpr std::int64_t kBlocks = 16;
  alignas(64) float scales[kBlocks][kTileChannels];
  alignas(64) float minima[kBlocks][kTileChannels];

  static std::int64_t length(const Weights& weights) { return weights.format->side == Side::kSixBits ? 8 : kBlocks; }

  // Blocks [b, b + count), b a multiple of length().
  void fill(const Weights& weights, std::int64_t tile, std::int64_t b, std::int64_t count) {
    if (has_factors(weights.format->side)) return fill_super(weights, tile, b / length(weights), count);
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      for (int j = 0; j < count; ++j) {
        const std::int64_t group = weights.granularity == kPerBlock ? (b + j) >> weights.group_shift : 0;
        const Floats scale = load_scales(weights, tile, group, lane);
        if (weights.format->has_minimum()) {
          store(minima[j] + lane, load_minima(weights, tile, group, lane, scale));
        }
        store(scales[j] + lane, scale);
      }
    }
  }

 private:
  // The first blocks of a super-block.
  void fill_super(const Weights& weights, std::int64_t tile, std::int64_t super, std::int64_t count) {
    const Side side = weights.format->side;
    const bool six_bits = side == Side::kSixBits || side == Side::kSignedSixBits;
    const std::uint8_t* packed =
        weights.factors + (tile * weights.groups + super) * (six_bits ? kSixBitBytes : 16) * kTileChannels;
    if (side == Side::kSixBits) return fill_both(weights, tile, super, count, SixBits(packed));
    if (side == Side::kFourBits) return fill_both(weights, tile, super, count, FourBits(packed, count));
    fill_signed(weights, tile, super, count, six_bits ? SignedSixBits(packed).scales[0] : packed);
  }

  template <class Factors>
  void fill_both(const Weights& weights, std::int64_t tile, std::int64_t super, std::int64_t count, const Factors& factors) {
    const std::int64_t at = side_at(weights, tile, super, 0);
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      const Floats scale = load_half(static_cast<const std::uint16_t*>(weights.scales) + at + lane);
      const Floats minimum = negate(load_half(weights.minima + at + lane));
      for (int j = 0; j < count; ++j) {
        store(scales[j] + lane, multiply(scale, load_bytes(factors.scales[j] + lane)));
        store(minima[j] + lane, multiply(minimum, load_bytes(factors.minima[j] + lane)));
      }
    }
  }

  // Factors are signed bytes, 16 of each block.
  void fill_signed(const Weights& weights, std::int64_t tile, std::int64_t super, std::int64_t count,
                   const std::uint8_t* factors) {
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      const std::int64_t at = side_at(weights, tile, super, lane);
      const Floats scale = load_half(static_cast<const std::uint16_t*>(weights.scales) + at);
      for (int j = 0; j < count; ++j) {
        store(scales[j] + lane, multiply(scale, load_signed_bytes(factors + j * kTileChannels + lane)));
      }
    }
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
