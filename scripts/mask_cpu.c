// Runs a program as on a CPU without AMX, without AVX-512, or without AVX-VNNI, too: to compare kernels of those CPUs fairly, since
// ONNX Runtime chooses its own by what the CPU says. Linux on x86-64, where CPUID can be made to fault (cpuid_fault in /proc/cpuinfo).
//
//   gcc -O2 -shared -fPIC scripts/mask_cpu.c -o mask_cpu.so
//   MASK_CPU=avxvnni LD_PRELOAD=./mask_cpu.so python scripts/bench_integer_networks.py ...   # avx2: without AVX-VNNI, too
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

static int with_avx512, without_avx_vnni;
static struct sigaction before;

// Whether CPUID works: arch_prctl(ARCH_SET_CPUID), without the C library, which may not be called in a handler.
static void allow_cpuid(unsigned long allowed) {
  const long arch_set_cpuid = 0x1012;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_arch_prctl), "D"(arch_set_cpuid), "S"(allowed)
                   : "rcx", "r11", "memory");
}

static uint32_t bits(int count, const int *places) {
  uint32_t mask = 0;
  for (int i = 0; i < count; ++i) mask |= 1u << places[i];
  return mask;
}

#define MASK(...) bits(sizeof((int[]){__VA_ARGS__}) / sizeof(int), (int[]){__VA_ARGS__})

static void on_fault(int signal, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *code = (const unsigned char *)registers[REG_RIP];
  (void)signal, (void)info;
  if (code[0] != 0x0f || code[1] != 0xa2) {
    sigaction(SIGSEGV, &before, NULL);  // a real fault, which comes again
    return;
  }
  const uint32_t leaf = (uint32_t)registers[REG_RAX], part = (uint32_t)registers[REG_RCX];
  uint32_t a, b, c, d;
  allow_cpuid(1);
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(part));
  allow_cpuid(0);
  if (with_avx512) {
    if (leaf == 7 && part == 0) d &= ~MASK(22, 24, 25);  // AMX BF16, tiles, INT8
    if (leaf == 7 && part == 1) a &= ~MASK(21);          // AMX FP16
  } else if (leaf == 7 && part == 0) {
    b &= ~MASK(16, 17, 21, 28, 30, 31);  // AVX-512 F, DQ, IFMA, CD, BW, VL
    c &= ~MASK(1, 6, 11, 12, 14);        // VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    d &= ~MASK(8, 22, 23, 24, 25);       // VP2INTERSECT, AMX BF16, AVX-512 FP16, AMX tiles, INT8
  } else if (leaf == 7 && part == 1) {
    a &= ~MASK(5, 21);  // AVX-512 BF16, AMX FP16
    if (without_avx_vnni) a &= ~MASK(4);
    d &= ~MASK(4, 5, 10);  // AVX-VNNI INT8, AVX-NE-CONVERT, AVX-VNNI INT16
  }
  registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void mask(void) {
  const char *name = getenv("MASK_CPU");
  if (name == NULL) return;
  with_avx512 = strcmp(name, "avx512vnni") == 0;
  without_avx_vnni = strcmp(name, "avx2") == 0;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
  allow_cpuid(0);
}
