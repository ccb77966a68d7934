// int8 .. int2: codes by the scale as it is stored, with or without a zero point.
#pragma once

#include "encode/form.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

enum class Zero { kNone, kCode, kHalf };

template <Zero kZero, int kFixedSize>
struct Affine : Form {
  using Code = std::uint8_t;
  static constexpr int kUnit = kFixedSize;
  static constexpr bool kBatches = kFixedSize == 32;
  const int bits, offset = 1 << (bits - 1), top = (1 << bits) - 1;
  Affine(const EncodeJob& of, int bits_of_code) : Form(of), bits(bits_of_code) {}

  static constexpr bool kPeak = false;

  struct Stored {
    std::uint16_t half;
    float zero;
  };

  ONNXQUANT_INLINE Stored stored(float low, float high) const {
    const auto levels = static_cast<float>(top);
    if constexpr (kZero == Zero::kNone) {
      const float scale = bits == 8 ? most(-low, high) / 127.0f : (-low >= high ? low : high) / static_cast<float>(-offset);
      return {lasting_half(scale), static_cast<float>(offset)};
    } else if constexpr (kZero == Zero::kHalf) {
      const float step = (high - low) / levels;
      const std::uint16_t half = lasting_half(most(step, most(absolute(low), absolute(high)) * 0x1p-10f));
      const float scale = from_half(half);
      return {half, from_half(to_half(scale != 0 ? -low / scale : static_cast<float>(offset)))};
    } else {
      low = least(low, 0.0f);
      high = most(high, 0.0f);
      const std::uint16_t half = lasting_half((high - low) / levels);
      const float scale = from_half(half);
      return {half, clipped(scale != 0 ? rounded(-low / scale) : static_cast<float>(offset), 0.0f, levels)};
    }
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const int size = kFixedSize ? kFixedSize : at.size;
    const Range of = job.shared != nullptr ? Range{job.shared[0], job.shared[1]} : range<kPeak>(x, size);
    write(x, prepare(of.low, of.high, x, at), codes, size);
  }
  ONNXQUANT_INLINE Grid prepare(float low, float high, const float*, const Group& at) const {
    const Stored sides = stored(low + 0.0f, high + 0.0f);  // of zeros of both signs the positive one
    const std::int64_t number = job.shared != nullptr ? 0 : at.number;
    plane<std::uint16_t>(job.scales)[number] = sides.half;
    if constexpr (kZero == Zero::kCode) plane<std::uint8_t>(job.seconds)[number] = static_cast<std::uint8_t>(sides.zero);
    if constexpr (kZero == Zero::kHalf) plane<std::uint16_t>(job.seconds)[number] = to_half(sides.zero);
    const float scale = from_half(sides.half);
    return {scale != 0 ? 1.0f / scale : 0.0f, sides.zero};
  }
  ONNXQUANT_INLINE void write(const float* x, Grid grid, Code* codes, int size = kFixedSize) const {
    const float lowest = kZero == Zero::kNone && bits == 8 ? 1 : 0, highest = static_cast<float>(top);
    for (int i = 0; i < size; i += 16) {
      const Sixteen scaled = multiply(load_16(x + i), splat_16(grid.inverse)), zero = splat_16(grid.zero);
      const Sixteen code = kZero == Zero::kHalf ? round_even(add(scaled, zero)) : add(round_even(scaled), zero);
      store_codes(codes + i, clip(code, lowest, highest));
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    const std::int64_t number = job.shared != nullptr ? 0 : at.number;
    auto zero = static_cast<float>(offset);
    if constexpr (kZero == Zero::kCode) zero = plane<const std::uint8_t>(job.seconds)[number];
    if constexpr (kZero == Zero::kHalf) zero = from_half(plane<const std::uint16_t>(job.seconds)[number]);
    scale_codes(codes, zero, from_half(plane<const std::uint16_t>(job.scales)[number]), kFixedSize ? kFixedSize : count, y);
  }
};

// Blocks of 32 are known to the compiler: they are the default, and prepared in batches.
template <int kBits>
struct Integers {
  static constexpr EncoderTraits kTraits{kBits, 0, ScaleType::kHalf, Side::kNone, kZeroPoint};
  template <class Visit>
  static void with_form(const EncodeJob& job, Visit visit) {
    if (job.group == 32 && job.shared == nullptr) with_size<32>(job, visit);
    else with_size<0>(job, visit);
  }
  template <int kSize, class Visit>
  static void with_size(const EncodeJob& job, Visit visit) {
    if (job.zero_point == 0) visit(Affine<Zero::kNone, kSize>(job, kBits));
    else if (job.zero_point == 1) visit(Affine<Zero::kCode, kSize>(job, kBits));
    else visit(Affine<Zero::kHalf, kSize>(job, kBits));
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
