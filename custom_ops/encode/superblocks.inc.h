// ggml's K-quants: super-blocks of 256; the steps are those of onnxquant/formats/q4_k.py and q6_k.py.
// Included inside an instruction set's namespace.

template <int kBits>
struct MinimumSuperBlock {
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  static constexpr float kTop = (1 << kBits) - 1, kMost = 63;
  const EncodeJob& job;

  struct Line {
    float scale, minimum, sum;
  };

  // Scale and minimum of 32 weights by least squares, the best of 13 grids.
  static ONNXQUANT_INLINE Line search(const float* x) {
    const F x0 = load(x), x1 = load(x + 16);
    const float low = least(smallest(lesser(x0, x1)), 0.0f), span = largest(greater(x0, x1)) - low;
    const float sx = sum(add(x0, x1));
    float scale = span / kTop, minimum = low, error = float_of(0x7f800000u);
    const F lows = splat(low), from0 = sub(x0, lows), from1 = sub(x1, lows);
    for (int t = -6; t <= 6; ++t) {
      const F inverse = splat(quotient(kTop + static_cast<float>(t) / 4.0f, span));
      const F q0 = clip(round_even(mul(from0, inverse)), 0.0f, kTop), q1 = clip(round_even(mul(from1, inverse)), 0.0f, kTop);
      const float n = sum(add(q0, q1)), nn = sum(add(mul(q0, q0), mul(q1, q1))), sqx = sum(add(mul(x0, q0), mul(x1, q1)));
      const float det = 32.0f * nn - n * n;
      if (!(det > 0)) continue;
      float a = (32.0f * sqx - sx * n) / det, b = (nn * sx - n * sqx) / det;
      if (b > 0) {
        a = sqx / nn;
        b = 0.0f;
      }
      const F d0 = sub(add(mul(splat(a), q0), splat(b)), x0), d1 = sub(add(mul(splat(a), q1), splat(b)), x1);
      const float e = sum(add(mul(d0, d0), mul(d1, d1)));
      if (e < error) {
        scale = a;
        minimum = b;
        error = e;
      }
    }
    return {scale, minimum, sx};
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    Line lines[8];
    float scale = 0, depth = 0;
    for (int s = 0; s < 8; ++s) {
      lines[s] = search(x + 32 * s);
      scale = most(lines[s].scale, scale);
      depth = most(-lines[s].minimum, depth);
    }
    const std::uint16_t half = lasting_half(scale / kMost), half_minimum = lasting_half(depth / kMost);
    const float d = from_half(half), dmin = from_half(half_minimum);
    for (int s = 0; s < 8; ++s) {
      const float sc = small(lines[s].scale, d);
      const float m = small(-(sc > 0 ? lines[s].minimum : least(lines[s].sum / 32.0f, 0.0f)), dmin);
      const F shift = splat(dmin * m), inverse = splat(quotient(1.0f, d * sc));
      for (int i = 32 * s; i < 32 * s + 32; i += 16) {
        store_codes(codes + i, clip(round_even(mul(add(load(x + i), shift), inverse)), 0.0f, kTop));
      }
      plane<std::uint8_t>(job.subscales)[8 * at.number + s] = static_cast<std::uint8_t>(sc);
      plane<std::uint8_t>(job.subminima)[8 * at.number + s] = static_cast<std::uint8_t>(m);
    }
    plane<std::uint16_t>(job.scales)[at.number] = half;
    plane<std::uint16_t>(job.seconds)[at.number] = half_minimum;
  }
  static ONNXQUANT_INLINE float small(float x, float unit) { return clipped(rounded(quotient(x, unit)), 0.0f, kMost); }

  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    const float d = from_half(plane<const std::uint16_t>(job.scales)[at.number]);
    const float dmin = from_half(plane<const std::uint16_t>(job.seconds)[at.number]);
    for (int i = 0; i < count; i += 16) {
      const std::int64_t sub_block = 8 * at.number + (from + i) / 32;
      const F step = splat(d * plane<const std::uint8_t>(job.subscales)[sub_block]);
      const F shift = splat(dmin * plane<const std::uint8_t>(job.subminima)[sub_block]);
      store(y + i, sub(mul(load_codes(codes + i), step), shift));
    }
  }
};

struct Q6K {
  using Code = std::uint8_t;
  static constexpr int kUnit = 256;
  const EncodeJob& job;

  // Scale of 16 weights by least squares, the best of 17 grids.
  static ONNXQUANT_INLINE float search(const float* from) {
    const F x = load(from);
    const float top = extreme(from, 16);
    float scale = top / -32.0f, gain = -1.0f;
    for (int t = -8; t <= 8; ++t) {
      const F q = clip(round_even(mul(x, splat(quotient(-(32.0f + static_cast<float>(t) / 2.0f), top)))), -32.0f, 31.0f);
      const float nn = sum(mul(q, q)), sqx = sum(mul(x, q));
      if (!(nn > 0)) continue;
      const float g = (sqx * sqx) / nn;
      if (g > gain) {
        scale = sqx / nn;
        gain = g;
      }
    }
    return scale;
  }

  ONNXQUANT_INLINE void quantize(const float* x, const Group& at, Code* codes) const {
    float scales[16];
    for (int s = 0; s < 16; ++s) scales[s] = search(x + 16 * s);
    const std::uint16_t half = lasting_half(extreme(scales, 16) / -128.0f);
    const float d = from_half(half);
    for (int s = 0; s < 16; ++s) {
      const float sc = clipped(rounded(quotient(scales[s], d)), -128.0f, 127.0f);
      const F inverse = splat(quotient(1.0f, d * sc));
      const F q = clip(round_even(mul(load(x + 16 * s), inverse)), -32.0f, 31.0f);
      store_codes(codes + 16 * s, add(q, splat(32.0f)));
      plane<std::int8_t>(job.subscales)[16 * at.number + s] = static_cast<std::int8_t>(sc);
    }
    plane<std::uint16_t>(job.scales)[at.number] = half;
  }
  ONNXQUANT_INLINE void dequantize(const Code* codes, const Group& at, std::int64_t from, int count, float* y) const {
    const float d = from_half(plane<const std::uint16_t>(job.scales)[at.number]);
    for (int i = 0; i < count; i += 16) {
      const std::int8_t sc = plane<const std::int8_t>(job.subscales)[16 * at.number + (from + i) / 16];
      store(y + i, mul(sub(load_codes(codes + i), splat(32.0f)), splat(d * sc)));
    }
  }
};
