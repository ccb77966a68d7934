// IEEE binary16.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format f16[] = {
    floats("f16", "F16", Values::kHalf),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct f16 : Form {
  using Form::Form;
  using Code = std::uint16_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{16, kUnit, ScaleType::kNone, Side::kNone};
  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    for (int i = 0; i < at.size; i += 16) store_half(codes + i, load_16(x + i));
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group&, std::int64_t, int count, float* y) const {
    for (int i = 0; i < count; i += 16) store(y + i, load_half_16(codes + i));
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
