// What the CPU and the operating system allow, asked once at run time.
#pragma once

namespace onnxquant {

bool cpu_has_nothing_special();
#ifdef ONNXQUANT_X86
bool cpu_has_avx2();
bool cpu_has_avxvnni();
bool cpu_has_avx512vnni();
#endif

}  // namespace onnxquant
