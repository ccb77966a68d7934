// The map of codes for one instruction set; simd/target.h says how this is compiled.
#include <cstdint>

#include "codes/code_map.h"
#include "simd/target.h"
// Defines ByteTable.
#include ONNXQUANT_BYTES_HEADER

namespace onnxquant::ONNXQUANT_ISA {

void map_bytes(const std::uint8_t* table, const std::uint8_t* in, std::int64_t count, std::uint8_t* out);

void map_bytes(const std::uint8_t* table, const std::uint8_t* in, std::int64_t count, std::uint8_t* out) {
  std::int64_t at = 0;
  if (count >= ByteTable::kBytes) {
    const ByteTable vector(table);
    for (; at + ByteTable::kBytes <= count; at += ByteTable::kBytes) vector.look_up(in + at, out + at);
  }
  for (; at < count; ++at) out[at] = table[in[at]];
}

}  // namespace onnxquant::ONNXQUANT_ISA
