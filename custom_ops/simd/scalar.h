// Plain C++ for every CPU: vectors as arrays, which compilers turn into whatever the baseline offers. It is also where each name
// is explained: simd/avx2.h, avx512.h and neon.h define the same names, and they mean the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/half.h"
#include "kernels/inline.h"
#include "simd/numbers.h"
#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Floats of a vector. Doubles has half as many lanes, Codes four bytes for each.
constexpr int kLanes = 16;
// Shifts of bytes leave no bits of a neighbour behind.
constexpr bool kShiftsBytes = true;

struct Floats {
  float at[kLanes];
};
struct Ints {
  std::int32_t at[kLanes];
};
struct Mask {
  bool at[kLanes];
};
struct Doubles {
  double at[kLanes / 2];
};
struct Codes {
  std::uint8_t at[4 * kLanes];
};

#define ONNXQUANT_MAP(result, name, arguments, expression)            \
  inline result name arguments {                                      \
    result out;                                                       \
    for (int i = 0; i < kLanes; ++i) out.at[i] = expression;          \
    return out;                                                       \
  }
#define ONNXQUANT_MAP_DOUBLES(name, arguments, expression)            \
  inline Doubles name arguments {                                     \
    Doubles out;                                                      \
    for (int i = 0; i < kLanes / 2; ++i) out.at[i] = expression;      \
    return out;                                                       \
  }
#define ONNXQUANT_MAP_CODES(name, arguments, expression)              \
  inline Codes name arguments {                                       \
    Codes out;                                                        \
    for (int i = 0; i < 4 * kLanes; ++i) out.at[i] = static_cast<std::uint8_t>(expression); \
    return out;                                                       \
  }

// ---- floats ----

ONNXQUANT_MAP(Floats, splat, (float x), x)
ONNXQUANT_MAP(Floats, add, (const Floats& a, const Floats& b), a.at[i] + b.at[i])
ONNXQUANT_MAP(Floats, subtract, (const Floats& a, const Floats& b), a.at[i] - b.at[i])
ONNXQUANT_MAP(Floats, multiply, (const Floats& a, const Floats& b), a.at[i] * b.at[i])
ONNXQUANT_MAP(Floats, divide, (const Floats& a, const Floats& b), a.at[i] / b.at[i])
ONNXQUANT_MAP(Floats, negate, (const Floats& a), -a.at[i])
// a * b + sum, the product rounded or not: only where either will do.
ONNXQUANT_MAP(Floats, multiply_add, (const Floats& a, const Floats& b, const Floats& sum), sum.at[i] + a.at[i] * b.at[i])
// The second one where they are equal or not comparable, as x86 does it and numpy for equal ones.
ONNXQUANT_MAP(Floats, smaller, (const Floats& a, const Floats& b), a.at[i] < b.at[i] ? a.at[i] : b.at[i])
ONNXQUANT_MAP(Floats, larger, (const Floats& a, const Floats& b), a.at[i] > b.at[i] ? a.at[i] : b.at[i])
ONNXQUANT_MAP(Floats, magnitude, (const Floats& x), absolute(x.at[i]))
// To the nearest integer, halves to even.
ONNXQUANT_MAP(Floats, round_even, (const Floats& x), rounded(x.at[i]))
// A size, which is not negative, with the signs of x.
ONNXQUANT_MAP(Floats, copy_sign, (float size, const Floats& x), copy_sign(size, x.at[i]))
// The value times a weight of -1, 0 or 1.
ONNXQUANT_MAP(Floats, times_sign, (const Floats& value, const Floats& weight),
              weight.at[i] == 0.0f ? 0.0f : weight.at[i] < 0.0f ? -value.at[i] : value.at[i])

ONNXQUANT_MAP(Mask, equal, (const Floats& a, const Floats& b), a.at[i] == b.at[i])
ONNXQUANT_MAP(Mask, unequal, (const Floats& a, const Floats& b), !(a.at[i] == b.at[i]))
ONNXQUANT_MAP(Mask, above, (const Floats& a, const Floats& b), a.at[i] > b.at[i])
ONNXQUANT_MAP(Floats, select, (const Mask& mask, const Floats& yes, const Floats& no), mask.at[i] ? yes.at[i] : no.at[i])
// Bit i is that of lane i.
inline unsigned mask_bits(const Mask& mask) {
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(mask.at[i]) << i;
  return bits;
}

// ---- integers ----

ONNXQUANT_MAP(Ints, splat_int, (std::int32_t x), x)
ONNXQUANT_MAP(Ints, add_int, (const Ints& a, const Ints& b), a.at[i] + b.at[i])
template <int kBits>
ONNXQUANT_MAP(Ints, shift_left, (const Ints& a), a.at[i] * (1 << kBits))
template <int kBits>
ONNXQUANT_MAP(Ints, shift_right, (const Ints& a), a.at[i] >> kBits)
ONNXQUANT_MAP(Floats, to_float, (const Ints& x), static_cast<float>(x.at[i]))
// The integer part, of what an int holds; of all else something that store_bytes takes.
ONNXQUANT_MAP(Ints, truncate, (const Floats& x), absolute(x.at[i]) < 0x1p31f ? static_cast<std::int32_t>(x.at[i]) : 0)

// ---- memory ----

ONNXQUANT_MAP(Floats, load, (const float* from), from[i])
ONNXQUANT_MAP(Floats, load_half, (const std::uint16_t* from), half_to_float(from[i]))
ONNXQUANT_MAP(Floats, load_bfloat, (const std::uint16_t* from), bfloat_to_float(from[i]))
ONNXQUANT_MAP(Floats, load_double, (const double* from), static_cast<float>(from[i]))
ONNXQUANT_MAP(Floats, load_bytes, (const std::uint8_t* from), static_cast<float>(from[i]))
ONNXQUANT_MAP(Floats, load_signed_bytes, (const std::uint8_t* from), static_cast<float>(static_cast<std::int8_t>(from[i])))
inline void store(float* to, const Floats& x) { std::memcpy(to, x.at, sizeof x.at); }
inline void store(double* to, const Doubles& x) { std::memcpy(to, x.at, sizeof x.at); }
inline void store_half(std::uint16_t* to, const Floats& x) {
  for (int i = 0; i < kLanes; ++i) to[i] = float_to_half(x.at[i]);
}
// The lowest byte of each of 16 ints.
inline void store_bytes(std::uint8_t* to, const Ints& x) {
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<std::uint8_t>(x.at[i]);
}
inline float from_half(std::uint16_t half) { return half_to_float(half); }
inline std::uint16_t to_half(float x) { return float_to_half(x); }

// ---- doubles ----

ONNXQUANT_MAP_DOUBLES(splat_double, (double x), x)
ONNXQUANT_MAP_DOUBLES(add, (const Doubles& a, const Doubles& b), a.at[i] + b.at[i])
ONNXQUANT_MAP_DOUBLES(subtract, (const Doubles& a, const Doubles& b), a.at[i] - b.at[i])
ONNXQUANT_MAP_DOUBLES(multiply, (const Doubles& a, const Doubles& b), a.at[i] * b.at[i])
ONNXQUANT_MAP_DOUBLES(larger, (const Doubles& a, const Doubles& b), a.at[i] > b.at[i] ? a.at[i] : b.at[i])
// x * x + sum, where x was a float: the square is exact, fused or not.
ONNXQUANT_MAP_DOUBLES(add_square, (const Doubles& x, const Doubles& sum), sum.at[i] + x.at[i] * x.at[i])
ONNXQUANT_MAP_DOUBLES(lower_doubles, (const Floats& x), static_cast<double>(x.at[i]))
ONNXQUANT_MAP_DOUBLES(upper_doubles, (const Floats& x), static_cast<double>(x.at[kLanes / 2 + i]))

// ---- across lanes ----

// In halves: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
inline float sum(Floats x) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.at[i] += x.at[i + half];
  }
  return x.at[0];
}
inline float smallest(const Floats& x) {
  float out = x.at[0];
  for (int i = 1; i < kLanes; ++i) out = x.at[i] < out ? x.at[i] : out;
  return out;
}
inline float largest(const Floats& x) {
  float out = x.at[0];
  for (int i = 1; i < kLanes; ++i) out = x.at[i] > out ? x.at[i] : out;
  return out;
}
// Lane i: the smallest or largest of all lanes of x[i]; x[kLanes].
inline Floats smallest_of_each(const Floats* x) {
  Floats out;
  for (int i = 0; i < kLanes; ++i) out.at[i] = smallest(x[i]);
  return out;
}
inline Floats largest_of_each(const Floats* x) {
  Floats out;
  for (int i = 0; i < kLanes; ++i) out.at[i] = largest(x[i]);
  return out;
}
// x[kLanes] becomes its transpose, row i at to + i * stride.
inline void store_transposed(const Floats* x, float* to, std::int64_t stride) {
  for (int row = 0; row < kLanes; ++row) {
    for (int i = 0; i < kLanes; ++i) to[row * stride + i] = x[i].at[row];
  }
}

// ---- packed codes ----

inline Codes load_codes(const std::uint8_t* from) {
  Codes out;
  std::memcpy(out.at, from, sizeof out.at);
  return out;
}
// Loaded once: compilers would rather load again for every use, and loads are what a single row waits for.
inline Codes in_register(Codes codes) { return codes; }
ONNXQUANT_MAP_CODES(splat_byte, (int byte), byte)
ONNXQUANT_MAP_CODES(and_bytes, (const Codes& a, const Codes& b), a.at[i] & b.at[i])
ONNXQUANT_MAP_CODES(or_bytes, (const Codes& a, const Codes& b), a.at[i] | b.at[i])
template <int kBits>
ONNXQUANT_MAP_CODES(shift_bytes_left, (const Codes& a), a.at[i] << kBits)
template <int kBits>
ONNXQUANT_MAP_CODES(shift_bytes_right, (const Codes& a), a.at[i] >> kBits)
// kBits bits of each lane from bit `shift` on, all in one byte.
template <int kBits>
ONNXQUANT_MAP(Ints, code_bits, (const Codes& codes, int shift), codes.at[4 * i + shift / 8] >> shift % 8 & ((1 << kBits) - 1))

// 16 bytes that codes choose from.
struct Lookup {
  std::uint8_t at[16];
};
inline Lookup make_lookup(const std::uint8_t (&bytes)[16]) {
  Lookup out;
  std::memcpy(out.at, bytes, sizeof out.at);
  return out;
}
ONNXQUANT_MAP_CODES(lookup, (const Lookup& bytes, const Codes& codes), bytes.at[codes.at[i] & 15])
// Entries of a table of 2^kBits floats.
template <int kBits>
ONNXQUANT_MAP(Floats, table_floats, (const float* table, const Ints& index), table[index.at[i]])

#undef ONNXQUANT_MAP
#undef ONNXQUANT_MAP_DOUBLES
#undef ONNXQUANT_MAP_CODES

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
