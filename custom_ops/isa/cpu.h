// Instruction sets that the CPU and the operating system allow, asked once at run time.
#pragma once

namespace onnxquant {

bool cpu_has_scalar();
#ifdef ONNXQUANT_X86
bool cpu_has_avx2();
bool cpu_has_avxvnni();
bool cpu_has_avx512vnni();
bool cpu_has_avx512vbmi();
#ifdef ONNXQUANT_HAS_AMX
bool cpu_has_amx();
#endif
#endif
#ifdef ONNXQUANT_NEON
bool cpu_has_neon_dot();
bool cpu_has_neon_i8mm();
#endif

}  // namespace onnxquant
