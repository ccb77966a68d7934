// Maps of 8-bit codes: one table of 256 bytes, or one for each channel, in the place of a function of each element.
#pragma once

#include <cstdint>

#include "kernels/parallel.h"

namespace onnxquant {

struct InstructionSet;

constexpr std::int64_t kTableBytes = 256;

// out[i] = table[in[i]]; out may be in.
using MapBytes = void (*)(const std::uint8_t* table, const std::uint8_t* in, std::int64_t count, std::uint8_t* out);

// The kernels of an instruction set; the better one needs more than the set promises, null where there is none.
struct CodeMapTable {
  MapBytes plain;
  bool (*has_better)();
  MapBytes better;
};

// The best kernel that runs here.
MapBytes map_bytes_of(const InstructionSet& set);

// Element i of a tensor belongs to channel i / inner % channels, whose table is [channel][kTableBytes] of `tables`; entry j is for the
// code whose byte is j. One channel: all elements share a table.
struct CodeMap {
  const std::uint8_t* tables;
  std::int64_t channels, inner;
};

// out[count] = the mapped in[count]. Throws Error where `count` is no multiple of channels * inner.
void map_codes(const InstructionSet&, const CodeMap&, const std::uint8_t* in, std::int64_t count, std::uint8_t* out, Parallel&);

}  // namespace onnxquant
