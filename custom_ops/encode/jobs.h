// What a caller of the C ABI asks for. Plain C structs: onnxquant/encoder.py declares the same with ctypes.
#pragma once

#include <cstdint>

namespace onnxquant {

// Codes, or other numbers, into the order in which kernels read them.
struct PackJob {
  std::int64_t size;    // of this struct, as the caller knows it
  const char* isa;      // "": the best
  const char* layout;   // tiles, rows or lanes: see pack.inc.h
  const void* from;     // [rows, cols], one element per code, unit stride along a row
  std::int64_t rows;    // for tiles and lanes a multiple of 16 but for the last rows of a plane
  std::int64_t cols;
  std::int64_t stride;  // bytes from row to row
  std::int64_t padded;  // columns of the plane
  std::int64_t bits;    // of a code: 2, 4, 8, tiles also 3, 5, 6; lanes: of an element, 8, 16 or 32
  std::int64_t pad;     // what fills the plane beyond rows and cols
  void* low;            // the plane, or the low bits of codes of 3, 5 and 6 bits
  void* high;           // their high bits
};

}  // namespace onnxquant
