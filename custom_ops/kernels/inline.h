// Inner loops keep their sums in registers only where they are inlined: that is not left to the compiler's taste.
#pragma once

#if defined(_MSC_VER)
#define ONNXQUANT_INLINE __forceinline
#define ONNXQUANT_NOINLINE __declspec(noinline)
#define ONNXQUANT_INLINE_LAMBDA
#else
#define ONNXQUANT_INLINE inline __attribute__((always_inline))
#define ONNXQUANT_NOINLINE __attribute__((noinline))
// Between the parameters and the body of a lambda.
#define ONNXQUANT_INLINE_LAMBDA __attribute__((always_inline))
#endif

// Asks for the cache line at an address, which need not exist; for reading, or to be written.
#if defined(_MSC_VER)
#define ONNXQUANT_PREFETCH(address) static_cast<void>(address)
#define ONNXQUANT_PREFETCH_WRITE(address) static_cast<void>(address)
#else
#define ONNXQUANT_PREFETCH(address) __builtin_prefetch(address)
#define ONNXQUANT_PREFETCH_WRITE(address) __builtin_prefetch(address, 1)
#endif
