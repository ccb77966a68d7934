// codes/bytes/scalar.h with AVX2: pshufb looks up 16 entries, and gives zero where the index is negative.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Entry i of part k is the exclusive or of the entries 16 k + i and 16 (k - 1) + i. Index x less 16 k is negative for the parts
// behind that of x: those before it, together, give the entry. Both halves of the 256 indices, which begin with a whole part, are
// looked up; in the other one's part the index is negative from the start.
class ByteTable {
 public:
  static constexpr int kBytes = 32;

  explicit ByteTable(const std::uint8_t* table) {
    __m128i before = _mm_setzero_si128();
    for (int k = 0; k < kParts; ++k) {
      const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * k));
      parts_[k] = _mm256_broadcastsi128_si256(k % kHalf == 0 ? part : _mm_xor_si128(part, before));
      before = part;
    }
  }

  void look_up(const std::uint8_t* from, std::uint8_t* to) const {
    const __m256i step = _mm256_set1_epi8(16);
    __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    __m256i high = _mm256_xor_si256(low, _mm256_set1_epi8(-128));
    __m256i found_low = _mm256_setzero_si256(), found_high = _mm256_setzero_si256();
    for (int k = 0; k < kHalf; ++k) {
      found_low = _mm256_xor_si256(found_low, _mm256_shuffle_epi8(parts_[k], low));
      found_high = _mm256_xor_si256(found_high, _mm256_shuffle_epi8(parts_[kHalf + k], high));
      low = _mm256_subs_epi8(low, step);  // saturated: what is negative stays so
      high = _mm256_subs_epi8(high, step);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_xor_si256(found_low, found_high));
  }

 private:
  static constexpr int kParts = 16, kHalf = kParts / 2;
  __m256i parts_[kParts];
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
