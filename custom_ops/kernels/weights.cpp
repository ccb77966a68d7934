#include "kernels/weights.h"

#include <cinttypes>
#include <cstring>
#include <limits>

#include "all_formats.h"
#include "kernels/error.h"
#include "kernels/half.h"

namespace onnxquant {
namespace {

// Beyond this a size cannot be an honest one, and all products below stay within 64 bits when checked by divide.
constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max() / 4;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

float scale_of(const Weights& weights, std::int64_t n, std::int64_t k) noexcept {
  std::int64_t at = 0;
  if (weights.granularity != kPerTensor) {
    const std::int64_t columns = weights.granularity == kPerBlock ? weights.blocks : 1;
    const std::int64_t column = weights.granularity == kPerBlock ? k / weights.block : 0;
    at = (n / kTileChannels * columns + column) * kTileChannels + n % kTileChannels;
  }
  if (weights.format->scale_type == ScaleType::kHalf) {
    std::uint16_t half;
    std::memcpy(&half, static_cast<const char*>(weights.scales) + at * 2, sizeof half);
    return half_to_float(half);
  }
  float scale;
  std::memcpy(&scale, static_cast<const char*>(weights.scales) + at * 4, sizeof scale);
  return scale;
}

}  // namespace

Weights weights_of(const Format& format, std::int64_t N, std::int64_t K, std::int64_t block) {
  if (N < 1 || N > kLargest) throw Error("N is %" PRId64 ", expected a positive number", N);
  if (K < 1 || K > kLargest) throw Error("K is %" PRId64 ", expected a positive number", K);
  const bool power_of_two = block > 0 && (block & (block - 1)) == 0;
  if (!power_of_two || block < format.min_block || block > format.max_block) {
    throw Error("block_size is %" PRId64 ", expected a power of two from %" PRId64 " to %" PRId64 " for %s", block,
                format.min_block, format.max_block, format.name);
  }
  const std::int64_t k_padded = round_up(K, block);
  const std::int64_t n_padded = round_up(N, kTileChannels);
  if (n_padded > kLargest / k_padded) throw Error("N %" PRId64 " times K %" PRId64 " overflows", N, K);
  Weights weights{};
  weights.format = &format;
  weights.N = N;
  weights.K = K;
  weights.block = block;
  weights.tiles = n_padded / kTileChannels;
  weights.blocks = k_padded / block;
  weights.vectors = k_padded * format.bits / 32;
  return weights;
}

std::int64_t scale_count(const Weights& weights, Granularity granularity) {
  switch (granularity) {
    case kPerBlock: return weights.tiles * weights.blocks * kTileChannels;
    case kPerRow: return weights.tiles * kTileChannels;
    default: return 1;
  }
}

void check_granularity(const Weights& weights, Granularity granularity) {
  if ((weights.format->granularities & granularity) == 0) {
    const char* name = granularity == kPerBlock ? "block" : granularity == kPerRow ? "row" : "tensor";
    throw Error("scales have one value per %s, which %s does not have", name, weights.format->name);
  }
}

const Format& find_format(const char* name) {
  for (const Format* format : kFormats) {
    if (name != nullptr && std::strcmp(format->name, name) == 0) return *format;
  }
  throw Error("no format is called '%.40s'", name == nullptr ? "" : name);
}

void decode_row(const Weights& weights, std::int64_t n, float* out) noexcept {
  const int bits = weights.format->bits;
  const int per_byte = 8 / bits;
  const int mask = (1 << bits) - 1, offset = 1 << (bits - 1);
  const std::uint8_t* channel =
      weights.codes + n / kTileChannels * weights.vectors * kVectorBytes + n % kTileChannels * 4;
  std::int64_t block_end = 0;
  float scale = 0;
  for (std::int64_t k = 0; k < weights.K; ++k) {
    if (k == block_end) {
      scale = scale_of(weights, n, k);
      block_end += weights.block;
    }
    const std::int64_t byte = k / per_byte;
    const int field = static_cast<int>(k % per_byte);
    const int code = channel[byte / 4 * kVectorBytes + byte % 4] >> (bits * field) & mask;
    out[k] = static_cast<float>(code - offset) * scale;
  }
}

}  // namespace onnxquant
