// The functions of an instruction set that observers need.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxquant {

constexpr int kSideBits = 12;
constexpr std::int64_t kSide = std::int64_t{1} << kSideBits;  // bins on each side of zero
constexpr std::int64_t kMinExponent = -100;
constexpr std::int64_t kBlock = 8192;  // values whose sums are rounded together
constexpr int kMomentLanes = 16;

// Moments of at most kBlock values: element i is summed up in lane i % kMomentLanes, lanes are added in halves.
struct Moments {
  float low, high;
  double total, squares;
};

// Counts of bins of one width, in several copies: equal values that follow each other do not wait for each other.
constexpr int kCopies = 4;
struct Partial {
  std::uint32_t counts[kCopies][2 * kSide];
  std::int64_t exponent, zeros;
  float low, high;  // of the values counted
};

struct ObserverTable {
  Moments (*measure)(const float* values, std::int64_t count);
  // Counts values in bins `1 / scale` wide; returns how many are 0.
  std::int64_t (*count)(const float* values, std::int64_t count, float scale, std::uint32_t (*counts)[2 * kSide]);
};

}  // namespace onnxquant
