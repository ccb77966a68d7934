// Maps of codes against plain loops.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "codes/code_map.h"
#include "isa/dispatch.h"
#include "tests/cases.h"

namespace onnxquant::tests {

inline void check_maps(const InstructionSet& set) {
  std::mt19937 random(2);
  const auto bytes = [&](std::size_t count) {
    std::vector<std::uint8_t> out(count);
    for (std::uint8_t& byte : out) byte = static_cast<std::uint8_t>(random());
    return out;
  };
  for (const std::int64_t channels : {1, 3}) {
    const std::vector<std::uint8_t> tables = bytes(static_cast<std::size_t>(channels * kTableBytes));
    for (const std::int64_t inner : {1, 15, 16, 31, 33, 63, 64, 65, 257, 40000}) {
      const std::vector<std::uint8_t> in = bytes(static_cast<std::size_t>(2 * channels * inner));
      std::vector<std::uint8_t> out(in.size());
      Serial serial;
      map_codes(set, CodeMap{tables.data(), channels, inner}, in.data(), 2 * channels * inner, out.data(), serial);
      for (std::size_t i = 0; i < in.size(); ++i) {
        const auto channel = static_cast<std::size_t>(static_cast<std::int64_t>(i) / inner % channels);
        if (out[i] == tables[channel * kTableBytes + in[i]]) continue;
        return fail("%s: code %zu of %lld channels of %lld is mapped wrongly", set.name, i, static_cast<long long>(channels),
                    static_cast<long long>(inner));
      }
    }
  }
}

}  // namespace onnxquant::tests
