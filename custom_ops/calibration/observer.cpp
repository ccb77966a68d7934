#include "calibration/observer.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>
#include <map>

#include "isa/dispatch.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

// The width, as a power of two, with which kSide bins just hold a magnitude.
std::int64_t exponent_of(double magnitude) {
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  return magnitude == 0 ? kMinExponent : std::max<std::int64_t>(exponent - kSideBits, kMinExponent);
}

// Counts of bins become those of bins 2^shift times as wide. Bins move towards zero: none is overwritten before it is read.
template <class Count>
void fold(Count* counts, std::int64_t shift) {
  const auto by = static_cast<int>(std::min<std::int64_t>(shift, kSideBits));
  for (std::int64_t k = 0; k < kSide; ++k) {
    for (const std::int64_t from : {kSide + k, kSide + ~k}) {
      const Count count = counts[from];
      counts[from] = 0;
      counts[kSide + ((from - kSide) >> by)] += count;
    }
  }
}

void grow(Partial& partial, std::int64_t exponent) {
  if (exponent <= partial.exponent) return;
  if (partial.low <= partial.high) {
    for (auto& counts : partial.counts) fold(counts, exponent - partial.exponent);
  }
  partial.exponent = exponent;
}

// Where the bin of a value is in the counts.
std::int64_t position(float x, std::int64_t exponent) {
  const auto k = static_cast<std::int64_t>(std::ldexp(std::fabs(static_cast<double>(x)), static_cast<int>(-exponent)));
  return kSide + (x < 0 ? ~k : k);
}

// Histograms that observers of all tensors use in turn. Every count in them is 0.
class Pool {
 public:
  std::vector<std::unique_ptr<Partial>> take(std::size_t count) {
    std::vector<std::unique_ptr<Partial>> out(count);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& partial : out) {
      if (idle_.empty()) {
        partial.reset(new Partial());
      } else {
        partial = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    idle_.reserve(idle_.size() + count);
    return out;
  }
  void give_back(std::vector<std::unique_ptr<Partial>>& partials) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& partial : partials) idle_.push_back(std::move(partial));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Partial>> idle_;
};

Pool& pool() {
  static Pool& pool = *new Pool;
  return pool;
}

Extremes not_finite(const float* values, std::int64_t count) {
  Extremes out;
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) return {values[i], values[i]};
    out = {std::min(out.low, values[i]), std::max(out.high, values[i])};
  }
  return out;
}

std::mutex& registry_mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

std::map<std::int64_t, std::shared_ptr<Observer>>& registry() {
  static auto& observers = *new std::map<std::int64_t, std::shared_ptr<Observer>>;
  return observers;
}

}  // namespace

void ExactSum::add(double value) {
  int exponent = 0;
  const double mantissa = std::frexp(std::fabs(value), &exponent);
  auto whole = static_cast<std::uint64_t>(std::ldexp(mantissa, 53));
  int shift = exponent - 53 + 1074;
  if (shift < 0) {
    whole >>= -shift;
    shift = 0;
  }
  const auto word = static_cast<std::size_t>(shift / 64);
  const int bit = shift % 64;
  const std::uint64_t parts[2] = {whole << bit, bit == 0 ? 0 : whole >> (64 - bit)};
  std::uint64_t carry = 0;
  for (std::size_t i = word; i < kWords && (i < word + 2 || carry != 0); ++i) {
    const std::uint64_t part = i < word + 2 ? parts[i - word] : 0, before = words_[i];
    if (value < 0) {
      words_[i] = before - part - carry;
      carry = before < part || (carry != 0 && before == part);
    } else {
      words_[i] = before + part + carry;
      carry = words_[i] < before || (carry != 0 && words_[i] == before);
    }
  }
}

Observer::Observer(bool histogram) : histogram_(histogram) {
  if (histogram) statistics_.counts.resize(2 * kSide);
}

Extremes Observer::update(const float* values, std::int64_t count, Parallel& parallel, std::size_t pieces) {
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  pieces = std::max<std::size_t>(1, std::min(pieces, static_cast<std::size_t>(blocks)));
  const ObserverTable& table = *instruction_set().observers;
  Extremes extremes;
  auto partials = pool().take(histogram_ ? pieces : 0);  // before: pieces must not throw
  parallel_for(parallel, blocks == 0 ? 0 : pieces, [&](std::size_t piece) {
    const auto portion = [&](std::size_t i) { return blocks * static_cast<std::int64_t>(i) / static_cast<std::int64_t>(pieces); };
    Partial* partial = histogram_ ? partials[piece].get() : nullptr;
    if (partial) {
      const std::lock_guard<std::mutex> lock(mutex_);
      partial->exponent = statistics_.exponent;
      partial->zeros = 0;
      partial->low = Extremes().low;
      partial->high = Extremes().high;
    }
    for (std::int64_t block = portion(piece); block < portion(piece + 1); ++block) {
      const float* from = values + block * kBlock;
      const std::int64_t here = std::min(kBlock, count - block * kBlock);
      const Moments moments = table.measure(from, here);
      const bool usable = std::isfinite(moments.total);
      if (partial && usable) {
        grow(*partial, exponent_of(std::max(-moments.low, moments.high)));
        const auto scale = static_cast<float>(std::ldexp(1.0, static_cast<int>(-partial->exponent)));
        partial->zeros += table.count(from, here, scale, partial->counts);
        partial->low = std::min(partial->low, moments.low);
        partial->high = std::max(partial->high, moments.high);
      }
      const Extremes block_extremes = usable ? Extremes{moments.low, moments.high} : not_finite(from, here);
      const std::lock_guard<std::mutex> lock(mutex_);
      // NaN stays: it compares with nothing.
      if (!(block_extremes.low >= extremes.low) && !std::isnan(extremes.low)) extremes.low = block_extremes.low;
      if (!(block_extremes.high <= extremes.high) && !std::isnan(extremes.high)) extremes.high = block_extremes.high;
      if (!usable) continue;
      statistics_.count += here;
      statistics_.total.add(moments.total);
      statistics_.squares.add(moments.squares);
    }
    if (partial) merge(*partial);
  });
  pool().give_back(partials);
  const std::lock_guard<std::mutex> lock(mutex_);
  statistics_.low = std::min<double>(statistics_.low, extremes.low);
  statistics_.high = std::max<double>(statistics_.high, extremes.high);
  return extremes;
}

void Observer::merge(Partial& partial) {
  if (!(partial.low <= partial.high)) return;  // nothing was counted
  const std::lock_guard<std::mutex> lock(mutex_);
  if (partial.exponent > statistics_.exponent) {
    fold(statistics_.counts.data(), partial.exponent - statistics_.exponent);
    statistics_.exponent = partial.exponent;
  }
  grow(partial, statistics_.exponent);
  const std::int64_t first = position(partial.low, partial.exponent), last = position(partial.high, partial.exponent);
  for (auto& counts : partial.counts) {
    for (std::int64_t i = first; i <= last; ++i) statistics_.counts[static_cast<std::size_t>(i)] += counts[i];
    std::memset(counts + first, 0, static_cast<std::size_t>(last - first + 1) * sizeof *counts);
  }
  statistics_.zeros += partial.zeros;
}

TensorStatistics Observer::take() {
  TensorStatistics fresh;
  fresh.counts.resize(statistics_.counts.size());
  const std::lock_guard<std::mutex> lock(mutex_);
  std::swap(fresh, statistics_);
  return fresh;
}

std::int64_t add_observer(bool histogram) {
  static std::int64_t next = 1;
  auto observer = std::make_shared<Observer>(histogram);
  const std::lock_guard<std::mutex> lock(registry_mutex());
  registry().emplace(next, std::move(observer));
  return next++;
}

void remove_observer(std::int64_t handle) {
  const std::lock_guard<std::mutex> lock(registry_mutex());
  if (registry().erase(handle) == 0) throw Error("there is no observer %" PRId64, handle);
}

std::shared_ptr<Observer> find_observer(std::int64_t handle) {
  const std::lock_guard<std::mutex> lock(registry_mutex());
  const auto entry = registry().find(handle);
  if (entry == registry().end()) throw Error("there is no observer %" PRId64, handle);
  return entry->second;
}

}  // namespace onnxquant
