// A table of 256 bytes that a vector of bytes is looked up in; here one byte at a time.
//   kBytes         bytes of a vector
//   look_up(from, to)   to[kBytes] = table[from[kBytes]]; to may be from
#pragma once

#include <cstdint>

#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

class ByteTable {
 public:
  static constexpr int kBytes = 1;
  explicit ByteTable(const std::uint8_t* table) : table_(table) {}
  void look_up(const std::uint8_t* from, std::uint8_t* to) const { *to = table_[*from]; }

 private:
  const std::uint8_t* table_;
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
