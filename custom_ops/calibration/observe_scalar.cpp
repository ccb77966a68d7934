#include <limits>

#include "calibration/observe_table.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace scalar {
#include "calibration/observe.inc.h"
}  // namespace scalar
}  // namespace

const ObserveTable kObserveScalar{scalar::measure, scalar::count_bins};

}  // namespace onnxquant
