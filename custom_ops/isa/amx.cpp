#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "isa/kernel_table.h"
#include "isa/tables.h"
#include "kernels/field_order.h"
#include "kernels/half.h"
#include "kernels/inline.h"
#include "kernels/tables.h"
#ifdef ONNXQUANT_EMULATE
#include "tests/amx_emulation.h"
#endif

// GCC 12 does not say that these instructions read memory: what was stored must be there before them.
#define ONNXQUANT_TILE_BARRIER() __asm__ volatile("" ::: "memory")

// Few rows are left to AVX-512 VNNI's own table: of what is included here a part is used.
#pragma GCC diagnostic ignored "-Wunused-function"

// The unnamed namespace keeps every function out of the other instruction sets' reach, as in theirs.
namespace onnxquant {
namespace {
namespace amx {
#include "isa/avx512vnni.h"
#include "kernels/matmul.inc.h"
#include "isa/amx.h"
}  // namespace amx
}  // namespace

ManyRows amx_many_rows(const Weights& weights) { return amx::select_many_rows(weights); }

}  // namespace onnxquant
