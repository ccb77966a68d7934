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

// Scales and minima of some blocks of a tile as floats: those of one super-block, or of as many blocks.
struct SideSpan {
  static constexpr std::int64_t kBlocks = 16;
  alignas(64) float scales[kBlocks][kTileChannels];
  alignas(64) float minima[kBlocks][kTileChannels];

  static std::int64_t length(const Weights& weights) { return weights.format->side == Side::kSixBits ? 8 : kBlocks; }

  // Blocks [b, b + count), b a multiple of length().
  void fill(const Weights& weights, std::int64_t tile, std::int64_t b, std::int64_t count) {
    const Side side = weights.format->side;
    if (side == Side::kSixBits) {
      const std::int64_t super = b / 8;
      const SixBits factors(weights.factors + (tile * weights.groups + super) * kSixBitBytes * kTileChannels);
      const std::int64_t at = side_at(weights, tile, super, 0);
      for (int lane = 0; lane < kTileChannels; lane += kLanes) {
        const Floats scale = load_half(static_cast<const std::uint16_t*>(weights.scales) + at + lane);
        const Floats minimum = negate(load_half(weights.minima + at + lane));
        for (int j = 0; j < count; ++j) {
          store(scales[j] + lane, multiply(scale, load_bytes(factors.scales[j] + lane)));
          store(minima[j] + lane, multiply(minimum, load_bytes(factors.minima[j] + lane)));
        }
      }
      return;
    }
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      if (side == Side::kSignedFactors) {
        const std::int64_t at = side_at(weights, tile, b / 16, lane);
        const Floats scale = load_half(static_cast<const std::uint16_t*>(weights.scales) + at);
        const std::uint8_t* factors = weights.factors + (tile * weights.groups * 16 + b) * kTileChannels + lane;
        for (int j = 0; j < count; ++j) {
          store(scales[j] + lane, multiply(scale, load_signed_bytes(factors + j * kTileChannels)));
        }
        continue;
      }
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
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
