// AMX in software, as Intel's manual defines it (Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TDPBSUD,
// TDPBUSD, TDPBF16PS ...), for CPUs with AVX-512 VNNI. What would fault ends the process; so does a configuration that is loaded
// while another one is, or that is left loaded: that is legal, but our kernels must not do it.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace onnxquant {
namespace {
namespace amx_emulation {

inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "AMX emulation: %s\n", what);
  std::abort();
}

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Tile {
  int rows, row_bytes;
  alignas(64) std::uint8_t data[kRows][kRowBytes];
};

struct State {
  bool configured;
  Tile tiles[kTiles];
  ~State() { expect(!configured, "a thread ends with tiles configured"); }
};

inline State& state() {
  thread_local State tiles{};
  return tiles;
}

inline Tile& tile(int index) {
  State& all = state();
  expect(index >= 0 && index < kTiles, "no such tile");
  expect(all.configured, "tiles are used before they are configured");
  expect(all.tiles[index].rows > 0, "a tile without a shape is used");
  return all.tiles[index];
}

// LDTILECFG. It also clears all tiles.
inline void load_config(const void* memory) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, memory, sizeof bytes);
  State& all = state();
  expect(!all.configured, "tiles are configured twice");
  expect(bytes[0] == 1 && bytes[1] == 0, "palette or start row");
  for (int i = 2; i < 16; ++i) expect(bytes[i] == 0, "reserved bytes are set");
  for (int i = 0; i < 16; ++i) {
    const int row_bytes = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
    expect(row_bytes <= kRowBytes && rows <= kRows && (row_bytes == 0) == (rows == 0), "a shape that does not exist");
    expect(i < kTiles || rows == 0, "a tile that does not exist has a shape");
    if (i < kTiles) all.tiles[i] = Tile{rows, row_bytes, {}};
  }
  all.configured = true;
}

inline void release() { state() = State{}; }

inline void zero(int index) { std::memset(tile(index).data, 0, sizeof(Tile::data)); }

inline void load(int index, const void* base, std::int64_t stride) {
  Tile& to = tile(index);
  zero(index);
  for (int r = 0; r < to.rows; ++r) {
    std::memcpy(to.data[r], static_cast<const char*>(base) + r * stride, static_cast<std::size_t>(to.row_bytes));
  }
}

inline void store(int index, void* base, std::int64_t stride) {
  const Tile& from = tile(index);
  for (int r = 0; r < from.rows; ++r) {
    std::memcpy(static_cast<char*>(base) + r * stride, from.data[r], static_cast<std::size_t>(from.row_bytes));
  }
}

inline void expect_shapes(const Tile& sums, const Tile& a, const Tile& b) {
  expect(&sums != &a && &sums != &b && &a != &b, "the same tile twice");
  expect(a.rows == sums.rows && b.row_bytes == sums.row_bytes && a.row_bytes == 4 * b.rows, "shapes do not fit");
}

inline std::uint32_t dword(const Tile& from, int row, int index) {
  std::uint32_t value;
  std::memcpy(&value, from.data[row] + 4 * index, sizeof value);
  return value;
}

// TDPBSUD and TDPBUSD: signed bytes of one side, unsigned ones of the other.
template <bool kSignedRows>
inline void dot_codes(int to, int left, int right) {
  Tile& sums = tile(to);
  const Tile &a = tile(left), &b = tile(right);
  expect_shapes(sums, a, b);
  for (int m = 0; m < sums.rows; ++m) {
    __m512i sum = _mm512_load_si512(sums.data[m]);
    for (int k = 0; k < a.row_bytes / 4; ++k) {
      // The same product of fours as VPDPBUSD, which does not saturate either.
      const __m512i four = _mm512_set1_epi32(static_cast<int>(dword(a, m, k))), column = _mm512_load_si512(b.data[k]);
      sum = kSignedRows ? _mm512_dpbusd_epi32(sum, column, four) : _mm512_dpbusd_epi32(sum, four, column);
    }
    _mm512_store_si512(sums.data[m], sum);
  }
}

// TDPBF16PS: fused products of the even and of the odd elements, summed apart from zero on, then added to the tile.
// Subnormals are zero, rounding is to nearest even, whatever the caller's mode.
inline void dot_bfloats(int to, int left, int right) {
  Tile& sums = tile(to);
  const Tile &a = tile(left), &b = tile(right);
  expect_shapes(sums, a, b);
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(0x1f80 | 0x8000 | 0x0040);
  const auto as_float = [](__m512i bits) { return _mm512_castsi512_ps(bits); };
  const auto even = [&](__m512i pairs) { return as_float(_mm512_slli_epi32(pairs, 16)); };
  const auto odd = [&](__m512i pairs) { return as_float(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536))); };
  for (int m = 0; m < sums.rows; ++m) {
    __m512 evens = _mm512_setzero_ps(), odds = _mm512_setzero_ps();
    for (int k = 0; k < a.row_bytes / 4; ++k) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(dword(a, m, k))), y = _mm512_load_si512(b.data[k]);
      evens = _mm512_fmadd_ps(even(x), even(y), evens);
      odds = _mm512_fmadd_ps(odd(x), odd(y), odds);
    }
    const __m512 both = _mm512_add_ps(evens, odds);
    _mm512_store_ps(sums.data[m], _mm512_add_ps(_mm512_load_ps(sums.data[m]), both));
  }
  _mm_setcsr(mode);
}

}  // namespace amx_emulation
}  // namespace
}  // namespace onnxquant

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig ::onnxquant::amx_emulation::load_config
#define _tile_release ::onnxquant::amx_emulation::release
#define _tile_zero ::onnxquant::amx_emulation::zero
#define _tile_loadd ::onnxquant::amx_emulation::load
#define _tile_stored ::onnxquant::amx_emulation::store
#define _tile_dpbsud ::onnxquant::amx_emulation::dot_codes<true>
#define _tile_dpbusd ::onnxquant::amx_emulation::dot_codes<false>
#define _tile_dpbf16ps ::onnxquant::amx_emulation::dot_bfloats
