// One table of kernels per instruction set that this library was compiled for.
#pragma once

#include "isa/kernel_table.h"

namespace onnxquant {

extern const KernelTable kScalar;
#ifdef ONNXQUANT_HAS_AVX2
extern const KernelTable kAvx2;
#endif
#ifdef ONNXQUANT_HAS_AVXVNNI
extern const KernelTable kAvxVnni;
#endif
#ifdef ONNXQUANT_HAS_AVX512VNNI
extern const KernelTable kAvx512Vnni;
#endif
#ifdef ONNXQUANT_HAS_AMX
extern const KernelTable kAmx;
ManyRows amx_many_rows(const Weights& weights);
#endif
#ifdef ONNXQUANT_HAS_NEON_DOT
extern const KernelTable kNeonDot;
#endif
#ifdef ONNXQUANT_HAS_NEON_I8MM
extern const KernelTable kNeonI8mm;
#endif

}  // namespace onnxquant
