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
namespace avx512vnni {
#include "isa/avx512vnni.h"
#include "kernels/matmul.inc.h"
}  // namespace avx512vnni
}  // namespace

const KernelTable kAvx512Vnni = avx512vnni::table_of("avx512vnni", cpu_has_avx512vnni);
#ifdef ONNXQUANT_HAS_AMX
// The same kernels, but for many rows.
const KernelTable kAmx = avx512vnni::table_of("amx", cpu_has_amx, amx_many_rows);
#endif

}  // namespace onnxquant
