// bfloat16.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format bf16[] = {
    floats("bf16", "BF16", Values::kBfloat),
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct bf16 : Form {
  using Form::Form;
  using Code = std::uint16_t;
  static constexpr int kUnit = 256;
  static constexpr EncoderTraits kTraits{16, kUnit, ScaleType::kNone, Side::kNone};
  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    for (int i = 0; i < at.size; ++i) codes[i] = float_to_bfloat(x[i]);
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group&, std::int64_t, int count, float* y) const {
    for (int i = 0; i < count; i += 16) store(y + i, load_bfloat_16(codes + i));
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
