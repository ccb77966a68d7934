// Sixteen floats as an array, which compilers turn into whatever the baseline offers. Every instruction set has these names,
// and they mean the same bits.
// Included inside the instruction set's namespace.

struct F {
  float at[16];
};
struct Mask {
  bool at[16];
};

#define ONNXQUANT_MAP(result, name, arguments, expression) \
  inline result name arguments {                           \
    result out;                                            \
    for (int i = 0; i < 16; ++i) out.at[i] = expression;   \
    return out;                                            \
  }
ONNXQUANT_MAP(F, load, (const float* from), from[i])
ONNXQUANT_MAP(F, splat, (float x), x)
ONNXQUANT_MAP(F, add, (const F& a, const F& b), a.at[i] + b.at[i])
ONNXQUANT_MAP(F, sub, (const F& a, const F& b), a.at[i] - b.at[i])
ONNXQUANT_MAP(F, mul, (const F& a, const F& b), a.at[i] * b.at[i])
ONNXQUANT_MAP(F, div, (const F& a, const F& b), a.at[i] / b.at[i])
// The second one where they are equal or not comparable, as x86 does it and numpy for equal ones.
ONNXQUANT_MAP(F, lesser, (const F& a, const F& b), a.at[i] < b.at[i] ? a.at[i] : b.at[i])
ONNXQUANT_MAP(F, greater, (const F& a, const F& b), a.at[i] > b.at[i] ? a.at[i] : b.at[i])
ONNXQUANT_MAP(F, magnitude, (const F& x), absolute(x.at[i]))
// To the nearest integer, halves to even.
ONNXQUANT_MAP(F, round_even, (const F& x), rounded(x.at[i]))
// size with the signs of x.
ONNXQUANT_MAP(F, with_sign_of, (const F& x, float size), copy_sign(size, x.at[i]))
ONNXQUANT_MAP(Mask, equal, (const F& a, const F& b), a.at[i] == b.at[i])
ONNXQUANT_MAP(Mask, above, (const F& a, const F& b), a.at[i] > b.at[i])
ONNXQUANT_MAP(Mask, unequal, (const F& a, const F& b), !(a.at[i] == b.at[i]))
ONNXQUANT_MAP(F, pick, (const Mask& mask, const F& yes, const F& no), mask.at[i] ? yes.at[i] : no.at[i])
ONNXQUANT_MAP(F, load_codes, (const std::uint8_t* from), static_cast<float>(from[i]))
ONNXQUANT_MAP(F, load_halves, (const std::uint16_t* from), half_to_float(from[i]))
ONNXQUANT_MAP(F, load_bfloats, (const std::uint16_t* from), bfloat_to_float(from[i]))
ONNXQUANT_MAP(F, load_doubles, (const double* from), static_cast<float>(from[i]))
#undef ONNXQUANT_MAP

inline void store(float* to, const F& x) { std::memcpy(to, x.at, sizeof x.at); }
inline unsigned bits_of(const Mask& mask) {
  unsigned bits = 0;
  for (int i = 0; i < 16; ++i) bits |= static_cast<unsigned>(mask.at[i]) << i;
  return bits;
}
inline F whole(F x) {
  for (int i = 0; i < 16; ++i) x.at[i] = absolute(x.at[i]) < 256 ? static_cast<float>(static_cast<int>(x.at[i])) : 0.0f;
  return x;
}
// The integer part as a byte.
inline void store_codes(std::uint8_t* to, const F& x) {
  // NaN, of weights that are refused afterwards, is no int.
  for (int i = 0; i < 16; ++i) to[i] = static_cast<std::uint8_t>(x.at[i] > -256 && x.at[i] < 256 ? static_cast<int>(x.at[i]) : 0);
}
// The integer part plus an offset as a byte.
inline void store_signed(std::uint8_t* to, const F& x, int offset) { store_codes(to, add(whole(x), splat(static_cast<float>(offset)))); }
inline void store_halves(std::uint16_t* to, const F& x) {
  for (int i = 0; i < 16; ++i) to[i] = float_to_half(x.at[i]);
}
inline float from_half(std::uint16_t half) { return half_to_float(half); }
inline std::uint16_t to_half(float x) { return float_to_half(x); }

// In halves: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
inline float sum(F x) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.at[i] += x.at[i + half];
  }
  return x.at[0];
}
inline float smallest(const F& x) {
  float out = x.at[0];
  for (int i = 1; i < 16; ++i) out = x.at[i] < out ? x.at[i] : out;
  return out;
}
inline float largest(const F& x) {
  float out = x.at[0];
  for (int i = 1; i < 16; ++i) out = x.at[i] > out ? x.at[i] : out;
  return out;
}

// Lane i: of all lanes of x[i].
inline F smallest_of_each(const F* x) {
  F out = splat(0.0f);
  for (int i = 0; i < 16; ++i) out.at[i] = smallest(x[i]);
  return out;
}
inline F largest_of_each(const F* x) {
  F out = splat(0.0f);
  for (int i = 0; i < 16; ++i) out.at[i] = largest(x[i]);
  return out;
}

// x[16] becomes its transpose, row i at to + i * stride.
inline void store_transposed(const F* x, float* to, std::int64_t stride) {
  for (int row = 0; row < 16; ++row) {
    for (int i = 0; i < 16; ++i) to[row * stride + i] = x[i].at[row];
  }
}

// Sums of statistics in eight lanes of doubles: element i goes to lane i % 8 on every instruction set.
struct Sums {
  double error[8] = {}, bias[8] = {}, reference[8] = {}, got[8] = {}, worst[8] = {};
  std::int64_t unequal_count = 0;

  void add(const F& x, const F& y) {
    for (int i = 0; i < 16; ++i) unequal_count += !(x.at[i] == y.at[i]);
    for (int half = 0; half < 16; half += 8) {
      for (int i = 0; i < 8; ++i) {
        const double a = x.at[half + i], b = y.at[half + i], delta = b - a, square = delta * delta;
        error[i] += square;
        bias[i] += delta;
        worst[i] = square > worst[i] ? square : worst[i];
        reference[i] += a * a;
        got[i] += b * b;
      }
    }
  }
  void write(double (*out)[8]) const {
    const double* sums[] = {error, bias, reference, got, worst};
    for (int i = 0; i < 5; ++i) std::memcpy(out[i], sums[i], sizeof error);
  }
};
