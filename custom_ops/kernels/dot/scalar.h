// Dot products of int8 and the rounding of activations in plain C++. kernels/int8.h says what each name means.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/field_order.h"
#include "simd/scalar.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

constexpr int kRowsAtOnce = 1, kFloatRowsAtOnce = 1;
constexpr int vectors_at_once(int, int) { return 1; }

template <int kBits>
struct Dot {
  using Partial = Ints;
  static constexpr bool kExact = false;
  static constexpr int kOffset = 0, kGroups = 8;
  static Partial begin(const Ints& sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, const Codes& codes, const std::int8_t* x) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int byte = 0; byte < 4; ++byte) partial.at[lane] += codes.at[4 * lane + byte] * x[4 * kGroup + byte];
    }
  }
  static Ints end(const Ints&, const Partial& partial) { return partial; }
};

struct LargestMagnitude {
  std::int32_t bits = 0;
  void add(const float* x) {
    for (int lane = 0; lane < kLanes; ++lane) {
      std::int32_t value;
      std::memcpy(&value, x + lane, sizeof value);
      value &= 0x7fffffff;
      bits = value > bits ? value : bits;
    }
  }
  std::int32_t reduce() const { return bits; }
};

template <int kBits>
struct Rounder {
  float inverse;
  std::int32_t sum = 0;
  explicit Rounder(float inverse_scale) : inverse(inverse_scale) {}
  void put(const float* x, std::int8_t* out) {
    for (int lane = 0; lane < kLanes; ++lane) {
      // Adding 1.5 * 2^23 leaves no bits below one: the addition rounds to nearest even.
      const float rounded = (x[lane] * inverse + 12582912.0f) - 12582912.0f;
      const int code = static_cast<int>(rounded);
      sum += code;
      out[field_order<kBits>(lane)] = static_cast<std::int8_t>(code);
    }
  }
  std::int32_t reduce() const { return sum; }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
