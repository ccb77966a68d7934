// Formats as pairs of functions on one group of weights; the rules are those of onnxquant/formats, operation by operation.
// Included inside an instruction set's namespace.
//
// A form has a Code type, kUnit (weights of a group where they are always as many, else 0), and
//   quantize(x, at, codes): codes and whatever belongs to the group, of `size` floats, a multiple of 16;
//   dequantize(codes, at, from, count, y): `count` weights, a multiple of 16, from weight `from` of the group on.
// Forms of blocks of 32 split quantize in two, between which a batch of 16 groups shares its reductions:
//   prepare(low, high, x, at): what belongs to the group, from its lowest and highest value (kPeak: high is the magnitude);
//   write(x, grid, codes): the codes.

// Which group: its row, its number in the row, its number in these rows, and its weights.
struct Group {
  std::int64_t row, in_row, number;
  int size;
};

template <class T>
ONNXQUANT_INLINE T* plane(void* data) {
  return static_cast<T*>(data);
}

ONNXQUANT_INLINE float peak(const float* x, int size) {
  F most = magnitude(load(x));
  for (int i = 16; i < size; i += 16) most = greater(most, magnitude(load(x + i)));
  return largest(most);
}

// The signed element of largest magnitude, the first one on ties.
ONNXQUANT_INLINE float extreme(const float* x, int size) {
  const F most = splat(peak(x, size));
  for (int i = 0; i < size; i += 16) {
    const unsigned found = bits_of(equal(magnitude(load(x + i)), most));
    if (found != 0) return x[i + lowest_bit(found)];
  }
  return x[0];  // NaN: refused afterwards
}

struct Range {
  float low, high;
};

template <bool kPeak>
ONNXQUANT_INLINE Range range(const float* x, int size) {
  if constexpr (kPeak) return {0.0f, peak(x, size)};
  F lows = load(x), highs = lows;
  for (int i = 16; i < size; i += 16) {
    lows = lesser(lows, load(x + i));
    highs = greater(highs, load(x + i));
  }
  return {smallest(lows), largest(highs)};
}

// Of each of 16 groups of 32.
template <bool kPeak>
ONNXQUANT_INLINE void ranges(const float* x, float* low, float* high) {
  F lows[16], highs[16];
  for (int g = 0; g < 16; ++g) {
    F a = load(x + 32 * g), b = load(x + 32 * g + 16);
    if constexpr (kPeak) {
      a = magnitude(a);
      b = magnitude(b);
    } else {
      lows[g] = lesser(a, b);
    }
    highs[g] = greater(a, b);
  }
  if constexpr (!kPeak) store(low, smallest_of_each(lows));
  store(high, largest_of_each(highs));
}

// How x becomes codes.
struct Grid {
  float inverse, zero;
};

ONNXQUANT_INLINE F clip(F x, float low, float high) { return lesser(greater(x, splat(low)), splat(high)); }

// To the nearest integer, halves away from zero, once it is truncated: 0.5 less one bit makes no sum reach the next integer
// that the exact one does not reach.
ONNXQUANT_INLINE F before_truncation(F x) { return add(x, with_sign_of(x, 0x1.fffffep-2f)); }

// y = (code - zero) * scale.
ONNXQUANT_INLINE void scale_codes(const std::uint8_t* codes, float zero, float scale, int count, float* y) {
  const F zeros = splat(zero), scales = splat(scale);
  for (int i = 0; i < count; i += 16) store(y + i, mul(sub(load_codes(codes + i), zeros), scales));
}

// ---- one float16 scale per block, codes by the unrounded scale: q4_0, q5_0, q8_0, tq2_0

template <int kBits, int kSize>
struct GgmlBlock {
  using Code = std::uint8_t;
  static constexpr int kUnit = kSize;
  static constexpr int kOffset = 1 << (kBits - 1);
  const EncodeJob& job;

  static constexpr bool kByExtreme = kBits == 4 || kBits == 5, kPeak = !kByExtreme;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const Range of = range<kPeak>(x, kSize);
    write(x, prepare(of.low, of.high, x, at), codes);
  }
  ONNXQUANT_INLINE Grid prepare(float low, float high, const float* x, const Group& at) const {
    float scale = high;
    if constexpr (kByExtreme) {
      scale = high > -low ? high : low;
      if (high == -low) scale = extreme(x, kSize);
      scale /= -kOffset;
    } else if constexpr (kBits == 8) {
      scale /= 127.0f;
    }
    plane<std::uint16_t>(job.scales)[at.number] = to_half(scale);
    return {reciprocal(scale), 0.0f};
  }
  ONNXQUANT_INLINE void write(const float* x, Grid grid, Code* codes) const {
    for (int i = 0; i < kSize; i += 16) {
      const F scaled = mul(load(x + i), splat(grid.inverse));
      if constexpr (kByExtreme) {
        store_codes(codes + i, lesser(add(scaled, splat(kOffset + 0.5f)), splat(2 * kOffset - 1)));
      } else {
        store_signed(codes + i, before_truncation(scaled), kOffset);
      }
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_codes(codes, kOffset, from_half(plane<const std::uint16_t>(job.scales)[at.number]), count, y);
  }
};

struct Q8K {
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  const EncodeJob& job;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float inverse = quotient(-127.0f, extreme(x, 256)), scale = reciprocal(inverse);
    for (int i = 0; i < 256; i += 16) {
      const F q = lesser(round_even(mul(splat(inverse), load(x + i))), splat(127.0f));
      store_codes(codes + i, add(q, splat(128.0f)));
    }
    plane<float>(job.scales)[at.number] = finite(scale * 127.0f) ? scale : float_of(0x7f800000u);
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    scale_codes(codes, 128.0f, plane<const float>(job.scales)[at.number], count, y);
  }
};

// ---- i2_s: one float32 scale, given

struct I2S {
  using Code = std::uint8_t;
  static constexpr int kUnit = 0;
  const EncodeJob& job;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float scale = job.shared[0];
    for (int i = 0; i < at.size; i += 16) {
      const F trits = scale > 0 ? clip(round_even(div(load(x + i), splat(scale))), -1.0f, 1.0f) : splat(0.0f);
      store_codes(codes + i, add(trits, splat(2.0f)));
    }
    *plane<float>(job.scales) = scale;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group&, std::int64_t, int count, float* y) const {
    scale_codes(codes, 2.0f, *plane<const float>(job.scales), count, y);
  }
};

// ---- q4_1, q5_1: a scale and a minimum

template <int kBits>
struct Minimum {
  using Code = std::uint8_t;
  static constexpr int kUnit = 32;
  const EncodeJob& job;

  static constexpr bool kPeak = false;
  static constexpr float kTop = (1 << kBits) - 1;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const Range of = range<kPeak>(x, kUnit);
    write(x, prepare(of.low, of.high, x, at), codes);
  }
  ONNXQUANT_INLINE Grid prepare(float low, float high, const float* x, const Group& at) const {
    if (low == 0) {  // of zeros of both signs the first one, as in ggml
      int first = 0;
      while (x[first] != 0) ++first;
      low = x[first];
    }
    const float scale = ((high + 0.0f) - low) / kTop;
    plane<std::uint16_t>(job.scales)[at.number] = to_half(scale);
    plane<std::uint16_t>(job.seconds)[at.number] = to_half(low);
    return {reciprocal(scale), low};
  }
  ONNXQUANT_INLINE void write(const float* x, Grid grid, Code* codes) const {
    for (int i = 0; i < kUnit; i += 16) {
      const F code = add(mul(sub(load(x + i), splat(grid.zero)), splat(grid.inverse)), splat(0.5f));
      store_codes(codes + i, lesser(code, splat(kTop)));
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    const F scale = splat(from_half(plane<const std::uint16_t>(job.scales)[at.number]));
    const F minimum = splat(from_half(plane<const std::uint16_t>(job.seconds)[at.number]));
    for (int i = 0; i < count; i += 16) store(y + i, add(mul(load_codes(codes + i), scale), minimum));
  }
};

// ---- int8 .. int2: codes by the scale as it is stored

enum class Zero { kNone, kCode, kHalf };

// The scale in float16; what would underflow takes the smallest subnormal with its sign.
ONNXQUANT_INLINE std::uint16_t lasting_half(float scale) {
  const std::uint16_t half = to_half(scale);
  return static_cast<std::uint16_t>((half & 0x7fffu) == 0 && scale != 0 ? half | 1u : half);
}

template <Zero kZero, int kFixedSize>
struct Affine {
  using Code = std::uint8_t;
  static constexpr int kUnit = kFixedSize;
  const EncodeJob& job;
  const int bits, offset = 1 << (bits - 1), top = (1 << bits) - 1;
  Affine(const EncodeJob& of) : job(of), bits(of.format[3] - '0') {}

  static constexpr bool kPeak = false;

  struct Stored {
    std::uint16_t half;
    float zero;
  };

  ONNXQUANT_INLINE Stored stored(float low, float high) const {
    const auto levels = static_cast<float>(top);
    if constexpr (kZero == Zero::kNone) {
      const float scale = bits == 8 ? most(-low, high) / 127.0f : (-low >= high ? low : high) / static_cast<float>(-offset);
      return {lasting_half(scale), static_cast<float>(offset)};
    } else if constexpr (kZero == Zero::kHalf) {
      const float step = (high - low) / levels;
      const std::uint16_t half = lasting_half(most(step, most(absolute(low), absolute(high)) * 0x1p-10f));
      const float scale = from_half(half);
      return {half, from_half(to_half(scale != 0 ? -low / scale : static_cast<float>(offset)))};
    } else {
      low = least(low, 0.0f);
      high = most(high, 0.0f);
      const std::uint16_t half = lasting_half((high - low) / levels);
      const float scale = from_half(half);
      return {half, clipped(scale != 0 ? rounded(-low / scale) : static_cast<float>(offset), 0.0f, levels)};
    }
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const int size = kFixedSize ? kFixedSize : at.size;
    const Range of = job.shared != nullptr ? Range{job.shared[0], job.shared[1]} : range<kPeak>(x, size);
    write(x, prepare(of.low, of.high, x, at), codes, size);
  }
  ONNXQUANT_INLINE Grid prepare(float low, float high, const float*, const Group& at) const {
    const Stored kept = stored(low + 0.0f, high + 0.0f);  // of zeros of both signs the positive one
    const std::int64_t number = job.shared != nullptr ? 0 : at.number;
    plane<std::uint16_t>(job.scales)[number] = kept.half;
    if constexpr (kZero == Zero::kCode) plane<std::uint8_t>(job.seconds)[number] = static_cast<std::uint8_t>(kept.zero);
    if constexpr (kZero == Zero::kHalf) plane<std::uint16_t>(job.seconds)[number] = to_half(kept.zero);
    const float scale = from_half(kept.half);
    return {scale != 0 ? 1.0f / scale : 0.0f, kept.zero};
  }
  ONNXQUANT_INLINE void write(const float* x, Grid grid, Code* codes, int size = kFixedSize) const {
    const float lowest = kZero == Zero::kNone && bits == 8 ? 1 : 0, highest = static_cast<float>(top);
    for (int i = 0; i < size; i += 16) {
      const F scaled = mul(load(x + i), splat(grid.inverse)), zero = splat(grid.zero);
      const F code = kZero == Zero::kHalf ? round_even(add(scaled, zero)) : add(round_even(scaled), zero);
      store_codes(codes + i, clip(code, lowest, highest));
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    const std::int64_t number = job.shared != nullptr ? 0 : at.number;
    auto zero = static_cast<float>(offset);
    if constexpr (kZero == Zero::kCode) zero = plane<const std::uint8_t>(job.seconds)[number];
    if constexpr (kZero == Zero::kHalf) zero = from_half(plane<const std::uint16_t>(job.seconds)[number]);
    scale_codes(codes, zero, from_half(plane<const std::uint16_t>(job.scales)[number]), kFixedSize ? kFixedSize : count, y);
  }
};

// ---- nf4, fp4, dynamic8: the nearest value of a table, or a neighbour at random

// Philox4x32-10 of 16 counters (low, high, 0, 0): 64 words. Words of 32 bits in 64, as vectors multiply them.
inline void philox(std::uint64_t counter, std::uint64_t seed, std::uint32_t* out) {
  constexpr std::uint64_t kMask = 0xffffffffu;
  std::uint64_t a[16], b[16], c[16], d[16], k0 = seed & kMask, k1 = seed >> 32;
  for (unsigned i = 0; i < 16; ++i) {
    a[i] = (counter + i) & kMask;
    b[i] = (counter + i) >> 32;
    c[i] = d[i] = 0;
  }
  for (int turn = 0; turn < 10; ++turn) {
    for (int i = 0; i < 16; ++i) {
      const std::uint64_t first = (a[i] & kMask) * 0xD2511F53u, second = (c[i] & kMask) * 0xCD9E8D57u;
      a[i] = (second >> 32) ^ b[i] ^ k0;
      b[i] = second & kMask;
      c[i] = (first >> 32) ^ d[i] ^ k1;
      d[i] = first & kMask;
    }
    k0 = (k0 + 0x9E3779B9u) & kMask;
    k1 = (k1 + 0xBB67AE85u) & kMask;
  }
  for (int i = 0; i < 16; ++i) {
    out[4 * i] = static_cast<std::uint32_t>(a[i]);
    out[4 * i + 1] = static_cast<std::uint32_t>(b[i]);
    out[4 * i + 2] = static_cast<std::uint32_t>(c[i]);
    out[4 * i + 3] = static_cast<std::uint32_t>(d[i]);
  }
}

template <bool kStochastic>
struct Table {
  using Code = std::uint8_t;
  static constexpr int kUnit = 0;
  const EncodeJob& job;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    const float scale = peak(x, at.size), inverse = 1.0f / most(scale, 1e-38f);
    plane<float>(job.scales)[at.number] = scale;
    // The position of the first weight among all: groups are whole, so it is a multiple of 32.
    const std::int64_t start = (job.first_row + at.row) * job.cols + at.in_row * at.size;
    std::uint32_t words[64];
    for (int i = 0; i < at.size; i += 32) {
      float values[32];
      if (kStochastic && i % 64 == 0) philox(static_cast<std::uint64_t>(start + i) / 4, job.seed, words);
      for (int j = 0; j < 32; j += 16) store(values + j, clip(mul(load(x + i + j), splat(inverse)), -1.0f, 1.0f));
      if constexpr (kStochastic) either(values, words + i % 64, codes + i);
      else nearest(values, codes + i);
    }
  }
  // At most one bound lies among the floats that share their upper 16 bits: the table says how many lie below.
  // Pointers of their own: bytes that are written could otherwise be those of the job.
  ONNXQUANT_INLINE void nearest(const float* values, Code* codes) const {
    const std::uint8_t *const starts = job.starts, *const level_codes = job.level_codes;
    const float* const bounds = job.bounds;
    Code found[32];
    for (int i = 0; i < 32; ++i) {
      const int below = starts[bits_of(values[i]) >> 16];
      found[i] = level_codes[below + (values[i] > bounds[below])];
    }
    std::memcpy(codes, found, sizeof found);
  }
  ONNXQUANT_INLINE void either(const float* values, const std::uint32_t* words, Code* codes) const {
    const std::uint8_t *const starts = job.starts, *const level_codes = job.level_codes;
    const float *const bounds = job.bounds, *const levels = job.levels;
    const auto last = static_cast<int>(job.level_count - 2);
    float low[32], high[32];
    int below[32];
    for (int i = 0; i < 32; ++i) {
      const int found = starts[bits_of(values[i]) >> 16];
      const int at_most = found + (values[i] >= bounds[found]) - 1;
      below[i] = at_most < 0 ? 0 : at_most > last ? last : at_most;
      low[i] = levels[below[i]];
      high[i] = levels[below[i] + 1];
    }
    for (int i = 0; i < 32; ++i) {
      const float uniform = static_cast<float>(static_cast<std::int32_t>(words[i] >> 8)) * 0x1p-24f;
      below[i] += uniform < (values[i] - low[i]) / (high[i] - low[i]);
    }
    for (int i = 0; i < 32; ++i) codes[i] = level_codes[below[i]];
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    const float scale = plane<const float>(job.scales)[at.number];
    const float* const table = job.table;
    for (int i = 0; i < count; ++i) y[i] = table[codes[i]] * scale;
  }
};

// ---- 8-bit floats, a scale per row

// Bits of a float that is no larger than the largest of kExponent and kMantissa bits, rounded to nearest even.
template <int kExponent, int kMantissa>
ONNXQUANT_INLINE std::uint32_t small_float(float x) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1, kDrop = 23 - kMantissa;
  const std::uint32_t bits = bits_of(x) & 0x7fffffffu, sign = bits_of(x) >> 24 & 0x80u;
  const std::uint32_t normal = ((bits + ((1u << (kDrop - 1)) - 1) + (bits >> kDrop & 1u)) >> kDrop) - ((127u - kBias) << kMantissa);
  // A float whose last bit weighs as much as the smallest subnormal: adding it rounds.
  const float step = float_of(static_cast<std::uint32_t>(127 + 23 + 1 - kBias - kMantissa) << 23);
  const std::uint32_t subnormal = bits_of(float_of(bits) + step) - bits_of(step);
  return sign | (bits < static_cast<std::uint32_t>(128 - kBias) << 23 ? subnormal : normal);
}

template <int kExponent, int kMantissa>
struct SmallFloat {
  using Code = std::uint8_t;
  static constexpr int kUnit = 0;
  const EncodeJob& job;

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    constexpr float kTop = kExponent == 4 ? 448.0f : 57344.0f;
    const float scale = peak(x, at.size) / kTop, inverse = reciprocal(scale);
    plane<float>(job.scales)[at.number] = scale;
    for (int i = 0; i < at.size; i += 16) {
      float values[16];
      store(values, inverse != 0 ? clip(mul(load(x + i), splat(inverse)), -kTop, kTop) : splat(0.0f));
      Code some[16];
      for (int j = 0; j < 16; ++j) some[j] = static_cast<Code>(small_float<kExponent, kMantissa>(values[j]));
      std::memcpy(codes + i, some, sizeof some);
    }
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t, int count, float* y) const {
    const float scale = plane<const float>(job.scales)[at.number];
    const float* const table = job.table;
    for (int i = 0; i < count; ++i) y[i] = table[codes[i]] * scale;
  }
};

// ---- 16-bit floats

struct Half {
  using Code = std::uint16_t;
  static constexpr int kUnit = 0;
  const EncodeJob& job;
  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    for (int i = 0; i < at.size; i += 16) store_halves(codes + i, load(x + i));
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group&, std::int64_t, int count, float* y) const {
    for (int i = 0; i < count; i += 16) store(y + i, load_halves(codes + i));
  }
};

struct Bfloat {
  using Code = std::uint16_t;
  static constexpr int kUnit = 0;
  const EncodeJob& job;
  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    for (int i = 0; i < at.size; ++i) codes[i] = float_to_bfloat(x[i]);
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group&, std::int64_t, int count, float* y) const {
    for (int i = 0; i < count; i += 16) store(y + i, load_bfloats(codes + i));
  }
};

// ---- llm_int8: rows of 8-bit codes, columns of outliers in float16

struct LlmInt8 {
  using Code = std::uint8_t;
  static constexpr int kUnit = 0;
  const EncodeJob& job;

  // Overwrites x: the driver sees that it is a copy.
  ONNXQUANT_INLINE void quantize(float* x, const Group& at, Code* codes) const {
    auto* outliers = plane<std::uint16_t>(job.seconds) + at.row * job.outlier_count;
    for (std::int64_t j = 0; j < job.outlier_count; ++j) outliers[j] = to_half(x[job.outlier_columns[j]]);
    for (int i = 0; i < at.size; i += 16) {
      std::uint16_t halves[16];
      store_halves(halves, load(x + i));
      store(x + i, load_halves(halves));
    }
    for (std::int64_t j = 0; j < job.outlier_count; ++j) x[job.outlier_columns[j]] = 0.0f;
    for (std::int64_t i = job.cols; i < at.size; ++i) x[i] = 0.0f;  // copies of the last column, which may be an outlier
    const float scb = peak(x, at.size), factor = scb > 0 ? 127.0f / scb : 0.0f;
    for (int i = 0; i < at.size; i += 16) {
      store_codes(codes + i, add(round_even(mul(load(x + i), splat(factor))), splat(128.0f)));
    }
    plane<float>(job.scales)[at.number] = scb / 127.0f;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    scale_codes(codes, 128.0f, plane<const float>(job.scales)[at.number], count, y);
    const auto* outliers = plane<const std::uint16_t>(job.seconds) + at.row * job.outlier_count;
    for (std::int64_t j = first_outlier(from); j < job.outlier_count && job.outlier_columns[j] < from + count; ++j) {
      y[job.outlier_columns[j] - from] = from_half(outliers[j]);
    }
  }
  std::int64_t first_outlier(std::int64_t from) const {
    std::int64_t low = 0, high = job.outlier_count;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (job.outlier_columns[middle] < from) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};
