// Statistics of a tensor's values: extremes, moments, and a histogram that grows its range by merging pairs of bins.
// onnxquant/observers (moments.py, histogram.py) is the readable reference; all numbers are the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "calibration/observer_table.h"
#include "kernels/parallel.h"

namespace onnxquant {

// A sum of doubles without rounding, as a whole number of 2^-1074: additions in any order give the same.
class ExactSum {
 public:
  static constexpr std::size_t kWords = 35;  // 2^1024 / 2^-1074 in 2098 bits, a sign, and room for 2^140 additions
  void add(double value);
  const std::array<std::uint64_t, kWords>& words() const { return words_; }

 private:
  std::array<std::uint64_t, kWords> words_{};
};

struct TensorStatistics {
  std::int64_t count = 0, zeros = 0, exponent = kMinExponent;
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  ExactSum total, squares;
  std::vector<std::int64_t> counts;  // empty without a histogram
};

// Extremes of one tensor. NaN where a value is NaN; infinite where one is.
struct Extremes {
  float low = std::numeric_limits<float>::infinity(), high = -std::numeric_limits<float>::infinity();
};

class Observer {
 public:
  explicit Observer(bool histogram);
  // Adds the values of a tensor; after one that is not finite throughout the statistics are of no use.
  Extremes update(const float* values, std::int64_t count, Parallel& parallel, std::size_t pieces);
  // Gives out the statistics since the last call, and begins anew.
  TensorStatistics take();

 private:
  void merge(Partial& partial);

  const bool histogram_;
  std::mutex mutex_;
  TensorStatistics statistics_;
};

// Observers by number, so that a node can name one. Throws Error for numbers that are not.
std::int64_t add_observer(bool histogram);
void remove_observer(std::int64_t handle);
std::shared_ptr<Observer> find_observer(std::int64_t handle);

}  // namespace onnxquant
