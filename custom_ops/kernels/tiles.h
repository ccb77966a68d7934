// AMX's registers of up to 16 rows of 64 bytes, for a time.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/target.h"
#ifdef ONNXQUANT_EMULATE
#include "tests/amx_emulation.h"
#endif

// GCC 12 does not say that these instructions read memory: what was stored must be there before them.
#define ONNXQUANT_TILE_BARRIER() __asm__ volatile("" ::: "memory")

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// As the instruction reads them, from a multiple of 64.
struct TileShapes {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64, "as the instruction reads it");

// The registers with these shapes, while it lives. They belong to the thread: shapes are set before each use, since others may have
// set them, and released afterwards, which also spares the system their saving.
class Tiles {
 public:
  explicit Tiles(const TileShapes& shapes) {
    ONNXQUANT_TILE_BARRIER();
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
