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
namespace avxvnni {
#ifdef ONNXQUANT_EMULATE
#define ONNXQUANT_VNNI_256 _mm256_dpbusd_epi32  // the same in the encoding of AVX-512, for CPUs that have only that one
#else
#define ONNXQUANT_VNNI_256 _mm256_dpbusd_avx_epi32
#endif
#include "isa/avx2.h"
#include "kernels/matmul.inc.h"
}  // namespace avxvnni
}  // namespace

const KernelTable kAvxVnni = avxvnni::table_of("avxvnni", cpu_has_avxvnni);

}  // namespace onnxquant
