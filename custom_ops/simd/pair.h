// Two vectors that are worked on as one.
#pragma once

#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

template <class Vector>
struct Pair {
  Vector a, b;
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
