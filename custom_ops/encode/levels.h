// nf4, fp4, dynamic8: the nearest value of a table, or a neighbour at random.
#pragma once

#include "encode/form.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Philox4x32-10 of 16 counters (low, high, 0, 0): 64 words. Words of 32 bits in 64, as vectors multiply them.
inline void philox(std::uint64_t counter, std::uint64_t seed, std::uint32_t* out) {
  constexpr std::uint64_t kMask = 0xffffffffu;
  std::uint64_t a[16], b[16], c[16], d[16], k0 = seed & kMask, k1 = seed >> 32;
  for (unsigned i = 0; i < 16; ++i) {
    a[i] = (counter + i) & kMask;
    b[i] = (counter + i) >> 32;
    c[i] = d[i] = 0;
  }
  for (int turn = 0; turn < 10; ++turn) {
    for (int i = 0; i < 16; ++i) {
      const std::uint64_t first = (a[i] & kMask) * 0xD2511F53u, second = (c[i] & kMask) * 0xCD9E8D57u;
      a[i] = (second >> 32) ^ b[i] ^ k0;
      b[i] = second & kMask;
      c[i] = (first >> 32) ^ d[i] ^ k1;
      d[i] = first & kMask;
    }
    k0 = (k0 + 0x9E3779B9u) & kMask;
    k1 = (k1 + 0xBB67AE85u) & kMask;
  }
  for (int i = 0; i < 16; ++i) {
    out[4 * i] = static_cast<std::uint32_t>(a[i]);
    out[4 * i + 1] = static_cast<std::uint32_t>(b[i]);
    out[4 * i + 2] = static_cast<std::uint32_t>(c[i]);
    out[4 * i + 3] = static_cast<std::uint32_t>(d[i]);
  }
}

template <bool kStochastic>
struct LevelSearch : Form {
  using Form::Form;
  using Code = std::uint8_t;

  static constexpr int kUnit = 0;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float scale = peak(x, at.size), inverse = 1.0f / most(scale, 1e-38f);
    plane<float>(job.scales)[at.number] = scale;
    // The position of the first weight among all: groups are whole, so it is a multiple of 32.
    const std::int64_t start = (job.first_row + at.row) * job.cols + at.in_row * at.size;
    std::uint32_t words[64];
    for (int i = 0; i < at.size; i += 32) {
      float values[32];
      if (kStochastic && i % 64 == 0) philox(static_cast<std::uint64_t>(start + i) / 4, job.seed, words);
      for (int j = 0; j < 32; j += 16) store(values + j, clip(multiply(load_16(x + i + j), splat_16(inverse)), -1.0f, 1.0f));
      if constexpr (kStochastic) either(values, words + i % 64, codes + i);
      else nearest(values, codes + i);
    }
  }
  // At most one bound lies among the floats that share their upper 16 bits: the table says how many lie below.
  // Pointers of their own: bytes that are written could otherwise be those of the job.
  ONNXQUANT_INLINE void nearest(const float* values, Code* codes) const {
    const std::uint8_t *const starts = job.starts, *const level_codes = job.level_codes;
    const float* const bounds = job.bounds;
    Code nearest[32];
    for (int first = 0; first < 32; first += 8) {
      for (int i = first; i < first + 8; ++i) {
        const int below = starts[bits_of(values[i]) >> 16];
        nearest[i] = level_codes[below + (values[i] > bounds[below])];
      }
    }
    std::memcpy(codes, nearest, sizeof nearest);
  }
  ONNXQUANT_INLINE void either(const float* values, const std::uint32_t* words, Code* codes) const {
    const std::uint8_t *const starts = job.starts, *const level_codes = job.level_codes;
    const float *const bounds = job.bounds, *const levels = job.levels;
    const auto last = static_cast<int>(job.level_count - 2);
    float low[32], high[32];
    int below[32];
    for (int i = 0; i < 32; ++i) {
      const int start = starts[bits_of(values[i]) >> 16];
      const int at_most = start + (values[i] >= bounds[start]) - 1;
      below[i] = at_most < 0 ? 0 : at_most > last ? last : at_most;
      low[i] = levels[below[i]];
      high[i] = levels[below[i] + 1];
    }
    for (int i = 0; i < 32; ++i) {
      const float uniform = static_cast<float>(static_cast<std::int32_t>(words[i] >> 8)) * 0x1p-24f;
      below[i] += uniform < (values[i] - low[i]) / (high[i] - low[i]);
    }
    for (int i = 0; i < 32; ++i) codes[i] = level_codes[below[i]];
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_entries(codes, job.table, 256, plane<const float>(job.scales)[at.number], count, y);
  }
};


template <int kBits>
struct Levels {
  static constexpr EncoderTraits kTraits{kBits, 0, ScaleType::kFloat, Side::kNone, kValueTable | kLevels};
  template <class Visit>
  static void with_form(const EncodeJob& job, Visit visit) {
    if (job.stochastic != 0) visit(LevelSearch<true>(job));
    else visit(LevelSearch<false>(job));
  }
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
