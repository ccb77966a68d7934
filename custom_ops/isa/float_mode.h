// Subnormal floats cost 7 to 20 times a normal one. Kernels treat them as zero, and give the caller's mode back.
#pragma once

#include <cstdint>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace onnxquant {

// While it lives: subnormals are zero, rounding is to nearest even, floating point exceptions are masked.
class FloatMode {
 public:
  FloatMode() noexcept : saved_(read()) { write(kMode); }
  ~FloatMode() { write(saved_); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__SSE2__) || defined(_M_X64)
  static constexpr std::uint64_t kMode = 0x1f80 | 0x8000 | 0x0040;  // all masked, flush to zero, denormals are zero
  static std::uint64_t read() noexcept { return _mm_getcsr(); }
  static void write(std::uint64_t mode) noexcept { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
  static constexpr std::uint64_t kMode = std::uint64_t{1} << 24;  // FPCR.FZ
  static std::uint64_t read() noexcept {
    std::uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(std::uint64_t mode) noexcept { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
  static constexpr std::uint64_t kMode = 0;
  static std::uint64_t read() noexcept { return 0; }
  static void write(std::uint64_t) noexcept {}
#endif
  std::uint64_t saved_;
};

}  // namespace onnxquant
