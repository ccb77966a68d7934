// Inner loops keep their sums in registers only where they are inlined: that is not left to the compiler's taste.
#pragma once

#if defined(_MSC_VER)
#define ONNXQUANT_INLINE __forceinline
#else
#define ONNXQUANT_INLINE inline __attribute__((always_inline))
#endif
