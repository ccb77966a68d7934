#include <immintrin.h>

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
namespace avx2 {
#include "isa/avx2.h"
#include "kernels/matmul.inc.h"
}  // namespace avx2
}  // namespace

const KernelTable kAvx2 = avx2::table_of("avx2", cpu_has_avx2);

}  // namespace onnxquant
