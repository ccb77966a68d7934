// The functions of observers for one instruction set; simd/target.h says how this is compiled. Squares of floats are exact
// as doubles, so the bits are the same everywhere.
#include <cstdint>
#include <cstring>

#include "calibration/observer_table.h"
#include "kernels/inline.h"
#include "simd/simd.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Sixteen floats at a time, and what is known of those seen in each lane.
struct Lanes {
  static constexpr int kParts = kMomentLanes / kLanes;
  Floats low[kParts], high[kParts];
  Doubles total[2 * kParts], squares[2 * kParts];

  Lanes() {
    for (int i = 0; i < kParts; ++i) {
      low[i] = splat(float_of(0x7f800000u));
      high[i] = splat(float_of(0xff800000u));
      total[2 * i] = total[2 * i + 1] = squares[2 * i] = squares[2 * i + 1] = splat_double(0.0);
    }
  }

  ONNXQUANT_INLINE void see(const float* from) {
    for (int i = 0; i < kParts; ++i) {
      const Floats x = load(from + i * kLanes);
      low[i] = smaller(x, low[i]);
      high[i] = larger(x, high[i]);
      add_half(2 * i, lower_doubles(x));
      add_half(2 * i + 1, upper_doubles(x));
    }
  }
  ONNXQUANT_INLINE void add_half(int i, Doubles x) {
    total[i] = add(total[i], x);
    squares[i] = add_square(x, squares[i]);
  }
};

Moments measure(const float* values, std::int64_t count) {
  Lanes lanes;
  std::int64_t at = 0;
  for (; at + kMomentLanes <= count; at += kMomentLanes) lanes.see(values + at);
  float low[kMomentLanes], high[kMomentLanes];
  double total[kMomentLanes], squares[kMomentLanes];
  for (int i = 0; i < Lanes::kParts; ++i) {
    store(low + i * kLanes, lanes.low[i]);
    store(high + i * kLanes, lanes.high[i]);
  }
  for (int i = 0; i < 2 * Lanes::kParts; ++i) {
    store(total + i * kLanes / 2, lanes.total[i]);
    store(squares + i * kLanes / 2, lanes.squares[i]);
  }
for (int i = 0; at + i < count; ++i) {
    const float x = values[at + i];
    low[i] = x < low[i] ? x : low[i];
    high[i] = x > high[i] ? x : high[i];
    total[i] += static_cast<double>(x);
    squares[i] += static_cast<double>(x) * static_cast<double>(x);
  }
  for (int half = kMomentLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      low[i] = low[i + half] < low[i] ? low[i + half] : low[i];
      high[i] = high[i + half] > high[i] ? high[i + half] : high[i];
      total[i] += total[i + half];
      squares[i] += squares[i + half];
    }
  }
  return {low[0], high[0], total[0], squares[0]};
}

// The bin of x: whole widths of its magnitude, k for values from zero up and ~k for negative ones.
inline std::int32_t bin(float x, float scale) {
  const std::int32_t k = static_cast<std::int32_t>((x < 0 ? -x : x) * scale);
  return (x < 0 ? ~k : k) + static_cast<std::int32_t>(kSide);
}

std::int64_t count_bins(const float* values, std::int64_t count, float scale, std::uint32_t (*counts)[2 * kSide]) {
  constexpr int kBatch = 256;
  std::int32_t bins[kBatch];
  std::int64_t zeros = 0;
  for (std::int64_t at = 0; at < count; at += kBatch) {
    const int here = static_cast<int>(count - at < kBatch ? count - at : kBatch);
    const float* from = values + at;
    std::int32_t none = 0;
    for (int i = 0; i < here; ++i) {
      bins[i] = bin(from[i], scale);
      none += from[i] == 0;
    }
    zeros += none;
    int i = 0;
    for (; i + kCopies <= here; i += kCopies) {
      for (int copy = 0; copy < kCopies; ++copy) ++counts[copy][bins[i + copy]];
    }
    for (; i < here; ++i) ++counts[0][bins[i]];
  }
  return zeros;
}

}  // namespace

extern const ObserverTable kObservers;
const ObserverTable kObservers = {measure, count_bins};

}  // namespace onnxquant::ONNXQUANT_ISA
