#include "codes/code_map.h"

#include <algorithm>
#include <cinttypes>

#include "isa/dispatch.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

// Bytes of a piece of work: it takes longer than to hand it to a thread.
constexpr std::int64_t kPiece = std::int64_t{1} << 15;

struct Range {
  std::int64_t begin, end;
};

// Neighbours are of different channels: a table each, which no vector instruction reads.
void map_interleaved(const CodeMap& map, Range range, const std::uint8_t* in, std::uint8_t* out) {
  std::int64_t channel = range.begin % map.channels;
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    out[i] = map.tables[channel * kTableBytes + in[i]];
    if (++channel == map.channels) channel = 0;
  }
}

void map_rows(MapBytes kernel, const CodeMap& map, Range range, const std::uint8_t* in, std::uint8_t* out) {
  for (std::int64_t at = range.begin; at < range.end;) {
    const std::int64_t row = at / map.inner;
    const std::int64_t end = std::min(range.end, (row + 1) * map.inner);
    kernel(map.tables + row % map.channels * kTableBytes, in + at, end - at, out + at);
    at = end;
  }
}

}  // namespace

MapBytes map_bytes_of(const InstructionSet& set) {
  const CodeMapTable& maps = set.maps;
  return maps.better != nullptr && maps.has_better() ? maps.better : maps.plain;
}

void map_codes(const InstructionSet& set, const CodeMap& map, const std::uint8_t* in, std::int64_t count, std::uint8_t* out,
               Parallel& parallel) {
  if (map.channels < 1 || map.inner < 0) throw Error("%" PRId64 " channels of %" PRId64 " elements", map.channels, map.inner);
  if (count == 0) return;
  if (map.channels > 1 && (map.inner == 0 || count % map.inner != 0 || count / map.inner % map.channels != 0)) {
    throw Error("%" PRId64 " elements, expected a multiple of %" PRId64 " channels of %" PRId64, count, map.channels, map.inner);
  }
  const MapBytes kernel = map_bytes_of(set);
  parallel_for(parallel, static_cast<std::size_t>((count + kPiece - 1) / kPiece), [&](std::size_t i) {
    const std::int64_t begin = static_cast<std::int64_t>(i) * kPiece;
    const Range range{begin, std::min(count, begin + kPiece)};
    if (map.channels == 1) {
      kernel(map.tables, in + range.begin, range.end - range.begin, out + range.begin);
    } else if (map.inner == 1) {
      map_interleaved(map, range, in, out);
    } else {
      map_rows(kernel, map, range, in, out);
    }
  });
}

}  // namespace onnxquant
