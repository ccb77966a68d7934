// Kernels of operator IntegerNetwork: 8-bit codes of one sample, channels last. One table of them per instruction set; all of them
// give the same bits.
//
// An image's border lies in memory, so no kernel looks at pads: a tap is where the window says, and the address may lie before the
// first pixel. Kernels read at most kSlack bytes behind an image's last pixel (slack()) whose values do not matter, and write the
// pixels of their rows alone, with the channels rounded up to kChannelBlock.
#pragma once

#include <cstdint>

namespace onnxquant {

// Channels that a kernel computes at a time: pixels are padded to it.
constexpr std::int64_t kChannelBlock = 16;
// Bytes of a pixel of at most so many channels, if it is an input of a region.
constexpr std::int64_t kSmallPixel = 4;

// Rows of taps that a depthwise kernel multiplies at a time.
constexpr std::int64_t kTapRows = 4;

constexpr std::int64_t round_up(std::int64_t count, std::int64_t step) { return (count + step - 1) / step * step; }

// Bytes behind an image that must be readable.
constexpr std::int64_t slack(std::int64_t pixel) { return 64 * pixel + 4096; }

// Pixel (y, x) is at data + y * row + x * pixel, its channel c is byte c. Pixels of an output are multiples of kChannelBlock bytes;
// those of an input may have kSmallPixel.
struct Image {
  std::uint8_t* data;
  std::int64_t height, width, channels;
  std::int64_t pixel, row;  // bytes from one to the next
};

// Tap (ky, kx) of output (y, x) is input (y * stride_y + ky * dilation_y - pad_top, x * stride_x + kx * dilation_x - pad_left).
struct Window {
  std::int64_t height, width;
  std::int64_t stride_y = 1, stride_x = 1, dilation_y = 1, dilation_x = 1, pad_top = 0, pad_left = 0;
};

// How the sums of a convolution become codes; all of them mean the same where they apply, and the later ones take less time.
enum class Rounding {
  kAny,
  kBounded,    // all scales are below 1: what an int holds is an int afterwards
  kRectified,  // besides, codes below the zero point are cut off, and sums are smaller than kRectifiedBias, which the bias contains
  kPlain,      // besides, codes are all from the zero point, 0, to 255
};
// The bits of the float 2^23: from it on a float's bits count up by 1 as the float does, so a sum that begins there is a float
// already. Below, where it is not, the output is the lowest one.
constexpr std::int32_t kRectifiedBias = 0x4b000000;
constexpr std::int32_t kRectifiedLimit = 1 << 23;

// The code of a sum of channel c: round_half_even(float(sum) * scales[c]) + zero, at least low, at most high.
struct Requantization {
  const float* scales;  // [channels rounded up]
  Rounding rounding;
  std::uint8_t zero, low, high;
};

// A convolution of one group, packed (pack.h says how). Output c is requantized from bias[c] + the sum of codes times weights.
struct Convolution {
  Window window;
  std::int64_t channels;      // of the input that are read, from channel 0 of the image on
  std::int64_t pixel;         // bytes from one pixel of the input to the next
  std::int64_t out_channels;
  bool depthwise;             // output c reads channel c alone
  // Runs: bytes that a row of taps reads as one piece, or a tap where taps are not neighbours in memory. Not of depthwise ones.
  std::int64_t row_runs;               // in a row of taps
  std::int64_t run_bytes, run_padded;  // rounded up to 4; what a run of weights takes, a multiple of 64
  std::int64_t output_rows;            // of a depthwise one: rows of outputs that there are weights for, 1 or 2
  const std::int8_t* weights;
  const std::int32_t* bias;         // [channels rounded up], less the sum of weights times the input's zero point
  const std::int32_t* signed_bias;  // the same for codes less 128
  Requantization to_codes;
};

// out = round_half_even(a * a_factor + (b * b_factor + offset)), between low and high; each product and its sum are rounded once,
// as ONNX Runtime does on x86.
struct Addition {
  float a_factor, b_factor;  // scale of a / scale of y, and of b
  float offset;              // zero of y - (a_factor * zero of a + b_factor * zero of b)
  std::uint8_t low, high;
};

// out = round_half_even((a - a_zero) * (b - b_zero) * factor + zero), between low and high.
struct Multiplication {
  float factor;  // scale of a * scale of b / scale of y
  std::uint8_t a_zero, b_zero, zero, low, high;
};

// out = round_half_even((the sum of codes - count * x_zero) * (factor / count)) + zero, where count is of the taps inside of the
// image, or of all; the image's border holds x_zero.
struct Average {
  Window window;
  float factor;  // scale of x / scale of y
  std::uint8_t x_zero, zero;
  bool counts_border;
};

// The code of a float: round_half_even(x / scale) + zero, between 0 and 255; 0 of what is no number.
struct Quantization {
  float scale;
  std::uint8_t zero;
};

// What a product is followed by; Gelu is x / 2 * (1 + erf(x / sqrt(2))).
enum class Activation { kNone, kRelu, kGelu };

// y = activation(float(sum) * scales + bias) of each output: its sum begins at the weights' bias, and weights are those of a
// convolution of one pixel, whose requantization is not read. A row of codes is a pixel.
struct DynamicProduct {
  Convolution weights;
  const float *scales, *bias;  // [channels rounded up]
  Activation activation;
};

// Rows are a range of output rows [begin, end); threads share an image by rows.
struct NetworkTable {
  // in.data is its pixel (0, 0) without the border. For a group of channels, or a part of the outputs, `in` and `out` begin at its
  // channels.
  void (*convolve)(const Convolution&, const Image& in, const Image& out, std::int64_t begin, std::int64_t end);
  void (*depthwise)(const Convolution&, const Image& in, const Image& out, std::int64_t begin, std::int64_t end);
  // `count` bytes, a multiple of kChannelBlock; out may be a or b.
  void (*add)(const Addition&, const std::uint8_t* a, const std::uint8_t* b, std::int64_t count, std::uint8_t* out);
  void (*multiply)(const Multiplication&, const std::uint8_t* a, const std::uint8_t* b, std::int64_t count, std::uint8_t* out);
  // `pixels` pixels of `channels` bytes, a multiple of kChannelBlock, one behind the other; b is one pixel.
  void (*multiply_channels)(const Multiplication&, const std::uint8_t* a, const std::uint8_t* b, std::int64_t pixels,
                            std::int64_t channels, std::uint8_t* out);
  // sums[channels rounded up] += the codes of rows [begin, end).
  void (*pixel_sums)(const Image& in, std::int64_t begin, std::int64_t end, std::int32_t* sums);
  void (*max_pool)(const Window&, const Image& in, const Image& out, std::int64_t begin, std::int64_t end);
  void (*average_pool)(const Average&, const Image& in, const Image& out, std::int64_t begin, std::int64_t end);
  // Pixel p's channel c = tables[c][its code]: tables [channels][256]; `pixels` pixels of `pixel` bytes, one behind the other.
  void (*map_channels)(const std::uint8_t* tables, const std::uint8_t* in, std::int64_t pixels, std::int64_t channels,
                       std::int64_t pixel, std::uint8_t* out);
  // Rows of an image from planes, one of height * width bytes per channel, and back. Every byte is changed by ^ flip: 0x80 makes
  // unsigned codes of signed ones. What pads a pixel's channels becomes 0.
  void (*from_planes)(const std::uint8_t* planes, std::uint8_t flip, const Image& out, std::int64_t begin, std::int64_t end);
  void (*to_planes)(const Image& in, std::uint8_t flip, std::uint8_t* planes, std::int64_t begin, std::int64_t end);
  // The range of floats, if it is wider than low to high; what is no number does not count.
  void (*range_of)(const float* x, std::int64_t count, float* low, float* high);
  // Rows of `length` floats, one behind the other, to rows of codes, which are written up to the next multiple of 64.
  void (*quantize)(const Quantization&, const float* x, std::int64_t rows, std::int64_t length, std::uint8_t* codes, std::int64_t stride);
  // Outputs of panels [first, last), 16 outputs each, for rows of codes, of which a multiple of 64 bytes can be read; `out` is
  // [rows, out_channels].
  void (*multiply_rows)(const DynamicProduct&, const std::uint8_t* codes, std::int64_t stride, std::int64_t rows, std::int64_t first,
                   std::int64_t last, float* out);
  // Whether whole networks are faster than on ONNX Runtime's own kernels.
  bool is_faster;
};

}  // namespace onnxquant
