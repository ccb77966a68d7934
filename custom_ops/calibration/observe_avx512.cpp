#include <cstring>
#include <limits>

#include "calibration/observe_table.h"
#include "kernels/inline.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace avx512 {
[[maybe_unused]] constexpr int kVectorBytes = 64;
#include "calibration/observe.inc.h"
}  // namespace avx512
}  // namespace

const ObserveTable kObserveAvx512{avx512::measure, avx512::count_bins};

}  // namespace onnxquant
