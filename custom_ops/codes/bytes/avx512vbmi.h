// codes/bytes/scalar.h with AVX-512 VBMI: an instruction looks up 128 entries by the low 7 bits of an index.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

class ByteTable {
 public:
  static constexpr int kBytes = 64;

  explicit ByteTable(const std::uint8_t* table) {
    for (int k = 0; k < 4; ++k) parts_[k] = _mm512_loadu_si512(table + 64 * k);
  }

  void look_up(const std::uint8_t* from, std::uint8_t* to) const {
    const __m512i index = _mm512_loadu_si512(from);
    const __m512i low = _mm512_permutex2var_epi8(parts_[0], index, parts_[1]);
    const __m512i high = _mm512_permutex2var_epi8(parts_[2], index, parts_[3]);
    _mm512_storeu_si512(to, _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high));
  }

 private:
  __m512i parts_[4];
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
