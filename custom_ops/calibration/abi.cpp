// The C ABI of observers.
#include <cstring>

#include "calibration/observer.h"
#include "guarded_call.h"
#include "kernels/error.h"

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

// The statistics of an observer, as Python reads them.
struct StatisticsArgument {
  std::int64_t count, zeros, exponent;
  double low, high;
  std::uint64_t total[ExactSum::kWords], squares[ExactSum::kWords];
};

ONNXQUANT_EXPORT int onnxquant_observer_new(std::int64_t histogram, std::int64_t* handle) {
  return guarded_call([&] { *handle = add_observer(histogram != 0); });
}

ONNXQUANT_EXPORT int onnxquant_observer_free(std::int64_t handle) {
  return guarded_call([&] { remove_observer(handle); });
}

// Observes values as the op does, on one thread, in this many pieces.
ONNXQUANT_EXPORT int onnxquant_observer_update(std::int64_t handle, const float* values, std::int64_t count,
                                               std::int64_t pieces) {
  return guarded_call([&] {
    if (count < 0 || pieces < 1 || (values == nullptr && count > 0)) throw Error("no values, or no pieces");
    Serial serial;
    find_observer(handle)->update(values, count, serial, static_cast<std::size_t>(pieces));
  });
}

// Gives out the statistics since the last call, and begins anew; counts [2 * kSide], null where there is no histogram.
ONNXQUANT_EXPORT int onnxquant_observer_take(std::int64_t handle, StatisticsArgument* out, std::int64_t size,
                                             std::int64_t* counts) {
  return guarded_call([&] {
    if (out == nullptr || size != static_cast<std::int64_t>(sizeof *out)) throw Error("caller and library are not of one build");
    const TensorStatistics statistics = find_observer(handle)->take();
    out->count = statistics.count;
    out->zeros = statistics.zeros;
    out->exponent = statistics.exponent;
    out->low = statistics.low;
    out->high = statistics.high;
    std::memcpy(out->total, statistics.total.words().data(), sizeof out->total);
    std::memcpy(out->squares, statistics.squares.words().data(), sizeof out->squares);
    if (counts != nullptr) std::memcpy(counts, statistics.counts.data(), statistics.counts.size() * sizeof *counts);
  });
}
