#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "isa/cpu.h"
#include "isa/kernel_table.h"
#include "isa/tables.h"
#include "kernels/field_order.h"
#include "kernels/half.h"
#include "kernels/inline.h"
#include "kernels/tables.h"

// The unnamed namespace keeps functions out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace neon_dot {
#include "isa/neon.h"
#include "kernels/matmul.inc.h"
}  // namespace neon_dot
}  // namespace

const KernelTable kNeonDot = neon_dot::table_of("neon_dot", cpu_has_neon_dot);

}  // namespace onnxquant
