// One table of kernels per instruction set that this library was compiled for.
#pragma once

#include "isa/kernel_table.h"

namespace onnxquant {

extern const KernelTable kScalar;
#ifdef ONNXQUANT_X86
extern const KernelTable kAvx2;
#ifdef ONNXQUANT_AVXVNNI
extern const KernelTable kAvxVnni;
#endif
extern const KernelTable kAvx512Vnni;
#ifdef ONNXQUANT_AMX
extern const KernelTable kAmx;
ManyRows amx_many_rows(const Weights& weights);
#endif
#endif
#ifdef ONNXQUANT_NEON
extern const KernelTable kNeonDot;
extern const KernelTable kNeonI8mm;
#endif

}  // namespace onnxquant
