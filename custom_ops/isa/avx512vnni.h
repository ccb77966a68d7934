// AVX-512 F, BW, VL and VNNI: a whole tile (16 channels) per vector, four products and their sum per instruction.
// Included inside the instruction set's namespace; see kernels/matmul.inc.h for what the names mean.

constexpr int kLanes = 16;
constexpr int kRowsAtOnce = 4, kFloatRowsAtOnce = 8;
constexpr int vectors_at_once(int rows, int) { return rows > 1 ? 2 : 1; }

using Floats = __m512;
using Ints = __m512i;
using Codes = __m512i;

inline Floats splat(float value) { return _mm512_set1_ps(value); }
inline Ints splat_int(std::int32_t value) { return _mm512_set1_epi32(value); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Floats negate(Floats a) { return _mm512_xor_ps(a, splat(-0.0f)); }
inline Ints add_int(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
template <int kBits>
inline Ints shift_left(Ints a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
inline Ints shift_right(Ints a) {
  return _mm512_srai_epi32(a, kBits);
}
inline void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
inline Floats to_float(Ints values) { return _mm512_cvtepi32_ps(values); }
inline Floats load_half(const std::uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void store_half(std::uint16_t* to, Floats values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load_bfloat(const std::uint16_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Floats load_bytes(const std::uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline Floats load_signed_bytes(const std::uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
// The value times a weight of -1, 0 or 1.
inline Floats with_sign(Floats value, Floats weight) {
  const __mmask16 used = _mm512_test_epi32_mask(_mm512_castps_si512(weight), _mm512_castps_si512(weight));
  return _mm512_maskz_xor_ps(used, value, _mm512_and_ps(weight, splat(-0.0f)));
}

inline Codes load_codes(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
// Loaded once: the compiler would rather load again for every use, and loads are what a single row waits for.
inline Codes in_register(Codes codes) {
#if !defined(_MSC_VER)
  asm("" : "+v"(codes));
#endif
  return codes;
}

template <int kBits, int kField>
inline Codes field(Codes codes) {
  if constexpr (kBits == 8) return codes;
  return _mm512_and_si512(_mm512_srli_epi16(codes, kBits * kField), _mm512_set1_epi8(static_cast<char>((1 << kBits) - 1)));
}

// The same field left where it is.
template <int kBits, int kField>
inline Codes masked(Codes codes) {
  constexpr int kMask = ((1 << kBits) - 1) << (kBits * kField);
  return _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(kMask)));
}

// Low bits of each code with the high ones from bit kShift on of the same byte of `high`.
template <int kHigh, int kShift, int kLow>
inline Codes merge(Codes low, Codes high) {
  constexpr int kMask = ((1 << kHigh) - 1) << kLow;
  const Codes moved =
      kShift >= kLow ? _mm512_srli_epi16(high, kShift >= kLow ? kShift - kLow : 0)
                     : _mm512_slli_epi16(high, kLow > kShift ? kLow - kShift : 0);
  return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(static_cast<char>(kMask))));
}

// kBits bits of each lane from bit `shift` on.
template <int kBits>
inline Ints bits_of(Codes codes, int shift) {
  return _mm512_and_si512(_mm512_srl_epi32(codes, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32((1 << kBits) - 1));
}

using Lookup = __m512i;
inline Lookup make_lookup(const std::uint8_t (&bytes)[16]) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline Codes lookup(Lookup bytes, Codes codes) { return _mm512_shuffle_epi8(bytes, codes); }

template <int kBits>
inline Floats table_floats(const float* table, Ints index) {
  if constexpr (kBits == 4) return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
  return _mm512_i32gather_ps(index, table, 4);
}

template <int kBits>
struct Dot {
  using Partial = __m512i;
  static constexpr bool kExact = true;
  static constexpr int kOffset = 0, kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    std::int32_t four;
    std::memcpy(&four, x + 4 * kGroup, sizeof four);
    partial = _mm512_dpbusd_epi32(partial, codes, _mm512_set1_epi32(four));
  }
  static Ints end(Ints, Partial partial) { return partial; }
};

struct LargestMagnitude {
  __m512i bits = _mm512_setzero_si512();
  void add(const float* x) {
    const __m512i values = _mm512_loadu_si512(x);
    bits = _mm512_max_epi32(bits, _mm512_and_si512(values, _mm512_set1_epi32(0x7fffffff)));
  }
  std::int32_t reduce() const { return _mm512_reduce_max_epi32(bits); }
};

template <int kBits>
struct Rounder {
  __m512 inverse;
  __m512i sum = _mm512_setzero_si512();
  __m128i order;
  explicit Rounder(float inverse_scale) : inverse(splat(inverse_scale)) {
    alignas(16) std::int8_t source[16];
    for (int k = 0; k < 16; ++k) source[field_order<kBits>(k)] = static_cast<std::int8_t>(k);
    order = _mm_load_si128(reinterpret_cast<const __m128i*>(source));
  }
  void put(const float* x, std::int8_t* out) {
    const __m512i codes = _mm512_cvtps_epi32(multiply(load(x), inverse));
    sum = _mm512_add_epi32(sum, codes);
    const __m128i bytes = _mm512_cvtsepi32_epi8(codes);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(bytes, order));
  }
  std::int32_t reduce() const { return _mm512_reduce_add_epi32(sum); }
};
