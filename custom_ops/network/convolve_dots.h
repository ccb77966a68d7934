// Convolutions and products where dot products of four bytes are all there is.
#pragma once

#include "network/multiply.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

inline void convolve(const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  convolve_by_dots(convolution, in, out, begin, end);
}

inline void multiply_rows(const DynamicProduct& product, const std::uint8_t* codes, std::int64_t stride, std::int64_t rows, std::int64_t first,
                          std::int64_t last, float* out) {
  multiply_by_dots(product, codes, stride, rows, first, last, out);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
