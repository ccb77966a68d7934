// Plain C++ for every CPU: 16 lanes as an array, which compilers turn into whatever the baseline offers.
// Included inside the instruction set's namespace; see kernels/matmul.inc.h for what the names mean.

constexpr int kLanes = 16;
constexpr int kRowsAtOnce = 1;

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

inline Codes load_codes(const std::uint8_t* from) {
  Codes out;
  std::memcpy(out.at, from, sizeof out.at);
  return out;
}

template <int kBits, int kField>
inline Codes field(Codes codes) {
  constexpr int kMask = (1 << kBits) - 1;
  for (std::uint8_t& byte : codes.at) byte = static_cast<std::uint8_t>(byte >> (kBits * kField) & kMask);
  return codes;
}

// Weight `index` of the vector in each lane, minus the offset.
template <int kBits>
inline Floats element(const Codes& codes, int index) {
  constexpr int kMask = (1 << kBits) - 1, kOffset = 1 << (kBits - 1);
  const int byte = index * kBits / 8, shift = index * kBits % 8;
  Floats out;
  ONNXQUANT_LANES out.at[lane] = static_cast<float>((codes.at[4 * lane + byte] >> shift & kMask) - kOffset);
  return out;
}

template <int kBits>
struct Dot {
  using Partial = Ints;
  static constexpr int kOffset = 1 << (kBits - 1);
  static Partial begin(const Ints& sum) { return sum; }
  static void add(Partial& partial, const Codes& codes, const std::int8_t* x) {
    ONNXQUANT_LANES {
      for (int byte = 0; byte < 4; ++byte) partial.at[lane] += codes.at[4 * lane + byte] * x[byte];
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
