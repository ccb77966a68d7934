#include <cstring>
#include <limits>

#include "calibration/observe_table.h"
#include "kernels/inline.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace avx2 {
[[maybe_unused]] constexpr int kVectorBytes = 32;
#include "calibration/observe.inc.h"
}  // namespace avx2
}  // namespace

const ObserveTable kObserveAvx2{avx2::measure, avx2::count_bins};

}  // namespace onnxquant
