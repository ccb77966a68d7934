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
namespace scalar {
#include "isa/scalar.h"
#include "kernels/matmul.inc.h"
}  // namespace scalar
}  // namespace

const KernelTable kScalar = scalar::table_of("scalar", cpu_has_nothing_special);

}  // namespace onnxquant
