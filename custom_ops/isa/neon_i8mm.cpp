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
namespace neon_i8mm {
#define ONNXQUANT_NEON_I8MM
#include "isa/neon.h"
#include "kernels/matmul.inc.h"
}  // namespace neon_i8mm
}  // namespace

const KernelTable kNeonI8mm = neon_i8mm::table_of("neon_i8mm", cpu_has_neon_i8mm);

}  // namespace onnxquant
