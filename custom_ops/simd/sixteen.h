// Sixteen floats in as many vectors as it takes: encoders work on them, so that what they add up is added in the same order
// everywhere. simd/scalar.h says what each name means of one vector; here it means the same of sixteen lanes.
#pragma once

#include <cstdint>

#include "simd/pair.h"
#include "simd/target.h"
#include ONNXQUANT_SIMD_HEADER

namespace onnxquant::ONNXQUANT_ISA {
namespace {

template <int kCount, class Vector>
struct Several {
  using Half = typename Several<kCount / 2, Vector>::Type;
  using Type = Pair<Half>;
};
template <class Vector>
struct Several<1, Vector> {
  using Type = Vector;
};
constexpr int kVectorsOfSixteen = 16 / kLanes;
using Sixteen = Several<kVectorsOfSixteen, Floats>::Type;
using SixteenInts = Several<kVectorsOfSixteen, Ints>::Type;
using SixteenMask = Several<kVectorsOfSixteen, Mask>::Type;

// ---- one vector after the other ----

#define ONNXQUANT_BINARY(name)                               \
  template <class V>                                         \
  ONNXQUANT_INLINE auto name(Pair<V> x, Pair<V> y) {         \
    return Pair<decltype(name(x.a, y.a))>{name(x.a, y.a), name(x.b, y.b)}; \
  }
#define ONNXQUANT_UNARY(name)                  \
  template <class V>                           \
  ONNXQUANT_INLINE auto name(Pair<V> x) {      \
    return Pair<decltype(name(x.a))>{name(x.a), name(x.b)}; \
  }
ONNXQUANT_BINARY(add)
ONNXQUANT_BINARY(subtract)
ONNXQUANT_BINARY(multiply)
ONNXQUANT_BINARY(divide)
ONNXQUANT_BINARY(smaller)
ONNXQUANT_BINARY(larger)
ONNXQUANT_BINARY(equal)
ONNXQUANT_BINARY(unequal)
ONNXQUANT_BINARY(above)
ONNXQUANT_BINARY(add_int)
ONNXQUANT_UNARY(magnitude)
ONNXQUANT_UNARY(round_even)
ONNXQUANT_UNARY(truncate)
#undef ONNXQUANT_BINARY
#undef ONNXQUANT_UNARY

template <class V>
ONNXQUANT_INLINE Pair<V> copy_sign(float size, Pair<V> x) {
  return {copy_sign(size, x.a), copy_sign(size, x.b)};
}
template <class M, class V>
ONNXQUANT_INLINE Pair<V> select(Pair<M> mask, Pair<V> yes, Pair<V> no) {
  return {select(mask.a, yes.a, no.a), select(mask.b, yes.b, no.b)};
}

// Lanes of a vector or a pair of them.
constexpr int lanes_of(const Floats*) { return kLanes; }
constexpr int lanes_of(const Mask*) { return kLanes; }
template <class V>
constexpr int lanes_of(const Pair<V>*) {
  return 2 * lanes_of(static_cast<const V*>(nullptr));
}

template <class M>
ONNXQUANT_INLINE unsigned mask_bits(Pair<M> mask) {
  return mask_bits(mask.a) | mask_bits(mask.b) << lanes_of(&mask.a);
}

template <class V>
ONNXQUANT_INLINE void store(float* to, Pair<V> x) {
  store(to, x.a);
  store(to + lanes_of(&x.a), x.b);
}
template <class V>
ONNXQUANT_INLINE void store_half(std::uint16_t* to, Pair<V> x) {
  store_half(to, x.a);
  store_half(to + lanes_of(&x.a), x.b);
}

// ---- from memory ----

#define ONNXQUANT_LOAD(name, Element)                                              \
  ONNXQUANT_INLINE void name##_into(Floats& x, const Element* from) { x = name(from); } \
  template <class V>                                                               \
  ONNXQUANT_INLINE void name##_into(Pair<V>& x, const Element* from) {             \
    name##_into(x.a, from);                                                        \
    name##_into(x.b, from + lanes_of(&x.a));                                       \
  }                                                                                \
  ONNXQUANT_INLINE Sixteen name##_16(const Element* from) {                        \
    Sixteen x;                                                                     \
    name##_into(x, from);                                                          \
    return x;                                                                      \
  }
ONNXQUANT_LOAD(load, float)
ONNXQUANT_LOAD(load_half, std::uint16_t)
ONNXQUANT_LOAD(load_bfloat, std::uint16_t)
ONNXQUANT_LOAD(load_double, double)
ONNXQUANT_LOAD(load_bytes, std::uint8_t)
#undef ONNXQUANT_LOAD

ONNXQUANT_INLINE void splat_into(Floats& x, float value) { x = splat(value); }
ONNXQUANT_INLINE void splat_into(Ints& x, std::int32_t value) { x = splat_int(value); }
template <class V, class Value>
ONNXQUANT_INLINE void splat_into(Pair<V>& x, Value value) {
  splat_into(x.a, value);
  splat_into(x.b, value);
}
ONNXQUANT_INLINE Sixteen splat_16(float value) {
  Sixteen x;
  splat_into(x, value);
  return x;
}

// ---- across lanes ----

template <class V>
ONNXQUANT_INLINE float sum(Pair<V> x) {
  return sum(add(x.a, x.b));
}
template <class V>
ONNXQUANT_INLINE float smallest(Pair<V> x) {
  return smallest(smaller(x.a, x.b));
}
template <class V>
ONNXQUANT_INLINE float largest(Pair<V> x) {
  return largest(larger(x.a, x.b));
}

// Vector kPart of sixteen lanes.
template <int kPart>
ONNXQUANT_INLINE Floats part(Floats x) {
  return x;
}
template <int kPart, class V>
ONNXQUANT_INLINE Floats part(Pair<V> x) {
  constexpr int kHalf = lanes_of(static_cast<const V*>(nullptr)) / kLanes;
  if constexpr (kPart < kHalf) return part<kPart>(x.a);
  else return part<kPart - kHalf>(x.b);
}

ONNXQUANT_INLINE Floats smallest_lanes(Floats x) { return x; }
ONNXQUANT_INLINE Floats largest_lanes(Floats x) { return x; }
template <class V>
ONNXQUANT_INLINE Floats smallest_lanes(Pair<V> x) {
  return smallest_lanes(smaller(x.a, x.b));
}
template <class V>
ONNXQUANT_INLINE Floats largest_lanes(Pair<V> x) {
  return largest_lanes(larger(x.a, x.b));
}

// to[i]: the smallest or largest of x[i]; x[16].
ONNXQUANT_INLINE void store_smallest_of_each(const Sixteen* x, float* to) {
  for (int i = 0; i < 16; i += kLanes) {
    Floats lanes[kLanes];
    for (int j = 0; j < kLanes; ++j) lanes[j] = smallest_lanes(x[i + j]);
    store(to + i, smallest_of_each(lanes));
  }
}
ONNXQUANT_INLINE void store_largest_of_each(const Sixteen* x, float* to) {
  for (int i = 0; i < 16; i += kLanes) {
    Floats lanes[kLanes];
    for (int j = 0; j < kLanes; ++j) lanes[j] = largest_lanes(x[i + j]);
    store(to + i, largest_of_each(lanes));
  }
}

// x[16] becomes its transpose, row i at to + i * stride.
template <int kPart = 0>
ONNXQUANT_INLINE void store_transposed_16(const Sixteen* x, float* to, std::int64_t stride) {
  for (int i = 0; i < 16; i += kLanes) {
    Floats block[kLanes];
    for (int j = 0; j < kLanes; ++j) block[j] = part<kPart>(x[i + j]);
    store_transposed(block, to + kPart * kLanes * stride + i, stride);
  }
  if constexpr (kPart + 1 < kVectorsOfSixteen) store_transposed_16<kPart + 1>(x, to, stride);
}

// ---- to bytes ----

// The integer part as a byte.
ONNXQUANT_INLINE void store_codes(std::uint8_t* to, Sixteen x) { store_bytes(to, truncate(x)); }

// The integer part plus an offset as a byte.
ONNXQUANT_INLINE void store_signed(std::uint8_t* to, Sixteen x, int offset) {
  SixteenInts offsets;
  splat_into(offsets, offset);
  store_bytes(to, add_int(truncate(x), offsets));
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
