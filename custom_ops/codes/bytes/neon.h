// codes/bytes/scalar.h with NEON: tbl looks up 64 entries, and tbx leaves what is beyond them as it is.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

class ByteTable {
 public:
  static constexpr int kBytes = 16;

  explicit ByteTable(const std::uint8_t* table) {
    for (int k = 0; k < 4; ++k) {
      for (int i = 0; i < 4; ++i) parts_[k].val[i] = vld1q_u8(table + 64 * k + 16 * i);
    }
  }

  void look_up(const std::uint8_t* from, std::uint8_t* to) const {
    const uint8x16_t step = vdupq_n_u8(64);
    uint8x16_t index = vld1q_u8(from);
    uint8x16_t found = vqtbl4q_u8(parts_[0], index);
    for (int k = 1; k < 4; ++k) {
      index = vsubq_u8(index, step);
      found = vqtbx4q_u8(found, parts_[k], index);
    }
    vst1q_u8(to, found);
  }

 private:
  uint8x16x4_t parts_[4];
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
