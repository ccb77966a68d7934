// The C ABI of observers.
#include <cstring>

#include "calibration/observer.h"
#include "guarded_call.h"
#include "kernels/error.h"

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

// What an observer saw, as Python reads it.
struct SeenArgument {
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

// As the op does it, on one thread, in so many pieces.
ONNXQUANT_EXPORT int onnxquant_observer_update(std::int64_t handle, const float* values, std::int64_t count,
                                               std::int64_t pieces) {
  return guarded_call([&] {
    if (count < 0 || pieces < 1 || (values == nullptr && count > 0)) throw Error("no values, or no pieces");
    Serial serial;
    find_observer(handle)->update(values, count, serial, static_cast<std::size_t>(pieces));
  });
}

// What was seen since the last time; counts [2 * kSide], null where there is no histogram.
ONNXQUANT_EXPORT int onnxquant_observer_take(std::int64_t handle, SeenArgument* out, std::int64_t size, std::int64_t* counts) {
  return guarded_call([&] {
    if (out == nullptr || size != static_cast<std::int64_t>(sizeof *out)) throw Error("caller and library are not of one build");
    const Seen seen = find_observer(handle)->take();
    out->count = seen.count;
    out->zeros = seen.zeros;
    out->exponent = seen.exponent;
    out->low = seen.low;
    out->high = seen.high;
    std::memcpy(out->total, seen.total.words().data(), sizeof out->total);
    std::memcpy(out->squares, seen.squares.words().data(), sizeof out->squares);
    if (counts != nullptr) std::memcpy(counts, seen.counts.data(), seen.counts.size() * sizeof *counts);
  });
}
