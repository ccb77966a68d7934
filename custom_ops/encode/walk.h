// A walk over a weight group by group: quantize, dequantize what was written, sum the errors, all while the group is in the first
// cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "encode/encoder_table.h"
#include "encode/form.h"
#include "encode/source.h"
#include "encode/statistics.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Weights that are decoded at a time.
constexpr int kDecodeStep = 256;

inline std::int64_t unit_of(std::int64_t cols, std::int64_t group) { return group != 0 ? group : round_up(cols, 16); }
inline std::int64_t window_of(std::int64_t unit) { return unit < kWindow ? kWindow / unit * unit : unit; }

inline std::int64_t scratch_floats(std::int64_t cols, std::int64_t group) {
  const std::int64_t unit = unit_of(cols, group);
  return kRowsTogether * window_of(unit) + 2 * unit + kDecodeStep;
}

template <class AnyForm>
struct Walk {
  using Code = typename AnyForm::Code;
  const EncodeJob& job;
  const AnyForm form;
  const std::int64_t unit, groups;
  float *tail, *decoded;
  Code* code_tail;

  Walk(const AnyForm& of, float* scratch)
      : job(of.job),
        form(of),
        unit(AnyForm::kUnit ? AnyForm::kUnit : unit_of(job.cols, job.group)),
        groups((job.cols + unit - 1) / unit) {
    tail = scratch + kRowsTogether * window_of(unit);
    decoded = tail + unit;
    code_tail = reinterpret_cast<Code*>(decoded + kDecodeStep);
  }

  // `count` weights of a row from column `first` on, which begins a group.
  template <Action kAction>
  ONNXQUANT_INLINE void columns(std::int64_t row, std::int64_t first, std::int64_t count, const float* x, Sums& sums) const {
    Code* codes = static_cast<Code*>(job.codes) + row * job.cols + first;
    Group at{row, first / unit, row * groups + first / unit, AnyForm::kUnit ? AnyForm::kUnit : static_cast<int>(unit)};
    Sums own = sums;  // in registers: nothing has its address
    std::int64_t k = 0;
    if constexpr (kAction == Action::kEncode && AnyForm::kBatches) {
      for (; k + 16 * 32 <= count; k += 16 * 32) batch(at, first + k, x + k, codes + k, own);
    }
    for (; k + unit <= count; k += unit, ++at.in_row, ++at.number) whole<kAction>(at, first + k, unit, x + k, codes + k, own);
    sums = own;
    if (k < count) partial<kAction>(at, first + k, count - k, x + k, codes + k, sums);
  }

  // 16 groups of 32, each step for all of them before the next: their latencies overlap.
  ONNXQUANT_INLINE void batch(Group& at, std::int64_t first, const float* x, Code* codes, Sums& sums) const {
    float low[16], high[16];
    Grid grids[16];
    ranges<AnyForm::kPeak>(x, low, high);
    Group each = at;
    for (int g = 0; g < 16; ++g, ++each.in_row, ++each.number) grids[g] = form.prepare(low[g], high[g], x + 32 * g, each);
    for (int g = 0; g < 16; ++g) form.write(x + 32 * g, grids[g], codes + 32 * g);
    for (int g = 0; g < 16; ++g, ++at.in_row, ++at.number) {
      back<Action::kEncode>(at, first + 32 * g, 32, x + 32 * g, codes + 32 * g, sums);
    }
  }

  template <Action kAction>
  ONNXQUANT_INLINE void whole(const Group& at, std::int64_t first, std::int64_t there, const float* x, Code* codes, Sums& sums) const {
    if constexpr (kAction == Action::kEncode && AnyForm::kOverwrites) {
      std::memcpy(tail, x, static_cast<std::size_t>(there) * sizeof *x);
      form.quantize(tail, at, codes);
    } else if constexpr (kAction == Action::kEncode) {
      form.quantize(x, at, codes);
    }
    back<kAction>(at, first, AnyForm::kUnit ? AnyForm::kUnit : there, x, codes, sums);
  }

  // A short last group is filled up with the row's last value.
  template <Action kAction>
  void partial(const Group& at, std::int64_t first, std::int64_t there, const float* x, Code* codes, Sums& sums) const {
    if constexpr (kAction == Action::kEncode) {
      for (std::int64_t i = 0; i < unit; ++i) tail[i] = x[lower(i, there - 1)];
      form.quantize(tail, at, code_tail);
      std::memcpy(codes, code_tail, static_cast<std::size_t>(there) * sizeof(Code));
    } else {
      std::memset(code_tail, 0, static_cast<std::size_t>(unit) * sizeof(Code));
      std::memcpy(code_tail, codes, static_cast<std::size_t>(there) * sizeof(Code));
    }
    back<kAction>(at, first, there, x, code_tail, sums);
  }

  template <Action kAction>
  ONNXQUANT_INLINE void back(const Group& at, std::int64_t first, std::int64_t there, const float* x, const Code* codes,
                             Sums& sums) const {
    for (std::int64_t from = 0; from < there; from += kDecodeStep) {
      const std::int64_t count = lower(kDecodeStep, there - from);
      form.dequantize(codes + from, at, from, static_cast<int>(round_up(count, 16)), decoded);
      if constexpr (kAction == Action::kDecode) {
        float* row = job.decoded + at.row * job.cols;
        for (std::int64_t i = 0, k = first + from; i < count; ++i, ++k) {
          row[job.source.columns == nullptr ? k : job.source.columns[k]] = decoded[i];
        }
      } else {
        add_errors(x + from, decoded, count, sums);
      }
    }
  }
};

template <Action kAction, class AnyForm>
ONNXQUANT_NOINLINE void run(const AnyForm& form, float* scratch) {
  const EncodeJob& job = form.job;
  const Walk<AnyForm> walk(form, scratch);
  Sums sums;
  if constexpr (kAction == Action::kDecode) {
    for (std::int64_t row = 0; row < job.rows; ++row) {
      walk.template columns<kAction>(row, 0, job.cols, nullptr, sums);
    }
    return;
  }
  for_pieces(job.source, job.rows, job.cols, window_of(walk.unit), scratch,
             [&](std::int64_t row, std::int64_t first, std::int64_t count, const float* x) {
               walk.template columns<kAction>(row, first, count, x, sums);
             });
  write(sums, *job.statistics);
  if (finite_sum(job.statistics->reference)) {
    job.statistics->bad_row = job.statistics->bad_col = -1;
  } else {
    find_bad(job.source, job.rows, job.cols, scratch, &job.statistics->bad_row, &job.statistics->bad_col);
  }
}

template <class AnyForm>
void run(const AnyForm& form, Action action, float* scratch) {
  if (action == Action::kEncode) return run<Action::kEncode>(form, scratch);
  if (action == Action::kMeasure) return run<Action::kMeasure>(form, scratch);
  run<Action::kDecode>(form, scratch);
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
