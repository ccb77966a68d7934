// The kernels of networks for one instruction set; simd/target.h says how this is compiled.
#include "network/depthwise.h"
#include "network/elementwise.h"
#include "network/kernels.h"
#include "network/multiply.h"
#include "network/planes.h"
#include "network/pool.h"
// Defines convolve and multiply_rows.
#include ONNXQUANT_CONVOLVE_HEADER

namespace onnxquant::ONNXQUANT_ISA {

extern const NetworkTable kNetwork;
const NetworkTable kNetwork = {
    convolve, depthwise, add_codes, multiply_codes, multiply_channels, pixel_sums, max_pool, average_pool, map_channels,
    from_planes, to_planes, range_of, quantize, multiply_rows, kIsFaster,
};

}  // namespace onnxquant::ONNXQUANT_ISA
