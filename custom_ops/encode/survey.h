// The survey of a weight: figures of the whole that its first row needs to be encoded.
#pragma once

#include <cstdint>
#include <cstring>

#include "encode/jobs.h"
#include "encode/source.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

inline void survey(const SurveyJob& job, float* scratch) {
  Sixteen low = splat_16(float_of(0x7f800000u)), high = splat_16(float_of(0xff800000u)), smallest_size = low;
  const Sixteen none = low;
  double sums[16] = {};
  for_pieces(job.source, job.rows, job.cols, kWindow, scratch, [&](std::int64_t, std::int64_t first, std::int64_t count, const float* x) {
    for (std::int64_t k = 0; k < count; k += 16) {
      float some[16];
      const std::int64_t there = lower(16, count - k);
      for (std::int64_t i = there; i < 16; ++i) some[i] = x[k];
      std::memcpy(some, x + k, static_cast<std::size_t>(there) * sizeof *x);
      const Sixteen values = load_16(some), sizes = magnitude(values);
      low = smaller(low, values);
      high = larger(high, values);
      smallest_size = smaller(smallest_size, select(above(sizes, splat_16(0.0f)), sizes, none));
      for (std::int64_t i = 0; i < there; ++i) sums[i] += absolute(some[i]);
      if (job.column_peaks == nullptr) continue;
      float* peaks = job.column_peaks + first + k;
      for (std::int64_t i = 0; i < there; ++i) peaks[i] = most(absolute(some[i]), peaks[i]);
    }
  });
  Survey& out = *job.survey;
  out.low = smallest(low);
  out.high = largest(high);
  out.smallest = smallest(smallest_size);
  out.sum = 0;
  for (const double sum : sums) out.sum += sum;
  out.bad_row = out.bad_col = -1;
  if (!finite_sum(out.sum)) find_bad(job.source, job.rows, job.cols, scratch, &out.bad_row, &out.bad_col);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
