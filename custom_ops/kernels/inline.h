// Inner loops keep their sums in registers only where they are inlined: that is not left to the compiler's taste.
#pragma once

#if defined(_MSC_VER)
#define ONNXQUANT_INLINE __forceinline
#else
#define ONNXQUANT_INLINE inline __attribute__((always_inline))
#endif

// Asks for the cache line at an address, which need not exist.
#if defined(_MSC_VER)
#define ONNXQUANT_PREFETCH(address) static_cast<void>(address)
#else
#define ONNXQUANT_PREFETCH(address) __builtin_prefetch(address)
#endif
