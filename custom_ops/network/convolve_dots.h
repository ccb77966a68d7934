// Convolutions where dot products of four bytes are all there is.
#pragma once

#include "network/convolve.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

inline void convolve(const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin, std::int64_t end) {
  convolve_by_dots(convolution, in, out, begin, end);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
