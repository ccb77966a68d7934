// The instruction set that a source is compiled for.
//
// kernels/kernels.cpp, network/kernels.cpp, encode/encoders.cpp and calibration/observers.cpp are compiled once per instruction set,
// each time into an object library of its own (cmake/InstructionSets.cmake), which defines
//   ONNXQUANT_ISA          the namespace of all that is compiled for it, e.g. avx2
//   ONNXQUANT_SIMD_HEADER  its vectors, e.g. "simd/avx2.h"; simd/scalar.h says what each name means
//   ONNXQUANT_DOT_HEADER   its dot products of int8, e.g. "kernels/dot/avx2.h"; of kernels alone
//   ONNXQUANT_NETWORK_HEADER, ONNXQUANT_CONVOLVE_HEADER   what networks need of vectors beside, and its convolutions; of
//                          network/kernels.cpp alone
// A header of such code puts everything into `namespace onnxquant::ONNXQUANT_ISA { namespace {`: the linker may replace one
// function by another of the same name, and must not give everybody the one with AVX instructions. For the same reason this code
// calls no function of the standard library that is a template or inline.
// Without these definitions, as in an editor and in portable sources, it is scalar.
#pragma once

#ifndef ONNXQUANT_ISA
#define ONNXQUANT_ISA scalar
#define ONNXQUANT_SIMD_HEADER "simd/scalar.h"
#define ONNXQUANT_DOT_HEADER "kernels/dot/scalar.h"
#define ONNXQUANT_NETWORK_HEADER "network/vectors/scalar.h"
#define ONNXQUANT_CONVOLVE_HEADER "network/convolve_dots.h"
#endif
