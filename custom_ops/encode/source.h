// Rows of a weight of any type and strides as contiguous float32.
#pragma once

#include <cstdint>

#include "encode/jobs.h"
#include "kernels/inline.h"
#include "simd/simd.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Columns at a time of a weight that is not contiguous float32: a batch of 16 groups of 32, or more.
constexpr std::int64_t kWindow = 512;
// Rows at a time of a weight that is stored column by column: a cache line of them, of floats or of halves.
constexpr std::int64_t kRowsTogether = 32;
inline std::int64_t rows_together(const Source& source) {
  if (source.row_stride != 1 || source.col_stride == 1) return 1;
  return source.type == 1 || source.type == 2 ? kRowsTogether : kRowsTogether / 2;
}

template <int kType>
struct Elements {
  using Type = std::uint16_t;
  static Sixteen sixteen(const Type* from) { return kType == 1 ? load_half_16(from) : load_bfloat_16(from); }
  static float one(Type x) { return kType == 1 ? from_half(x) : bfloat_to_float(x); }
};
template <>
struct Elements<0> {
  using Type = float;
  static Sixteen sixteen(const float* from) { return load_16(from); }
  static float one(float x) { return x; }
};
template <>
struct Elements<3> {
  using Type = double;
  static Sixteen sixteen(const double* from) { return load_double_16(from); }
  static float one(double x) { return static_cast<float>(x); }
};

inline std::int64_t column(const Source& source, std::int64_t k) {
  return (source.columns == nullptr ? k : source.columns[k]) * source.col_stride;
}

// Columns [first, first + count) of rows [row, row + rows) to `to`, row after row `stride` floats apart.
template <int kType>
void fetch(const Source& source, std::int64_t row, std::int64_t rows, std::int64_t first, std::int64_t count, float* to,
           std::int64_t stride) {
  using E = Elements<kType>;
  const auto* data = static_cast<const typename E::Type*>(source.data) + row * source.row_stride;
  std::int64_t r = 0;
  if (source.row_stride == 1 && count > 0) {
    for (; r + 16 <= rows; r += 16) {
      std::int64_t k = 0;
      Sixteen columns[16];
      for (; k + 16 <= count; k += 16) {
        for (int i = 0; i < 16; ++i) columns[i] = E::sixteen(data + r + column(source, first + k + i));
        store_transposed_16(columns, to + r * stride + k, stride);
      }
      for (; k < count; ++k) {
        for (int i = 0; i < 16; ++i) to[(r + i) * stride + k] = E::one(data[r + i + column(source, first + k)]);
      }
    }
  }
  for (; r < rows; ++r) {
    const auto* from = data + r * source.row_stride;
    float* out = to + r * stride;
    std::int64_t k = 0;
    if (source.col_stride == 1 && source.columns == nullptr) {
      for (; k + 16 <= count; k += 16) store(out + k, E::sixteen(from + first + k));
    }
    for (; k < count; ++k) out[k] = E::one(from[column(source, first + k)]);
  }
}

inline void fetch(const Source& source, std::int64_t row, std::int64_t rows, std::int64_t first, std::int64_t count,
                  float* to, std::int64_t stride) {
  switch (source.type) {
    case 0: return fetch<0>(source, row, rows, first, count, to, stride);
    case 1: return fetch<1>(source, row, rows, first, count, to, stride);
    case 2: return fetch<2>(source, row, rows, first, count, to, stride);
    default: return fetch<3>(source, row, rows, first, count, to, stride);
  }
}

inline std::int64_t lower(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t round_up(std::int64_t x, std::int64_t unit) { return (x + unit - 1) / unit * unit; }

// Calls visit(row, first column, count, floats) for pieces that together are the weight; all pieces but a row's last are
// `window` columns wide. Scratch: kRowsTogether * window floats.
template <class Visit>
ONNXQUANT_INLINE void for_pieces(const Source& source, std::int64_t rows, std::int64_t cols, std::int64_t window, float* scratch,
                                 Visit visit) {
  const bool in_place = source.type == 0 && source.col_stride == 1 && source.columns == nullptr;
  const std::int64_t together = rows_together(source);
  if (in_place) window = round_up(cols, 16);
  for (std::int64_t row = 0; row < rows; row += together) {
    const std::int64_t height = lower(together, rows - row);
    for (std::int64_t first = 0; first < cols; first += window) {
      const std::int64_t count = lower(window, cols - first);
      const float* x = scratch;
      if (in_place) {
        x = static_cast<const float*>(source.data) + row * source.row_stride + first;
      } else {
        fetch(source, row, height, first, count, scratch, window);
      }
      for (std::int64_t r = 0; r < height; ++r) visit(row + r, first, count, x + r * window);
    }
  }
}

// The first element that is not finite, in the order of the source; -1 where all are.
inline void find_bad(Source source, std::int64_t rows, std::int64_t cols, float* scratch, std::int64_t* bad_row,
                     std::int64_t* bad_col) {
  *bad_row = *bad_col = -1;
  source.columns = nullptr;
  for_pieces(source, rows, cols, kWindow, scratch, [&](std::int64_t row, std::int64_t first, std::int64_t count, const float* x) {
    if (*bad_row >= 0 && (row > *bad_row || (row == *bad_row && first > *bad_col))) return;
    for (std::int64_t k = 0; k < count; ++k) {
      if (finite(x[k])) continue;
      *bad_row = row;
      *bad_col = first + k;
      return;
    }
  });
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
