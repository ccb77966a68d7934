#include "kernels/weights.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <vector>

#include "all_formats.h"
#include "kernels/error.h"
#include "kernels/half.h"
#include "kernels/tables.h"

namespace onnxquant {
namespace {

// Beyond this a size cannot be an honest one, and all products below stay within 64 bits when checked by divide.
constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max() / 64;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <class T>
T read(const void* plane, std::int64_t at) noexcept {
  T value;
  std::memcpy(&value, static_cast<const char*>(plane) + at * static_cast<std::int64_t>(sizeof(T)), sizeof value);
  return value;
}
float read_half(const void* plane, std::int64_t at) noexcept { return half_to_float(read<std::uint16_t>(plane, at)); }

// ---- shapes ----

struct ShapeText {
  char text[96];
};
ShapeText text_of(const std::int64_t* dims, std::size_t rank) {
  ShapeText out{"["};
  std::size_t used = 1;
  for (std::size_t i = 0; i < rank && used < sizeof out.text - 24; ++i) {
    used += static_cast<std::size_t>(
        std::snprintf(out.text + used, sizeof out.text - used, "%s%" PRId64, i ? ", " : "", dims[i]));
  }
  std::snprintf(out.text + used, sizeof out.text - used, "]");
  return out;
}

bool has_shape(const Dims& dims, std::initializer_list<std::int64_t> expected) {
  if (dims.rank != expected.size()) return false;
  std::size_t i = 0;
  for (const std::int64_t dim : expected) {
    if (dims.at[i++] != dim) return false;
  }
  return true;
}

void expect_shape(const Weights& weights, Plane plane, const Dims& dims, std::initializer_list<std::int64_t> expected) {
  if (has_shape(dims, expected)) return;
  throw Error("%s have shape %s, expected %s for N %" PRId64 ", K %" PRId64 ", block_size %" PRId64, name_of(plane),
              text_of(dims.at, dims.rank).text, text_of(expected.begin(), expected.size()).text, weights.N, weights.K,
              weights.block);
}

// One scale for a number of blocks that is a power of two, the last group perhaps short.
bool set_groups(Weights& weights, std::int64_t groups) {
  for (int shift = 0; shift < 12; ++shift) {
    const std::int64_t per_group = std::int64_t{1} << shift;
    if (shift > 0 && weights.block * per_group > 4096) break;
    if ((weights.blocks + per_group - 1) / per_group != groups) continue;
    weights.groups = groups;
    weights.group_shift = shift;
    return true;
  }
  return false;
}

void set_granularity(Weights& weights, Granularity granularity) {
  if ((weights.format->granularities & granularity) == 0) {
    const char* name = granularity == kPerBlock ? "block" : granularity == kPerRow ? "row" : "tensor";
    throw Error("scales have one value per %s, which %s does not have", name, weights.format->name);
  }
  weights.granularity = granularity;
}

void bind_scales(Weights& weights, const Dims& dims) {
  const unsigned allowed = weights.format->granularities;
  const bool is_plane = dims.rank == 3 && dims.at[0] == weights.tiles && dims.at[2] == kTileChannels;
  if (has_factors(weights.format->side)) {
    const std::int64_t per_super = kSuperBlock / weights.block;
    const std::int64_t supers = (weights.blocks + per_super - 1) / per_super;
    expect_shape(weights, Plane::kScales, dims, {weights.tiles, supers, kTileChannels});
    weights.groups = supers;
    weights.granularity = kPerBlock;
    return;
  }
  weights.groups = 1;
  if (has_shape(dims, {1})) return set_granularity(weights, kPerTensor);
  if (is_plane) {
    // One group per row is both: a format takes it as what it knows, and the numbers are the same.
    if (dims.at[1] == 1 && ((allowed & kPerRow) != 0 || weights.blocks * weights.block > 4096)) {
      return set_granularity(weights, kPerRow);
    }
    if (set_groups(weights, dims.at[1])) return set_granularity(weights, kPerBlock);
  }
  throw Error("scales have shape %s, expected [%" PRId64 ", %" PRId64 " or 1, 16] or [1]",
              text_of(dims.at, dims.rank).text, weights.tiles, weights.blocks);
}

void bind_like_scales(const Weights& weights, Plane plane, const Dims& dims) {
  if (weights.granularity == kPerTensor) return expect_shape(weights, plane, dims, {1});
  expect_shape(weights, plane, dims, {weights.tiles, weights.groups, kTileChannels});
}

void check_indices(const Weights& weights, Plane plane, const std::int32_t* at, std::int64_t count) {
  std::vector<bool> is_listed(static_cast<std::size_t>(weights.K));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = read<std::int32_t>(at, i);
    if (index < 0 || index >= weights.K) {
      throw Error("%s hold %" PRId32 " at %" PRId64 ", expected [0, %" PRId64 ")", name_of(plane), index, i, weights.K);
    }
    if (is_listed[static_cast<std::size_t>(index)]) throw Error("%s hold %" PRId32 " twice", name_of(plane), index);
    is_listed[static_cast<std::size_t>(index)] = true;
  }
}

// ---- decoding ----

struct SideOf {
  float scale = 1.0f, minimum = 0.0f, zero = 0.0f;
};

std::int64_t side_index(const Weights& weights, std::int64_t n, std::int64_t group) {
  if (weights.granularity == kPerTensor) return 0;
  return (n / kTileChannels * weights.groups + group) * kTileChannels + n % kTileChannels;
}

float scale_at(const Weights& weights, std::int64_t n, std::int64_t group) noexcept {
  const std::int64_t at = side_index(weights, n, group);
  switch (weights.format->scale_type) {
    case ScaleType::kHalf: return read_half(weights.scales, at);
    case ScaleType::kFloat: return read<float>(weights.scales, at);
    case ScaleType::kExponent: return power_of_two(read<std::uint8_t>(weights.scales, at));
    case ScaleType::kNested: {
      const float own = tables::kDynamic8Values[read<std::uint8_t>(weights.scales, at)];
      const float nested = read<float>(weights.nested_scales, (n * weights.groups + group) / kNested);
      const float scaled = own * nested;
      return scaled + read<float>(weights.nested_offset, 0);
    }
    default: return 1.0f;
  }
}

// Byte `index` of the 6-bit factors of a super-block.
int six_bit_byte(const Weights& weights, std::int64_t n, std::int64_t super, int index) noexcept {
  const std::int64_t row = (n / kTileChannels * weights.groups + super) * kSixBitBytes + index;
  return weights.factors[row * kTileChannels + n % kTileChannels];
}

struct FactorsOf {
  int scale, minimum;
};

FactorsOf six_bits_of(const Weights& weights, std::int64_t n, std::int64_t super, int j) noexcept {
  const int low = six_bit_byte(weights, n, super, j < 4 ? j : j + 4);
  const int top_scale = six_bit_byte(weights, n, super, j < 4 ? j : j - 4);
  const int top_minimum = six_bit_byte(weights, n, super, j < 4 ? j + 4 : j);
  if (j < 4) return {low & 63, top_minimum & 63};
  return {(low & 15) | (top_scale >> 6) << 4, low >> 4 | (top_minimum >> 6) << 4};
}

// The factors of block j of a super-block.
FactorsOf factors_of(const Weights& weights, std::int64_t n, std::int64_t super, int j) noexcept {
  const Side side = weights.format->side;
  if (side == Side::kSixBits) return six_bits_of(weights, n, super, j);
  if (side == Side::kSignedSixBits) {
    const int low = six_bit_byte(weights, n, super, j % 8) >> (j < 8 ? 0 : 4) & 15;
    const int high = six_bit_byte(weights, n, super, 8 + j % 4) >> (j / 4 * 2) & 3;
    return {(low | high << 4) - 32, 0};
  }
  const std::int64_t row = (n / kTileChannels * weights.groups + super) * 16 + j;
  const std::uint8_t byte = weights.factors[row * kTileChannels + n % kTileChannels];
  if (side == Side::kFourBits) return {byte & 15, byte >> 4};
  return {static_cast<std::int8_t>(byte), 0};
}

SideOf side_of(const Weights& weights, std::int64_t n, std::int64_t b) noexcept {
  SideOf out;
  const Side side = weights.format->side;
  if (has_factors(side)) {
    const std::int64_t per_super = kSuperBlock / weights.block, super = b / per_super, at = side_index(weights, n, super);
    const FactorsOf factors = factors_of(weights, n, super, static_cast<int>(b % per_super));
    out.scale = read_half(weights.scales, at) * static_cast<float>(factors.scale);
    if (has_minimum_factors(side)) out.minimum = -(read_half(weights.minima, at) * static_cast<float>(factors.minimum));
    return out;
  }
  const std::int64_t group = weights.granularity == kPerBlock ? b >> weights.group_shift : 0;
  const std::int64_t at = side_index(weights, n, group);
  out.scale = scale_at(weights, n, group);
  if (side == Side::kMinima) out.minimum = read_half(weights.minima, at);
  if (side == Side::kZeroCodes) out.zero = static_cast<float>(read<std::uint8_t>(weights.zero_points, at));
  if (side == Side::kZeroHalves) out.zero = read_half(weights.zero_points, at);
  return out;
}

// The code of weight k of channel n, its low and high bits put together.
int code_of(const Weights& weights, std::int64_t n, std::int64_t k) noexcept {
  const int bits = weights.format->low_bits(), high_bits = weights.format->high_bits();
  const std::int64_t tile = n / kTileChannels, channel = n % kTileChannels * 4;
  const int fields = 8 / bits;
  const std::int64_t step = 4 * fields;  // weights of a channel in one vector
  const std::int64_t byte = k % step / fields;
  const int field = static_cast<int>(k % fields);
  const std::uint8_t* low = weights.codes + (tile * weights.vectors + k / step) * kVectorBytes;
  int code = low[channel + byte] >> (bits * field) & ((1 << bits) - 1);
  if (high_bits > 0) {
    const std::int64_t word = 32 / high_bits;  // weights of a channel in one vector of high bits
    const int within = static_cast<int>(k % word / step) * fields + field;
    const std::uint8_t* high = weights.high + (tile * weights.high_vectors + k / word) * kVectorBytes;
    code |= (high[channel + byte] >> (high_bits * within) & ((1 << high_bits) - 1)) << bits;
  }
  return code;
}

float float_of(const Weights& weights, std::int64_t n, std::int64_t k) noexcept {
  const std::int64_t at = (n / kTileChannels * weights.padded_k() + k) * kTileChannels + n % kTileChannels;
  const auto bits = read<std::uint16_t>(weights.codes, at);
  if (weights.format->values == Values::kHalf) return half_to_float(bits);
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

float value_of(const Weights& weights, const SideOf& side, std::int64_t n, std::int64_t k) noexcept {
  const Format& format = *weights.format;
  if (format.bits == 16) return float_of(weights, n, k);
  const int code = code_of(weights, n, k);
  if (format.values == Values::kTable) return format.table->values[code] * side.scale;
  const int offset = format.values == Values::kOffset ? 1 << (format.bits - 1) : 0;
  const float centred = static_cast<float>(code - offset) - side.zero;
  const float scaled = centred * side.scale;
  return format.has_minimum() ? scaled + side.minimum : scaled;
}

}  // namespace

const char* name_of(Plane plane) {
  constexpr const char* kNames[] = {"codes",         "high",          "scales",          "minima",   "zero_points", "factors",
                                    "nested_scales", "nested_offset", "outlier_columns", "outliers", "permutation"};
  return kNames[static_cast<int>(plane)];
}

PlaneTypes planes_of(const Format& format, bool permuted) {
  PlaneTypes out{};
  const auto add = [&](Plane plane, Type type) { out.at[out.count++] = {plane, type}; };
  add(Plane::kCodes, format.values == Values::kHalf     ? Type::kHalf
                     : format.values == Values::kBfloat ? Type::kBfloat
                                                        : Type::kU8);
  if (format.high_bits() > 0) add(Plane::kHigh, Type::kU8);
  switch (format.scale_type) {
    case ScaleType::kNone: break;
    case ScaleType::kHalf: add(Plane::kScales, Type::kHalf); break;
    case ScaleType::kFloat: add(Plane::kScales, Type::kFloat); break;
    case ScaleType::kNested:
    case ScaleType::kExponent: add(Plane::kScales, Type::kU8); break;
  }
  switch (format.side) {
    case Side::kNone: break;
    case Side::kMinima: add(Plane::kMinima, Type::kHalf); break;
    case Side::kZeroCodes: add(Plane::kZeroPoints, Type::kU8); break;
    case Side::kZeroHalves: add(Plane::kZeroPoints, Type::kHalf); break;
    case Side::kSixBits:
    case Side::kFourBits:
      add(Plane::kMinima, Type::kHalf);
      add(Plane::kFactors, Type::kU8);
      break;
    case Side::kSignedFactors: add(Plane::kFactors, Type::kI8); break;
    case Side::kSignedSixBits: add(Plane::kFactors, Type::kU8); break;
    case Side::kOutliers:
      add(Plane::kOutlierColumns, Type::kI32);
      add(Plane::kOutliers, Type::kHalf);
      break;
  }
  if (format.scale_type == ScaleType::kNested) {
    add(Plane::kNestedScales, Type::kFloat);
    add(Plane::kNestedOffset, Type::kFloat);
  }
  if (permuted) add(Plane::kPermutation, Type::kI32);
  return out;
}

Weights weights_of(const Format& format, std::int64_t N, std::int64_t K, std::int64_t block) {
  if (N < 1 || N > kLargest) throw Error("N is %" PRId64 ", expected a positive number", N);
  if (K < 1 || K > std::numeric_limits<std::int32_t>::max()) {
    throw Error("K is %" PRId64 ", expected a positive number below 2^31", K);
  }
  const bool power_of_two = block > 0 && (block & (block - 1)) == 0;
  if (!power_of_two || block < format.min_block || block > format.max_block) {
    throw Error("block_size is %" PRId64 ", expected a power of two from %" PRId64 " to %" PRId64 " for %s", block,
                format.min_block, format.max_block, format.name);
  }
  const std::int64_t k_padded = round_up(K, format.step(block));
  const std::int64_t n_padded = round_up(N, kTileChannels);
  if (n_padded > kLargest / k_padded) throw Error("N %" PRId64 " times K %" PRId64 " overflows", N, K);
  Weights weights{};
  weights.format = &format;
  weights.N = N;
  weights.K = K;
  weights.block = block;
  weights.tiles = n_padded / kTileChannels;
  weights.blocks = k_padded / block;
  weights.vectors = k_padded * format.low_bits() / 32;
  weights.high_vectors = k_padded * format.high_bits() / 32;
  weights.granularity = kPerBlock;
  return weights;
}

void bind(Weights& weights, Plane plane, const void* data, const Dims& dims) {
  switch (plane) {
    case Plane::kCodes:
      weights.codes = static_cast<const std::uint8_t*>(data);
      if (weights.format->bits == 16) {
        return expect_shape(weights, plane, dims, {weights.tiles, weights.padded_k(), kTileChannels});
      }
      return expect_shape(weights, plane, dims, {weights.tiles, weights.vectors, kTileChannels, 4});
    case Plane::kHigh:
      weights.high = static_cast<const std::uint8_t*>(data);
      return expect_shape(weights, plane, dims, {weights.tiles, weights.high_vectors, kTileChannels, 4});
    case Plane::kScales:
      weights.scales = data;
      return bind_scales(weights, dims);
    case Plane::kMinima:
      weights.minima = static_cast<const std::uint16_t*>(data);
      return bind_like_scales(weights, plane, dims);
    case Plane::kZeroPoints:
      weights.zero_points = data;
      return bind_like_scales(weights, plane, dims);
    case Plane::kFactors:
      weights.factors = static_cast<const std::uint8_t*>(data);
      if (weights.format->side == Side::kSixBits || weights.format->side == Side::kSignedSixBits) {
        return expect_shape(weights, plane, dims, {weights.tiles, weights.groups, kSixBitBytes, kTileChannels});
      }
      return expect_shape(weights, plane, dims, {weights.tiles, weights.groups * 16, kTileChannels});
    case Plane::kNestedScales:
      weights.nested_scales = static_cast<const float*>(data);
      return expect_shape(weights, plane, dims, {(weights.N * weights.groups + kNested - 1) / kNested});
    case Plane::kNestedOffset:
      weights.nested_offset = static_cast<const float*>(data);
      return expect_shape(weights, plane, dims, {1});
    case Plane::kOutlierColumns:
      if (dims.rank != 1 || dims.at[0] < 0 || dims.at[0] > weights.K) {
        throw Error("outlier_columns have shape %s, expected [at most K = %" PRId64 "]",
                    text_of(dims.at, dims.rank).text, weights.K);
      }
      weights.outlier_count = dims.at[0];
      weights.outlier_columns = static_cast<const std::int32_t*>(data);
      return check_indices(weights, plane, weights.outlier_columns, weights.outlier_count);
    case Plane::kOutliers:
      weights.outliers = static_cast<const std::uint16_t*>(data);
      return expect_shape(weights, plane, dims, {weights.tiles, weights.outlier_count, kTileChannels});
    case Plane::kPermutation:
      weights.permutation = static_cast<const std::int32_t*>(data);
      expect_shape(weights, plane, dims, {weights.K});
      return check_indices(weights, plane, weights.permutation, weights.K);
  }
}

const Format& find_format(const char* name) {
  for (const Family& family : kFamilies) {
    for (const Format& format : family) {
      if (name != nullptr && std::strcmp(format.name, name) == 0) return format;
    }
  }
  throw Error("no format is called '%.40s'", name == nullptr ? "" : name);
}

void decode_row(const Weights& weights, std::int64_t n, float* out) noexcept {
  const auto place = [&](std::int64_t k) { return weights.permutation ? read<std::int32_t>(weights.permutation, k) : k; };
  SideOf side;
  for (std::int64_t k = 0; k < weights.K; ++k) {
    if (k % weights.block == 0 && weights.format->bits != 16) side = side_of(weights, n, k / weights.block);
    out[place(k)] = value_of(weights, side, n, k);
  }
  for (std::int64_t j = 0; j < weights.outlier_count; ++j) {
    const std::int64_t at = (n / kTileChannels * weights.outlier_count + j) * kTileChannels + n % kTileChannels;
    out[place(read<std::int32_t>(weights.outlier_columns, j))] = read_half(weights.outliers, at);
  }
}

}  // namespace onnxquant
