// LLM.int8: one float32 scale per row, outlier columns in float16.
#pragma once

#include "encode/form.h"
#include "kernels/format.h"

namespace onnxquant::formats {

inline constexpr Format llm_int8[] = {
    {"llm_int8", "LLM_Int8", 8, Values::kOffset, ScaleType::kFloat, Side::kOutliers, kPerRow, 16, 256, nullptr},
};

}  // namespace onnxquant::formats

namespace onnxquant::ONNXQUANT_ISA::encoders {
namespace {

struct llm_int8 : Form {
  using Form::Form;
  using Code = std::uint8_t;
  static constexpr int kUnit = 0;
  static constexpr EncoderTraits kTraits{8, kUnit, ScaleType::kFloat, Side::kOutliers};
  static constexpr bool kOverwrites = true;

  ONNXQUANT_INLINE void quantize(float* x, const Group& at, Code* codes) const {
    auto* outliers = plane<std::uint16_t>(job.seconds) + at.row * job.outlier_count;
    for (std::int64_t j = 0; j < job.outlier_count; ++j) outliers[j] = to_half(x[job.outlier_columns[j]]);
    for (int i = 0; i < at.size; i += 16) {
      std::uint16_t halves[16];
      store_half(halves, load_16(x + i));
      store(x + i, load_half_16(halves));
    }
    for (std::int64_t j = 0; j < job.outlier_count; ++j) x[job.outlier_columns[j]] = 0.0f;
    for (std::int64_t i = job.cols; i < at.size; ++i) x[i] = 0.0f;  // copies of the last column, which may be an outlier
    const float scb = peak(x, at.size), factor = scb > 0 ? 127.0f / scb : 0.0f;
    for (int i = 0; i < at.size; i += 16) {
      store_codes(codes + i, add(round_even(multiply(load_16(x + i), splat_16(factor))), splat_16(128.0f)));
    }
    plane<float>(job.scales)[at.number] = scb / 127.0f;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    scale_codes(codes, 128.0f, plane<const float>(job.scales)[at.number], count, y);
    const auto* outliers = plane<const std::uint16_t>(job.seconds) + at.row * job.outlier_count;
    for (std::int64_t j = first_outlier(from); j < job.outlier_count && job.outlier_columns[j] < from + count; ++j) {
      y[job.outlier_columns[j] - from] = from_half(outliers[j]);
    }
  }
  std::int64_t first_outlier(std::int64_t from) const {
    std::int64_t low = 0, high = job.outlier_count;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (job.outlier_columns[middle] < from) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA::encoders
