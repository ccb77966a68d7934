// Plain C++ for every CPU: 16 lanes as an array, which compilers turn into whatever the baseline offers.
// Included inside the instruction set's namespace; see kernels/matmul.inc.h for what the names mean.

constexpr int kLanes = 16;
constexpr int kRowsAtOnce = 1, kFloatRowsAtOnce = 1;
constexpr int vectors_at_once(int, int) { return 1; }

struct Floats {
  float at[kLanes];
};
struct Ints {
  std::int32_t at[kLanes];
};
struct Codes {
  std::uint8_t at[4 * kLanes];
};

#define ONNXQUANT_LANES for (int lane = 0; lane < kLanes; ++lane)

inline Floats splat(float value) {
  Floats out;
  ONNXQUANT_LANES out.at[lane] = value;
  return out;
}
inline Ints splat_int(std::int32_t value) {
  Ints out;
  ONNXQUANT_LANES out.at[lane] = value;
  return out;
}
inline Floats add(Floats a, const Floats& b) {
  ONNXQUANT_LANES a.at[lane] += b.at[lane];
  return a;
}
inline Floats multiply(Floats a, const Floats& b) {
  ONNXQUANT_LANES a.at[lane] *= b.at[lane];
  return a;
}
inline Floats multiply_add(const Floats& a, const Floats& b, Floats sum) {
  ONNXQUANT_LANES sum.at[lane] += a.at[lane] * b.at[lane];
  return sum;
}
inline Floats negate(Floats a) {
  ONNXQUANT_LANES a.at[lane] = -a.at[lane];
  return a;
}
inline Ints add_int(Ints a, const Ints& b) {
  ONNXQUANT_LANES a.at[lane] += b.at[lane];
  return a;
}
template <int kBits>
inline Ints shift_left(Ints a) {
  ONNXQUANT_LANES a.at[lane] *= 1 << kBits;
  return a;
}
template <int kBits>
inline Ints shift_right(Ints a) {
  ONNXQUANT_LANES a.at[lane] >>= kBits;
  return a;
}
inline Floats load(const float* from) {
  Floats out;
  std::memcpy(out.at, from, sizeof out.at);
  return out;
}
inline void store(float* to, const Floats& values) { std::memcpy(to, values.at, sizeof values.at); }
inline Floats to_float(const Ints& values) {
  Floats out;
  ONNXQUANT_LANES out.at[lane] = static_cast<float>(values.at[lane]);
  return out;
}
inline Floats load_half(const std::uint16_t* from) {
  Floats out;
  ONNXQUANT_LANES {
    std::uint16_t half;
    std::memcpy(&half, from + lane, sizeof half);
    out.at[lane] = half_to_float(half);
  }
  return out;
}
inline void store_half(std::uint16_t* to, const Floats& values) {
  ONNXQUANT_LANES to[lane] = float_to_half(values.at[lane]);
}
inline Floats load_bfloat(const std::uint16_t* from) {
  Floats out;
  ONNXQUANT_LANES {
    std::uint16_t half;
    std::memcpy(&half, from + lane, sizeof half);
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    std::memcpy(&out.at[lane], &bits, sizeof bits);
  }
  return out;
}
inline Floats load_bytes(const std::uint8_t* from) {
  Floats out;
  ONNXQUANT_LANES out.at[lane] = static_cast<float>(from[lane]);
  return out;
}
inline Floats load_signed_bytes(const std::uint8_t* from) {
  Floats out;
  ONNXQUANT_LANES out.at[lane] = static_cast<float>(static_cast<std::int8_t>(from[lane]));
  return out;
}
// The value times a weight of -1, 0 or 1.
inline Floats with_sign(Floats value, const Floats& weight) {
  ONNXQUANT_LANES value.at[lane] = weight.at[lane] == 0.0f ? 0.0f : weight.at[lane] < 0.0f ? -value.at[lane] : value.at[lane];
  return value;
}

inline Codes load_codes(const std::uint8_t* from) {
  Codes out;
  std::memcpy(out.at, from, sizeof out.at);
  return out;
}
inline Codes in_register(Codes codes) { return codes; }

template <int kBits, int kField>
inline Codes field(Codes codes) {
  constexpr int kMask = (1 << kBits) - 1;
  for (std::uint8_t& byte : codes.at) byte = static_cast<std::uint8_t>(byte >> (kBits * kField) & kMask);
  return codes;
}

// The same field left where it is.
template <int kBits, int kField>
inline Codes masked(Codes codes) {
  constexpr int kMask = ((1 << kBits) - 1) << (kBits * kField);
  for (std::uint8_t& byte : codes.at) byte = static_cast<std::uint8_t>(byte & kMask);
  return codes;
}

// Low bits of each code with the high ones from bit kShift on of the same byte of `high`.
template <int kHigh, int kShift, int kLow>
inline Codes merge(Codes low, const Codes& high) {
  for (int i = 0; i < 4 * kLanes; ++i) {
    low.at[i] = static_cast<std::uint8_t>(low.at[i] | (high.at[i] >> kShift & ((1 << kHigh) - 1)) << kLow);
  }
  return low;
}

// kBits bits of each lane from bit `shift` on.
template <int kBits>
inline Ints bits_of(const Codes& codes, int shift) {
  Ints out;
  ONNXQUANT_LANES out.at[lane] = codes.at[4 * lane + shift / 8] >> shift % 8 & ((1 << kBits) - 1);
  return out;
}

struct Lookup {
  std::uint8_t at[16];
};
inline Lookup make_lookup(const std::uint8_t (&bytes)[16]) {
  Lookup out;
  std::memcpy(out.at, bytes, sizeof out.at);
  return out;
}
inline Codes lookup(const Lookup& bytes, Codes codes) {
  for (std::uint8_t& byte : codes.at) byte = bytes.at[byte & 15];
  return codes;
}

template <int>
inline Floats table_floats(const float* table, const Ints& index) {
  Floats out;
  ONNXQUANT_LANES out.at[lane] = table[index.at[lane]];
  return out;
}

template <int kBits>
struct Dot {
  using Partial = Ints;
  static constexpr bool kExact = false;
  static constexpr int kOffset = 0, kGroups = 8;
  static Partial begin(const Ints& sum) { return sum; }
  template <int kGroup>
  static void add(Partial& partial, const Codes& codes, const std::int8_t* x) {
    ONNXQUANT_LANES {
      for (int byte = 0; byte < 4; ++byte) partial.at[lane] += codes.at[4 * lane + byte] * x[4 * kGroup + byte];
    }
  }
  static Ints end(const Ints&, const Partial& partial) { return partial; }
};

struct LargestMagnitude {
  std::int32_t bits = 0;
  void add(const float* x) {
    ONNXQUANT_LANES {
      std::int32_t value;
      std::memcpy(&value, x + lane, sizeof value);
      value &= 0x7fffffff;
      bits = value > bits ? value : bits;
    }
  }
  std::int32_t reduce() const { return bits; }
};

template <int kBits>
struct Rounder {
  float inverse;
  std::int32_t sum = 0;
  explicit Rounder(float inverse_scale) : inverse(inverse_scale) {}
  void put(const float* x, std::int8_t* out) {
    ONNXQUANT_LANES {
      // Adding 1.5 * 2^23 leaves no bits below one: the addition rounds to nearest even.
      const float rounded = (x[lane] * inverse + 12582912.0f) - 12582912.0f;
      const int code = static_cast<int>(rounded);
      sum += code;
      out[field_order<kBits>(lane)] = static_cast<std::int8_t>(code);
    }
  }
  std::int32_t reduce() const { return sum; }
};

#undef ONNXQUANT_LANES
