#include "isa/cpu.h"

#ifdef ONNXQUANT_X86
#include <cstdint>
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#ifdef ONNXQUANT_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#ifdef ONNXQUANT_NEON
#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace onnxquant {

bool cpu_has_scalar() { return true; }

#ifdef ONNXQUANT_X86
namespace {

struct Leaf {
  std::uint32_t eax, ebx, ecx, edx;
};

Leaf cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  Leaf out{};
#ifdef _MSC_VER
  int registers[4];
  __cpuid(registers, 0);
  if (static_cast<std::uint32_t>(registers[0]) < leaf) return out;
  __cpuidex(registers, static_cast<int>(leaf), static_cast<int>(subleaf));
  out = {static_cast<std::uint32_t>(registers[0]), static_cast<std::uint32_t>(registers[1]),
         static_cast<std::uint32_t>(registers[2]), static_cast<std::uint32_t>(registers[3])};
#else
  __get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx);
#endif
  return out;
}

// Register state that the operating system saves: without it the instructions fault whatever the CPU says.
std::uint32_t saved_state() {
#ifdef _MSC_VER
  return static_cast<std::uint32_t>(_xgetbv(0));
#else
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
#endif
}

constexpr std::uint32_t bit(int index) { return std::uint32_t{1} << index; }
constexpr bool has_all(std::uint32_t value, std::uint32_t flags) { return (value & flags) == flags; }

constexpr std::uint32_t kYmm = 0x6, kZmm = 0xe6;

bool avx2_with(std::uint32_t state) {
  constexpr std::uint32_t kFma = bit(12), kOsxsave = bit(27), kAvx = bit(28), kF16c = bit(29), kAvx2 = bit(5);
  return has_all(cpuid(1, 0).ecx, kFma | kOsxsave | kAvx | kF16c) && has_all(cpuid(7, 0).ebx, kAvx2) &&
         has_all(saved_state(), state);
}

}  // namespace

bool cpu_has_avx2() { return avx2_with(kYmm); }

bool cpu_has_avxvnni() {
#ifdef ONNXQUANT_EMULATE
  return cpu_has_avx512vnni();
#else
  constexpr std::uint32_t kAvxVnni = bit(4);
  return avx2_with(kYmm) && cpuid(7, 0).eax >= 1 && has_all(cpuid(7, 1).eax, kAvxVnni);
#endif
}

bool cpu_has_avx512vnni() {
  constexpr std::uint32_t kF = bit(16), kDq = bit(17), kBw = bit(30), kVl = bit(31), kVnni = bit(11);
  const Leaf leaf = cpuid(7, 0);
  return avx2_with(kZmm) && has_all(leaf.ebx, kF | kDq | kBw | kVl) && has_all(leaf.ecx, kVnni);
}

bool cpu_has_avx512vbmi() {
  // Asked once: this is no set of its own, of which dispatch.cpp keeps the answer.
  static const bool answer = cpu_has_avx512vnni() && has_all(cpuid(7, 0).ecx, bit(1));
  return answer;
}

#ifdef ONNXQUANT_HAS_AMX
namespace {

#ifdef ONNXQUANT_EMULATE
bool has_tiles() { return true; }
#else
// The kernel saves tiles only for processes that asked for them. The permission is for all threads.
bool may_use_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

bool has_tiles() {
  constexpr std::uint32_t kBf16 = bit(22), kTile = bit(24), kInt8 = bit(25);
  constexpr std::uint32_t kTileState = bit(17) | bit(18);
  return has_all(cpuid(7, 0).edx, kBf16 | kTile | kInt8) && has_all(saved_state(), kTileState) && may_use_tiles();
}
#endif

}  // namespace

bool cpu_has_amx() {
  constexpr std::uint32_t kAvx512Bf16 = bit(5);
  return cpu_has_avx512vnni() && has_all(cpuid(7, 1).eax, kAvx512Bf16) && has_tiles();
}
#endif
#endif

#ifdef ONNXQUANT_NEON
namespace {

#if defined(__APPLE__)
bool has_feature(const char* name) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dot() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__linux__)
// By number: older headers lack the names.
bool has_dot() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
bool has_i8mm() { return (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }
#else
bool has_dot() { return false; }
bool has_i8mm() { return false; }
#endif

}  // namespace

bool cpu_has_neon_dot() { return has_dot(); }

bool cpu_has_neon_i8mm() { return has_dot() && has_i8mm(); }
#endif

}  // namespace onnxquant
