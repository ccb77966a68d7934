// NEON with 8-bit dot products: a quarter of a tile (4 channels) per vector, four products and a sum per instruction.
// Included inside the instruction set's namespace; see kernels/matmul.inc.h for what the names mean. With
// ONNXQUANT_NEON_I8MM a dot product takes unsigned codes, without it both sides are signed.

constexpr int kLanes = 4;
constexpr int kRowsAtOnce = 4, kFloatRowsAtOnce = 8;
// Eight sums hide the latency of a dot product.
constexpr int vectors_at_once(int rows, int) { return rows > 2 ? 2 : 4; }

using Floats = float32x4_t;
using Ints = int32x4_t;
using Codes = uint8x16_t;

inline Floats splat(float value) { return vdupq_n_f32(value); }
inline Ints splat_int(std::int32_t value) { return vdupq_n_s32(value); }
inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return vfmaq_f32(sum, a, b); }
inline Floats load(const float* from) { return vld1q_f32(from); }
inline Floats negate(Floats a) { return vnegq_f32(a); }
inline Ints add_int(Ints a, Ints b) { return vaddq_s32(a, b); }
template <int kBits>
inline Ints shift_left(Ints a) {
  return vshlq_n_s32(a, kBits);
}
template <int kBits>
inline Ints shift_right(Ints a) {
  return vshrq_n_s32(a, kBits);
}
inline void store(float* to, Floats values) { vst1q_f32(to, values); }
inline Floats to_float(Ints values) { return vcvtq_f32_s32(values); }
inline Floats load_half(const std::uint16_t* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
inline void store_half(std::uint16_t* to, Floats values) { vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(values))); }
inline Floats load_bfloat(const std::uint16_t* from) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16)); }
inline uint8x8_t load_4_bytes(const std::uint8_t* from) {
  std::uint32_t four;
  std::memcpy(&four, from, sizeof four);
  return vcreate_u8(four);
}
inline Floats load_bytes(const std::uint8_t* from) {
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_4_bytes(from)))));
}
inline Floats load_signed_bytes(const std::uint8_t* from) {
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_4_bytes(from))))));
}
// The value times a weight of -1, 0 or 1.
inline Floats with_sign(Floats value, Floats weight) {
  const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(weight), vdupq_n_u32(0x80000000u));
  return vreinterpretq_f32_u32(vbicq_u32(veorq_u32(vreinterpretq_u32_f32(value), sign), vceqzq_f32(weight)));
}

inline Codes load_codes(const std::uint8_t* from) { return vld1q_u8(from); }
inline Codes in_register(Codes codes) { return codes; }

template <int kBits, int kField>
inline Codes field(Codes codes) {
  constexpr int kShift = kBits * kField;
  if constexpr (kShift > 0) codes = vshrq_n_u8(codes, kShift);
  if constexpr (kShift + kBits < 8) codes = vandq_u8(codes, vdupq_n_u8((1 << kBits) - 1));
  return codes;
}

// The same field left where it is.
template <int kBits, int kField>
inline Codes masked(Codes codes) {
  constexpr int kMask = ((1 << kBits) - 1) << (kBits * kField);
  return vandq_u8(codes, vdupq_n_u8(static_cast<std::uint8_t>(kMask)));
}

// Low bits of each code with the high ones from bit kShift on of the same byte of `high`.
template <int kHigh, int kShift, int kLow>
inline Codes merge(Codes low, Codes high) {
  if constexpr (kShift > kLow) high = vshrq_n_u8(high, kShift - kLow);
  if constexpr (kShift < kLow) high = vshlq_n_u8(high, kLow - kShift);
  return vorrq_u8(low, vandq_u8(high, vdupq_n_u8(((1 << kHigh) - 1) << kLow)));
}

// kBits bits of each lane from bit `shift` on.
template <int kBits>
inline Ints bits_of(Codes codes, int shift) {
  const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(codes), vdupq_n_s32(-shift));
  return vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32((1 << kBits) - 1)));
}

using Lookup = uint8x16_t;
inline Lookup make_lookup(const std::uint8_t (&bytes)[16]) { return vld1q_u8(bytes); }
inline Codes lookup(Lookup bytes, Codes codes) { return vqtbl1q_u8(bytes, codes); }

template <int>
inline Floats table_floats(const float* table, Ints index) {
  const float four[] = {table[vgetq_lane_s32(index, 0)], table[vgetq_lane_s32(index, 1)],
                        table[vgetq_lane_s32(index, 2)], table[vgetq_lane_s32(index, 3)]};
  return vld1q_f32(four);
}

template <int kBits>
struct Dot {
  using Partial = int32x4_t;
#ifdef ONNXQUANT_NEON_I8MM
  static constexpr bool kExact = true;
  static constexpr int kOffset = 0;
#else
  static constexpr bool kExact = false;
  static constexpr int kOffset = kBits == 8 ? 128 : 0;  // what makes 8-bit codes signed
#endif
  static constexpr int kGroups = 8;
  static Partial begin(Ints sum) { return sum; }
  // One load of activations serves four groups, which take a lane each.
  template <int kGroup>
  static void add(Partial& partial, Codes codes, const std::int8_t* x) {
    const int8x16_t lanes = vld1q_s8(x + kGroup / 4 * 16);
#ifdef ONNXQUANT_NEON_I8MM
    partial = vusdotq_laneq_s32(partial, codes, lanes, kGroup % 4);
#else
    if constexpr (kOffset != 0) codes = veorq_u8(codes, vdupq_n_u8(kOffset));
    partial = vdotq_laneq_s32(partial, vreinterpretq_s8_u8(codes), lanes, kGroup % 4);
#endif
  }
  static Ints end(Ints, Partial partial) { return partial; }
};

struct LargestMagnitude {
  uint32x4_t bits = vdupq_n_u32(0);
  void add(const float* x) {
    for (int k = 0; k < 16; k += kLanes) {
      bits = vmaxq_u32(bits, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + k)), vdupq_n_u32(0x7fffffff)));
    }
  }
  std::int32_t reduce() const { return static_cast<std::int32_t>(vmaxvq_u32(bits)); }
};

template <int kBits>
struct Rounder {
  float32x4_t inverse;
  int32x4_t sum = vdupq_n_s32(0);
  uint8x16_t order;
  explicit Rounder(float inverse_scale) : inverse(splat(inverse_scale)) {
    std::uint8_t source[16];
    for (int k = 0; k < 16; ++k) source[field_order<kBits>(k)] = static_cast<std::uint8_t>(k);
    order = vld1q_u8(source);
  }
  void put(const float* x, std::int8_t* out) {
    int16x4_t words[4];
    for (int i = 0; i < 4; ++i) {
      const int32x4_t codes = vcvtnq_s32_f32(multiply(load(x + kLanes * i), inverse));
      sum = vaddq_s32(sum, codes);
      words[i] = vmovn_s32(codes);
    }
    const int8x8_t low = vmovn_s16(vcombine_s16(words[0], words[1]));
    const int8x8_t high = vmovn_s16(vcombine_s16(words[2], words[3]));
    vst1q_s8(out, vqtbl1q_s8(vcombine_s8(low, high), order));
  }
  std::int32_t reduce() const { return vaddvq_s32(sum); }
};
