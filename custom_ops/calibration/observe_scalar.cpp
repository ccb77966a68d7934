#include <cstring>
#include <limits>

#include "calibration/observe_table.h"
#include "kernels/inline.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace scalar {
[[maybe_unused]] constexpr int kVectorBytes = 16;
#include "calibration/observe.inc.h"
}  // namespace scalar
}  // namespace

const ObserveTable kObserveScalar{scalar::measure, scalar::count_bins};

}  // namespace onnxquant
