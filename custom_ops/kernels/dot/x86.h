// The common parts of the dot products of AVX2 and AVX-512.
#pragma once

#include <cstdint>

#include "kernels/field_order.h"
#include "simd/x86.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Stores sixteen rounded activations in the order in which weights of so many bits meet them.
template <int kBits>
class FieldOrder {
 public:
  FieldOrder() {
    alignas(16) std::int8_t source[16];
    for (int k = 0; k < 16; ++k) source[field_order<kBits>(k)] = static_cast<std::int8_t>(k);
    order_ = load_128(source);
  }
  void store(std::int8_t* out, __m128i bytes) const { store_128(out, _mm_shuffle_epi8(bytes, order_)); }

 private:
  __m128i order_;
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
