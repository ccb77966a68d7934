// Loops whose counter the compiler knows from the start: arrays that it indexes stay in registers.
#pragma once

#include "kernels/inline.h"
#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

template <int kValue>
struct Index {
  static constexpr int kIndex = kValue;
  constexpr operator int() const { return kValue; }  // NOLINT: it is one
};

// Calls body(Index<0>()) .. body(Index<kCount - 1>()), an ONNXQUANT_INLINE_LAMBDA.
template <int kCount, int kFirst = 0, class Body>
ONNXQUANT_INLINE void unrolled(Body&& body) {
  if constexpr (kFirst < kCount) {
    body(Index<kFirst>());
    unrolled<kCount, kFirst + 1>(body);
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
