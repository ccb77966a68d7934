// Observers against plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "calibration/observer_table.h"
#include "tests/cases.h"

namespace onnxquant::tests {

inline Moments plain_moments(const std::vector<float>& values) {
  double total[kMomentLanes] = {}, squares[kMomentLanes] = {};
  for (std::size_t i = 0; i < values.size(); ++i) {
    total[i % kMomentLanes] += static_cast<double>(values[i]);
    squares[i % kMomentLanes] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  for (int half = kMomentLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      total[i] += total[i + half];
      squares[i] += squares[i + half];
    }
  }
  const auto ends = std::minmax_element(values.begin(), values.end());
  return {*ends.first, *ends.second, total[0], squares[0]};
}

using Counts = std::uint32_t[kCopies][2 * kSide];

// Counts of each bin, summed over the copies.
inline std::vector<std::uint32_t> added(const Counts& counts) {
  std::vector<std::uint32_t> out(2 * kSide);
  for (const auto& copy : counts) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += copy[i];
  }
  return out;
}

inline void check_observers(const ObserverTable& table, const char* name) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const std::size_t count : {1, 15, 16, 17, 333, 8192}) {
    std::vector<float> values(count);
    for (float& value : values) value = random() % 7 == 0 ? 0.0f : normal(random);
    const auto size = static_cast<std::int64_t>(count);
    const Moments moments = table.measure(values.data(), size), expected = plain_moments(values);
    const bool same = moments.low == expected.low && moments.high == expected.high && moments.total == expected.total &&
                      moments.squares == expected.squares;
    if (!same) fail("%s: other moments of %zu values", name, count);
    const auto memory = std::make_unique<Partial>();
    const float scale = 512.0f;
    const std::int64_t zeros = table.count(values.data(), size, scale, memory->counts);
    std::vector<std::uint32_t> bins(2 * kSide);
    for (const float value : values) {
      const auto bin = static_cast<std::int64_t>(std::floor(std::fabs(value) * scale));
      ++bins[static_cast<std::size_t>(kSide + (value < 0 ? -1 - bin : bin))];
    }
    if (zeros != std::count(values.begin(), values.end(), 0.0f)) fail("%s: counts %d zeros", name, int(zeros));
    if (added(memory->counts) != bins) fail("%s: other bins of %zu values", name, count);
  }
}

}  // namespace onnxquant::tests
