// AVX2, FMA and F16C: half a tile (8 channels) per vector.
// Included inside the instruction set's namespace; see kernels/matmul.inc.h for what the names mean.

constexpr int kLanes = 8;
constexpr int kRowsAtOnce = 4, kFloatRowsAtOnce = 4;
// Two vectors share the broadcast activations, unless their sums would not fit.
#ifdef ONNXQUANT_VNNI_256
constexpr int vectors_at_once(int, int) { return 2; }
#else
constexpr int vectors_at_once(int rows, int bits) { return rows > 1 && (bits == kTable || bits == 6) ? 1 : 2; }
#endif

using Floats = __m256;
using Ints = __m256i;
using Codes = __m256i;

inline Floats splat(float value) { return _mm256_set1_ps(value); }
inline Ints splat_int(std::int32_t value) { return _mm256_set1_epi32(value); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline Floats negate(Floats a) { return _mm256_xor_ps(a, splat(-0.0f)); }
inline Ints add_int(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
template <int kBits>
inline Ints shift_left(Ints a) {
  return _mm256_slli_epi32(a, kBits);
}
template <int kBits>
inline Ints shift_right(Ints a) {
  return _mm256_srai_epi32(a, kBits);
}
inline void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
inline Floats to_float(Ints values) { return _mm256_cvtepi32_ps(values); }
inline Floats load_half(const std::uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline void store_half(std::uint16_t* to, Floats values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load_bfloat(const std::uint16_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Floats load_bytes(const std::uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline Floats load_signed_bytes(const std::uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
// The value times a weight of -1, 0 or 1.
inline Floats with_sign(Floats value, Floats weight) {
  const Floats used = _mm256_cmp_ps(weight, _mm256_setzero_ps(), _CMP_NEQ_OQ);
  return _mm256_and_ps(used, _mm256_xor_ps(value, _mm256_and_ps(weight, splat(-0.0f))));
}

inline Codes load_codes(const std::uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
// Loaded once: the compiler would rather load again for every use, and loads are what a single row waits for.
inline Codes in_register(Codes codes) {
#if !defined(_MSC_VER)
  asm("" : "+x"(codes));
#endif
  return codes;
}

template <int kBits, int kField>
inline Codes field(Codes codes) {
  if constexpr (kBits == 8) return codes;
  return _mm256_and_si256(_mm256_srli_epi16(codes, kBits * kField), _mm256_set1_epi8(static_cast<char>((1 << kBits) - 1)));
}

// The same field left where it is.
template <int kBits, int kField>
inline Codes masked(Codes codes) {
  constexpr int kMask = ((1 << kBits) - 1) << (kBits * kField);
  return _mm256_and_si256(codes, _mm256_set1_epi8(static_cast<char>(kMask)));
}

// Low bits of each code with the high ones from bit kShift on of the same byte of `high`.
template <int kHigh, int kShift, int kLow>
inline Codes merge(Codes low, Codes high) {
  constexpr int kMask = ((1 << kHigh) - 1) << kLow;
  const Codes moved =
      kShift >= kLow ? _mm256_srli_epi16(high, kShift >= kLow ? kShift - kLow : 0)
                     : _mm256_slli_epi16(high, kLow > kShift ? kLow - kShift : 0);
  return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(static_cast<char>(kMask))));
}

// kBits bits of each lane from bit `shift` on.
template <int kBits>
inline Ints bits_of(Codes codes, int shift) {
  return _mm256_and_si256(_mm256_srl_epi32(codes, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32((1 << kBits) - 1));
}

using Lookup = __m256i;
inline Lookup make_lookup(const std::uint8_t (&bytes)[16]) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline Codes lookup(Lookup bytes, Codes codes) { return _mm256_shuffle_epi8(bytes, codes); }

template <int>
inline Floats table_floats(const float* table, Ints index) {
  return _mm256_i32gather_ps(table, index, 4);
}

inline Ints splat_4(const std::int8_t* x) {
  std::int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}

#ifdef ONNXQUANT_VNNI_256
// Four products and their sum per instruction, for codes of any width.
template <int kBits>
struct Dot {
  using Partial = __m256i;
  static constexpr bool kExact = true;
  static constexpr int kOffset = 0, kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    partial = ONNXQUANT_VNNI_256(partial, codes, splat_4(x + 4 * kGroup));
  }
  static Ints end(Ints, Partial partial) { return partial; }
};
#else
// Compilers put such additions off until they have run out of registers for what is to be added.
ONNXQUANT_INLINE void add_now(__m256i& sum) {
#if !defined(_MSC_VER)
  __asm__("" : "+x"(sum));
#else
  (void)sum;
#endif
}

// Pairs of products in 16 bits: at most 2 * (2^bits - 1) * 127 each, of which kGroups fit.
template <int kBits>
struct Dot {
  using Partial = __m256i;
  static constexpr bool kExact = false;
  static constexpr int kOffset = 0, kGroups = kBits <= 4 ? 8 : kBits == 5 ? 4 : kBits == 6 ? 2 : 1;
  static_assert(kGroups * 2 * ((1 << kBits) - 1) * 127 <= 32767);
  static Partial begin(Ints) { return _mm256_setzero_si256(); }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    partial = _mm256_add_epi16(partial, _mm256_maddubs_epi16(codes, splat_4(x + 4 * kGroup)));
    add_now(partial);
  }
  static Ints end(Ints sum, Partial partial) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(partial, _mm256_set1_epi16(1)));
  }
};

// 8-bit codes would saturate 16 bits (2 * 255 * 127). Their magnitude after the offset does not (2 * 128 * 127); the
// sign goes to the activation.
template <>
struct Dot<8> {
  using Partial = __m256i;
  static constexpr bool kExact = false;
  static constexpr int kOffset = 128, kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    const __m256i weights = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const __m256i signed_x = _mm256_sign_epi8(splat_4(x + 4 * kGroup), weights);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed_x);
    partial = _mm256_add_epi32(partial, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    add_now(partial);
  }
  static Ints end(Ints, Partial partial) { return partial; }
};
#endif

inline std::int32_t lane_sum(__m256i values) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

struct LargestMagnitude {
  __m256i bits = _mm256_setzero_si256();
  void add(const float* x) {
    for (int half = 0; half < 16; half += 8) {
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + half));
      bits = _mm256_max_epi32(bits, _mm256_and_si256(values, _mm256_set1_epi32(0x7fffffff)));
    }
  }
  std::int32_t reduce() const {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
};

template <int kBits>
struct Rounder {
  __m256 inverse;
  __m256i sum = _mm256_setzero_si256();
  __m128i order;
  explicit Rounder(float inverse_scale) : inverse(splat(inverse_scale)) {
    alignas(16) std::int8_t source[16];
    for (int k = 0; k < 16; ++k) source[field_order<kBits>(k)] = static_cast<std::int8_t>(k);
    order = _mm_load_si128(reinterpret_cast<const __m128i*>(source));
  }
  void put(const float* x, std::int8_t* out) {
    const __m256i low = _mm256_cvtps_epi32(multiply(load(x), inverse));
    const __m256i high = _mm256_cvtps_epi32(multiply(load(x + 8), inverse));
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
    const __m128i words_low = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    const __m128i words_high = _mm_packs_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    const __m128i bytes = _mm_packs_epi16(words_low, words_high);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(bytes, order));
  }
  std::int32_t reduce() const { return lane_sum(sum); }
};
