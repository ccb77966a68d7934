#include "network/products.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa/dispatch.h"
#include "isa/float_mode.h"
#include "kernels/scratch.h"

namespace onnxquant {
namespace {

// Bytes that the matrix registers read of a row at a time.
constexpr std::int64_t kRowBytes = 64;
// Floats, rows, and panels of outputs, that a thread takes at a time.
constexpr std::int64_t kFloatsAtOnce = std::int64_t{1} << 14, kRowsAtOnce = 128, kPanelsAtOnce = 12;

std::int64_t pieces_of(std::int64_t count, std::int64_t at_once) { return (count + at_once - 1) / at_once; }

// Weights [length][channels] as int8 [channels / 16][length / 4][16][4], where zeros pad channels and length.
void pack(const ProductParts& parts, std::int64_t run_padded, std::int8_t* to) {
  for (std::int64_t first = 0; first < parts.channels; first += kChannelBlock, to += run_padded * kChannelBlock) {
    const std::int64_t width = std::min(kChannelBlock, parts.channels - first);
    for (std::int64_t k = 0; k < parts.length; k += 4) {
      const std::int8_t* from = parts.weights + k * parts.channels + first;
      std::int8_t* four = to + k * kChannelBlock;
      if (width == kChannelBlock && k + 4 <= parts.length) {
        for (std::int64_t c = 0; c < kChannelBlock; ++c) {
          for (std::int64_t i = 0; i < 4; ++i) four[c * 4 + i] = from[i * parts.channels + c];
        }
        continue;
      }
      for (std::int64_t i = 0; i < std::min<std::int64_t>(4, parts.length - k); ++i) {
        for (std::int64_t c = 0; c < width; ++c) four[c * 4 + i] = from[i * parts.channels + c];
      }
    }
  }
}

// A convolution of one pixel. Sums are made to floats: what makes codes of them is not set.
Convolution shape_of(const ProductParts& parts) {
  Convolution out{};
  out.window = {1, 1};
  out.channels = parts.length;
  out.pixel = round_up(parts.length, kRowBytes);
  out.out_channels = parts.channels;
  out.row_runs = 1;
  out.run_bytes = round_up(parts.length, 4);
  out.run_padded = round_up(out.run_bytes, 64);
  return out;
}

// As onnxruntime's DynamicQuantizeLinear computes it. The range holds 0.
Quantization quantization_of(float low, float high) {
  const float scale = high == low ? 1.0f : (high - low) / 255.0f;
  const float zero = std::max(0.0f, std::min(255.0f, 0.0f - low / scale));
  return {scale, static_cast<std::uint8_t>(std::nearbyint(zero))};
}

// The range of all floats, and 0.
Quantization quantization_of(const NetworkTable& table, const float* x, std::int64_t count, Parallel& parallel) {
  struct Range {
    float low = 0.0f, high = 0.0f;
  };
  std::vector<Range> ranges(static_cast<std::size_t>(pieces_of(count, kFloatsAtOnce)));
  parallel_for(parallel, ranges.size(), [&](std::size_t piece) {
    const FloatMode mode;
    const std::int64_t first = static_cast<std::int64_t>(piece) * kFloatsAtOnce;
    table.range_of(x + first, std::min(kFloatsAtOnce, count - first), &ranges[piece].low, &ranges[piece].high);
  });
  Range all;
  for (const Range& range : ranges) all = {std::min(all.low, range.low), std::max(all.high, range.high)};
  return quantization_of(all.low, all.high);
}

}  // namespace

DynamicProducts::Packed::Packed(const ProductParts& parts) : weights(shape_of(parts)), activation(parts.activation) {
  const auto rounded = static_cast<std::size_t>(round_up(parts.channels, kChannelBlock));
  const std::size_t bytes = rounded * static_cast<std::size_t>(weights.run_padded);
  memory.reset(static_cast<std::int8_t*>(::operator new(bytes, std::align_val_t{64})));
  std::memset(memory.get(), 0, bytes);
  pack(parts, weights.run_padded, memory.get());
  weights.weights = memory.get();
  weight_sums.resize(rounded);
  scales.resize(rounded);
  bias.resize(rounded);
  for (std::int64_t k = 0; k < parts.length; ++k) {
    const std::int8_t* row = parts.weights + k * parts.channels;
    for (std::int64_t c = 0; c < parts.channels; ++c) weight_sums[static_cast<std::size_t>(c)] += row[c];
  }
  for (std::int64_t c = 0; c < parts.channels; ++c) {
    scales[static_cast<std::size_t>(c)] = parts.scales[parts.has_scale_per_channel ? c : 0];
    if (parts.bias != nullptr) bias[static_cast<std::size_t>(c)] = parts.bias[c];
  }
}

DynamicProducts::DynamicProducts(const std::vector<ProductParts>& parts)
    : length_(parts.front().length), products_(parts.begin(), parts.end()) {}

void DynamicProducts::run(const InstructionSet& set, const float* x, std::int64_t rows, const std::vector<float*>& outputs,
                          Parallel& parallel) const {
  if (rows == 0) return;
  const NetworkTable& table = *set.network;
  const std::int64_t stride = round_up(length_, kRowBytes);
  std::size_t channels = 0;
  for (const Packed& product : products_) channels += product.scales.size();
  Scratch scratch(Scratch::size_of<std::uint8_t>(static_cast<std::size_t>(rows * stride)) +
                  2 * Scratch::size_of<std::int32_t>(channels) + Scratch::size_of<float>(channels));
  auto* codes = scratch.take<std::uint8_t>(static_cast<std::size_t>(rows * stride));
  auto *bias = scratch.take<std::int32_t>(channels), *signed_bias = scratch.take<std::int32_t>(channels);
  auto* scales = scratch.take<float>(channels);

  const Quantization to_codes = quantization_of(table, x, rows * length_, parallel);
  const std::int64_t rows_at_once = std::max<std::int64_t>(1, kFloatsAtOnce / std::max<std::int64_t>(1, length_));
  parallel_for(parallel, static_cast<std::size_t>(pieces_of(rows, rows_at_once)), [&](std::size_t piece) {
    const FloatMode mode;
    const std::int64_t first = static_cast<std::int64_t>(piece) * rows_at_once;
    table.quantize(to_codes, x + first * length_, std::min(rows_at_once, rows - first), length_, codes + first * stride, stride);
  });

  std::vector<DynamicProduct> products;
  std::vector<std::size_t> first_pieces{0};
  const auto row_pieces = static_cast<std::size_t>(pieces_of(rows, kRowsAtOnce));
  for (const Packed& packed : products_) {
    const std::size_t count = packed.scales.size();
    for (std::size_t c = 0; c < count; ++c) {
      // In the arithmetic of 32 bits without a sign, which is that of the kernels' sums.
      const auto sum = static_cast<std::uint32_t>(packed.weight_sums[c]);
      bias[c] = static_cast<std::int32_t>(0u - sum * to_codes.zero);
      signed_bias[c] = static_cast<std::int32_t>(sum * 128u - sum * to_codes.zero);
      scales[c] = to_codes.scale * packed.scales[c];
    }
    DynamicProduct product{packed.weights, scales, packed.bias.data(), packed.activation};
    product.weights.bias = bias;
    product.weights.signed_bias = signed_bias;
    products.push_back(product);
    const auto panels = static_cast<std::int64_t>(count) / kChannelBlock;
    first_pieces.push_back(first_pieces.back() + row_pieces * static_cast<std::size_t>(pieces_of(panels, kPanelsAtOnce)));
    bias += count;
    signed_bias += count;
    scales += count;
  }
  parallel_for(parallel, first_pieces.back(), [&](std::size_t piece) {
    const FloatMode mode;
    const auto after = std::upper_bound(first_pieces.begin(), first_pieces.end(), piece);
    const auto number = static_cast<std::size_t>(after - first_pieces.begin()) - 1;
    const std::size_t within = piece - first_pieces[number];
    const std::int64_t row = static_cast<std::int64_t>(within % row_pieces) * kRowsAtOnce;
    const std::int64_t panel = static_cast<std::int64_t>(within / row_pieces) * kPanelsAtOnce;
    const DynamicProduct& product = products[number];
    const std::int64_t width = product.weights.out_channels;
    table.multiply_rows(product, codes + row * stride, stride, std::min(kRowsAtOnce, rows - row), panel,
                   std::min(panel + kPanelsAtOnce, pieces_of(width, kChannelBlock)), outputs[number] + row * width);
  });
}

}  // namespace onnxquant
