#include "network/pack.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "kernels/error.h"

namespace onnxquant {
namespace {

// Memory is laid out in this order: weights, bias, signed bias, scales; each begins at a multiple of 64.
struct Sizes {
  std::size_t weights, channels;

  std::size_t all() const { return weights + 3 * array(); }
  std::size_t array() const { return (channels * sizeof(float) + 63) / 64 * 64; }
};

std::int8_t weight_of(const ConvolutionParts& parts, std::int64_t out, std::int64_t channel, std::int64_t ky, std::int64_t kx) {
  const std::int64_t row = (out * parts.channels + channel) * parts.window.height + ky;
  return parts.weights[row * parts.window.width + kx];
}

// Neighbouring weights of an output, four at a time.
void pack_row(const std::int8_t* from, std::int64_t count, std::int8_t* to) {
  for (std::int64_t i = 0; i < count; i += 4) {
    std::memcpy(to + i * kChannelBlock, from + i, static_cast<std::size_t>(count - i < 4 ? count - i : 4));
  }
}

void pack_whole(const ConvolutionParts& parts, const Convolution& to, std::int8_t* weights) {
  const bool joined = to.row_runs == 1;
  const std::int64_t runs = parts.window.height * to.row_runs;
  for (std::int64_t out = 0; out < parts.out_channels; ++out) {
    for (std::int64_t ky = 0; ky < parts.window.height; ++ky) {
      for (std::int64_t kx = 0; kx < parts.window.width; ++kx) {
        const std::int64_t run = ky * to.row_runs + (joined ? 0 : kx), first = joined ? kx * parts.pixel : 0;
        std::int8_t* panel = weights + (out / kChannelBlock * runs + run) * to.run_padded * kChannelBlock;
        if (parts.window.height * parts.window.width == 1) {
          pack_row(parts.weights + out * parts.channels, parts.channels, panel + out % kChannelBlock * 4);
          continue;
        }
        for (std::int64_t c = 0; c < parts.channels; ++c) {
          const std::int64_t byte = first + c;
          panel[(byte / 4 * kChannelBlock + out % kChannelBlock) * 4 + byte % 4] = weight_of(parts, out, c, ky, kx);
        }
      }
    }
  }
}

void pack_depthwise(const ConvolutionParts& parts, const Convolution& to, std::int8_t* weights) {
  const Window& window = parts.window;
  const std::int64_t groups = round_up(window.height, kTapRows) / kTapRows;
  for (std::int64_t out = 0; out < parts.out_channels; ++out) {
    for (std::int64_t row = 0; row < to.output_rows; ++row) {
      for (std::int64_t ky = 0; ky < window.height; ++ky) {
        const std::int64_t at = ky + row * window.stride_y;
        std::int8_t* group = weights + ((out / kChannelBlock * to.output_rows + row) * groups + at / kTapRows) * window.width *
                                           kChannelBlock * kTapRows;
        for (std::int64_t kx = 0; kx < window.width; ++kx) {
          group[(kx * kChannelBlock + out % kChannelBlock) * kTapRows + at % kTapRows] = weight_of(parts, out, 0, ky, kx);
        }
      }
    }
  }
}

// Of one output: what is added to its sum of codes times weights, and the ends of what that may be together.
struct Bias {
  std::uint32_t value, weights;  // in the arithmetic of 32 bits without a sign, which is that of the kernels' sums
  std::int64_t least, most;

  Bias(const ConvolutionParts& parts, std::int64_t out) {
    const std::int64_t taps = parts.channels * parts.window.height * parts.window.width;
    // Sums of a part fit 32 bits, which takes a quarter of the time.
    constexpr std::int64_t kPart = std::int64_t{1} << 23;
    std::int64_t positive = 0, negative = 0;
    for (std::int64_t begin = 0; begin < taps; begin += kPart) {
      const std::int64_t end = begin + kPart < taps ? begin + kPart : taps;
      std::int32_t above = 0, all = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int32_t weight = parts.weights[out * taps + i];
        above += weight > 0 ? weight : 0;
        all += weight;
      }
      positive += above;
      negative += all - above;
    }
    const std::int64_t bias = (parts.bias != nullptr ? parts.bias[out] : 0) - (positive + negative) * parts.x_zero;
    value = static_cast<std::uint32_t>(bias);
    weights = static_cast<std::uint32_t>(positive + negative);
    least = bias + negative * 255;
    most = bias + positive * 255;
  }
};

Rounding rounding_of(const ConvolutionParts& parts) {
  bool rectified = parts.low >= parts.zero;
  for (std::int64_t out = 0; out < parts.out_channels; ++out) {
    if (!(parts.scales[out] < 1.0f)) return Rounding::kAny;
    const Bias bias(parts, out);
    rectified = rectified && bias.least > -kRectifiedLimit && bias.most < kRectifiedLimit;
  }
  if (!rectified) return Rounding::kBounded;
  return parts.zero == 0 && parts.low == 0 && parts.high == 255 ? Rounding::kPlain : Rounding::kRectified;
}

void set_bias(const ConvolutionParts& parts, Rounding rounding, std::int32_t* bias, std::int32_t* signed_bias) {
  const std::uint32_t begin = rounding >= Rounding::kRectified ? std::uint32_t{kRectifiedBias} : 0;
  for (std::int64_t out = 0; out < parts.out_channels; ++out) {
    const Bias of(parts, out);
    bias[out] = static_cast<std::int32_t>(begin + of.value);
    signed_bias[out] = static_cast<std::int32_t>(begin + of.value + of.weights * 128u);
  }
}

Convolution shape_of(const ConvolutionParts& parts) {
  const Window& window = parts.window;
  Convolution out{};
  out.window = window;
  out.channels = parts.depthwise ? parts.out_channels : parts.channels;
  out.pixel = parts.pixel;
  out.out_channels = parts.out_channels;
  out.depthwise = parts.depthwise;
  // Channels of a group lie apart from those of the next tap.
  const bool joined = window.dilation_x == 1 && parts.pixel - parts.channels < kChannelBlock;
  out.row_runs = joined ? 1 : window.width;
  out.run_bytes = round_up(joined ? (window.width - 1) * parts.pixel + parts.channels : parts.channels, 4);
  out.run_padded = round_up(out.run_bytes, 64);
  const bool room = window.dilation_y == 1 && window.height + window.stride_y <= round_up(window.height, kTapRows);
  out.output_rows = room ? 2 : 1;
  return out;
}

}  // namespace

PackedConvolution::PackedConvolution(const ConvolutionParts& parts) : convolution_(shape_of(parts)) {
  const std::int64_t rounded = round_up(parts.out_channels, kChannelBlock);
  const std::int64_t groups = round_up(parts.window.height, kTapRows) / kTapRows;
  const std::int64_t bytes = parts.depthwise ? convolution_.output_rows * groups * kTapRows * parts.window.width
                                             : parts.window.height * convolution_.row_runs * convolution_.run_padded;
  block_bytes_ = bytes * kChannelBlock;
  // Runs of few bytes are padded: weights of large windows may take 1,024 times as much as in a file.
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 31;
  if (bytes > kMostBytes / rounded) throw Error("weights of %" PRId64 " times %" PRId64 " bytes", rounded, bytes);
  const Sizes sizes{static_cast<std::size_t>(rounded * bytes), static_cast<std::size_t>(rounded)};
  memory_.reset(static_cast<std::uint8_t*>(::operator new(sizes.all(), std::align_val_t{64})));
  std::memset(memory_.get(), 0, sizes.all());
  auto* weights = reinterpret_cast<std::int8_t*>(memory_.get());
  auto* bias = reinterpret_cast<std::int32_t*>(memory_.get() + sizes.weights);
  auto* signed_bias = reinterpret_cast<std::int32_t*>(memory_.get() + sizes.weights + sizes.array());
  auto* scales = reinterpret_cast<float*>(memory_.get() + sizes.weights + 2 * sizes.array());
  if (parts.depthwise) {
    pack_depthwise(parts, convolution_, weights);
  } else {
    pack_whole(parts, convolution_, weights);
  }
  const Rounding rounding = rounding_of(parts);
  set_bias(parts, rounding, bias, signed_bias);
  std::memcpy(scales, parts.scales, static_cast<std::size_t>(parts.out_channels) * sizeof(float));
  convolution_.weights = weights;
  convolution_.bias = bias;
  convolution_.signed_bias = signed_bias;
  convolution_.to_codes = Requantization{scales, rounding, parts.zero, parts.low, parts.high};
}

Convolution PackedConvolution::blocks(std::int64_t begin, std::int64_t end) const {
  Convolution some = convolution_;
  const std::int64_t first = begin * kChannelBlock;
  some.out_channels = std::min(end * kChannelBlock, some.out_channels) - first;
  if (some.depthwise) some.channels = some.out_channels;
  some.weights += begin * block_bytes_;
  some.bias += first;
  some.signed_bias += first;
  some.to_codes.scales += first;
  return some;
}

}  // namespace onnxquant
