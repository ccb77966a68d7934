// Weights of convolutions in the order in which the kernels of every instruction set read them.
//
//   whole       int8 [out/16][runs][run_padded/4][16][4]: 4 neighbouring bytes of a run for each of 16 outputs; zeros pad outputs
//               and runs
//   depthwise   int8 [channels/16][output_rows][groups of 4 rows][kernel width][16][4]: 4 rows of a column of taps, for the
//               output in the first row of the window and, where the groups have room for it, for the one below that reads the same
//               rows; zeros pad channels and rows
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "network/kernels.h"

namespace onnxquant {

// What a convolution is made of; the arrays are read by pack() alone.
struct ConvolutionParts {
  Window window;
  std::int64_t channels;      // of the input that one output reads; 1 if depthwise
  std::int64_t pixel;         // bytes from one pixel of the input to the next
  std::int64_t out_channels;
  bool depthwise;
  const std::int8_t* weights;  // [out_channels][channels][kernel height][kernel width]
  const std::int32_t* bias;    // [out_channels], or null
  const float* scales;         // [out_channels]: scale of x * scale of w / scale of y
  std::uint8_t x_zero, zero, low, high;
};

// A convolution and the memory of its weights.
class PackedConvolution {
 public:
  // Throws std::bad_alloc, and Error where the weights take too much memory.
  explicit PackedConvolution(const ConvolutionParts&);
  const Convolution& get() const { return convolution_; }
  // Blocks [begin, end) of its outputs.
  Convolution blocks(std::int64_t begin, std::int64_t end) const;

 private:
  struct Free {
    void operator()(std::uint8_t* bytes) const { ::operator delete(bytes, std::align_val_t{64}); }
  };
  Convolution convolution_;
  std::int64_t block_bytes_;  // of weights
  std::unique_ptr<std::uint8_t, Free> memory_;
};

}  // namespace onnxquant
