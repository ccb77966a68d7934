// Requests of callers of the C ABI. Plain C structs: onnxquant/native/encoders.py declares the same with ctypes.
#pragma once

#include <cstdint>

namespace onnxquant {

// Codes into the order in which kernels read them.
struct PackJob {
  std::int64_t size;    // of this struct, as the caller knows it
  const char* isa;      // "": the best
  const char* layout;   // tiles or rows: see encode/pack.h
  const void* from;     // [rows, cols], one byte per code, unit stride along a row
  std::int64_t rows;    // for tiles a multiple of 16 but for the last rows of a plane
  std::int64_t cols;
  std::int64_t stride;  // bytes from row to row
  std::int64_t padded;  // columns of the plane
  std::int64_t bits;    // of a code: 2, 4, 8, tiles also 3, 5, 6
  std::int64_t pad;     // what fills the plane beyond rows and cols
  void* low;            // the plane, or the low bits of codes of 3, 5 and 6 bits
  void* high;           // their high bits
};

// Errors of an encoded weight, as sums over its elements in float64; those of a whole weight are sums of its parts'.
struct Statistics {
  double error;      // squares of decoded - weight
  double bias;       // decoded - weight
  double reference;  // squares of the weight; not finite when an element is not
  double actual;        // squares of what it decodes to; not finite when a scale overflows
  double worst;      // largest |decoded - weight|
  std::int64_t unequal;
  std::int64_t bad_row, bad_col;  // the first element that is not finite, -1 where there is none
};

// Figures of a part of a weight; those of all parts together are needed before the first row can be encoded.
struct Survey {
  double sum;      // of magnitudes
  float low, high;
  float smallest;  // magnitude that is not zero; infinite where there is none
  std::int64_t bad_row, bad_col;
};

// A float matrix anywhere in memory. Strides are in elements, of either sign.
struct Source {
  const void* data;
  const std::int32_t* columns;  // column j of the encoded weight is this one of the source; null: the same order
  std::int64_t type;            // 0 float32, 1 float16, 2 bfloat16, 3 float64
  std::int64_t row_stride, col_stride;
};

// Some rows of a weight between floats and planes (onnxquant/formats/base.py); planes start at the first of the rows.
struct EncodeJob {
  std::int64_t size;   // of this struct, as the caller knows it
  const char* isa;     // "": the best
  const char* format;
  const char* action;  // encode: source to planes and statistics; measure: statistics; decode: planes to decoded
  Source source;
  std::int64_t rows, cols;
  std::int64_t first_row;  // of these rows in the whole weight
  std::int64_t group;      // weights that share a scale, a multiple of 16; 0: a row
  // Affine formats and i2_s
  const float* shared;      // one grid for the whole weight: its lowest and highest value, i2_s: the scale; else null
  std::int64_t zero_point;  // 0 none, 1 a code, 2 float16
  // Formats whose codes index a table
  const float* table;               // the value of each of the 256 codes
  const float* levels;              // distinct values, ascending
  const std::uint8_t* level_codes;  // the code of each
  const float* bounds;              // to nearest: between neighbours; stochastic: the levels. Then infinity
  const std::uint8_t* starts;       // by the upper 16 bits of a float: how many bounds lie below all such floats
  std::int64_t level_count;
  std::int64_t stochastic;
  std::uint64_t seed;
  // llm_int8
  const std::int32_t* outlier_columns;
  std::int64_t outlier_count;
  // Planes
  void* codes;       // uint8 or, for floats, uint16 [rows, cols]
  void* scales;
  void* seconds;     // zero_points, minima or outliers
  void* subscales;
  void* subminima;
  float* decoded;    // [rows, cols]
  Statistics* statistics;
};

struct SurveyJob {
  std::int64_t size;
  const char* isa;
  Source source;
  std::int64_t rows, cols;
  Survey* survey;
  float* column_peaks;  // [cols] raised to the largest magnitude of each column; may be null
};

}  // namespace onnxquant
