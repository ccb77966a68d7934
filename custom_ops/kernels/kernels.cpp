// The kernels of one instruction set: simd/target.h says how this is compiled.
#include <cstdint>

#include "kernels/activations.h"
#include "kernels/half.h"
#include "kernels/int8.h"
#include "kernels/kernel_table.h"
#include "kernels/panels.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

void widen(const std::uint16_t* half, float* out, std::int64_t count) {
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store(out + at, load_half(half + at));
  for (; at < count; ++at) out[at] = half_to_float(half[at]);
}

void narrow(const float* values, std::uint16_t* out, std::int64_t count) {
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store_half(out + at, load(values + at));
  for (; at < count; ++at) out[at] = float_to_half(values[at]);
}

}  // namespace

extern const KernelTable kKernels;
const KernelTable kKernels = {
    select_quantize, select_int8_tiles, select_decode, multiply_panel, add_signed_panel, widen, narrow,
};

}  // namespace onnxquant::ONNXQUANT_ISA
