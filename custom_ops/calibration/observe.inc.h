// Included inside an instruction set's namespace. Squares of floats are exact as doubles, so the bits are the same
// everywhere.

// Sixteen floats, and what is known of those seen in each lane. Vectors where the compiler has them as types: it does not
// keep arrays in registers across iterations.
#if defined(__GNUC__)
typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef double Doubles __attribute__((vector_size(kVectorBytes)));
typedef float HalfFloats __attribute__((vector_size(kVectorBytes / 2)));
constexpr int kVectors = 64 / kVectorBytes;

struct Lanes {
  Floats low[kVectors], high[kVectors];
  Doubles total[2 * kVectors], squares[2 * kVectors];

  ONNXQUANT_INLINE void see(const float* from) {
    for (int i = 0; i < kVectors; ++i) {
      Floats x;
      std::memcpy(&x, from + i * kLanes / kVectors, sizeof x);
      low[i] = x < low[i] ? x : low[i];
      high[i] = x > high[i] ? x : high[i];
    }
    for (int i = 0; i < 2 * kVectors; ++i) {
      HalfFloats part;
      std::memcpy(&part, from + i * kLanes / (2 * kVectors), sizeof part);
      const Doubles wide = __builtin_convertvector(part, Doubles);
      total[i] += wide;
      squares[i] += wide * wide;
    }
  }
};
#else
struct Lanes {
  float low[kLanes], high[kLanes];
  double total[kLanes], squares[kLanes];

  ONNXQUANT_INLINE void see(const float* from) {
    for (int i = 0; i < kLanes; ++i) low[i] = from[i] < low[i] ? from[i] : low[i];
    for (int i = 0; i < kLanes; ++i) high[i] = from[i] > high[i] ? from[i] : high[i];
    for (int i = 0; i < kLanes; ++i) total[i] += static_cast<double>(from[i]);
    for (int i = 0; i < kLanes; ++i) squares[i] += static_cast<double>(from[i]) * static_cast<double>(from[i]);
  }
};
#endif

Moments measure(const float* values, std::int64_t count) {
  const float infinity = std::numeric_limits<float>::infinity();
  float low[kLanes], high[kLanes];
  double total[kLanes] = {}, squares[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) low[i] = infinity, high[i] = -infinity;
  Lanes lanes;
  std::memcpy(&lanes.low, low, sizeof low);
  std::memcpy(&lanes.high, high, sizeof high);
  std::memcpy(&lanes.total, total, sizeof total);
  std::memcpy(&lanes.squares, squares, sizeof squares);
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) lanes.see(values + at);
  std::memcpy(low, &lanes.low, sizeof low);
  std::memcpy(high, &lanes.high, sizeof high);
  std::memcpy(total, &lanes.total, sizeof total);
  std::memcpy(squares, &lanes.squares, sizeof squares);
  for (int i = 0; at + i < count; ++i) {
    const float x = values[at + i];
    low[i] = x < low[i] ? x : low[i];
    high[i] = x > high[i] ? x : high[i];
    total[i] += static_cast<double>(x);
    squares[i] += static_cast<double>(x) * static_cast<double>(x);
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      low[i] = low[i + half] < low[i] ? low[i + half] : low[i];
      high[i] = high[i + half] > high[i] ? high[i + half] : high[i];
      total[i] += total[i + half];
      squares[i] += squares[i + half];
    }
  }
  return {low[0], high[0], total[0], squares[0]};
}

// The bin of x: whole widths of its magnitude, k for values from zero up and ~k for negative ones.
inline std::int32_t bin(float x, float scale) {
  const std::int32_t k = static_cast<std::int32_t>((x < 0 ? -x : x) * scale);
  return (x < 0 ? ~k : k) + static_cast<std::int32_t>(kSide);
}

std::int64_t count_bins(const float* values, std::int64_t count, float scale, std::uint32_t (*counts)[2 * kSide]) {
  constexpr int kBatch = 256;
  std::int32_t bins[kBatch];
  std::int64_t zeros = 0;
  for (std::int64_t at = 0; at < count; at += kBatch) {
    const int here = static_cast<int>(count - at < kBatch ? count - at : kBatch);
    const float* from = values + at;
    std::int32_t none = 0;
    for (int i = 0; i < here; ++i) {
      bins[i] = bin(from[i], scale);
      none += from[i] == 0;
    }
    zeros += none;
    int i = 0;
    for (; i + kCopies <= here; i += kCopies) {
      for (int copy = 0; copy < kCopies; ++copy) ++counts[copy][bins[i + copy]];
    }
    for (; i < here; ++i) ++counts[0][bins[i]];
  }
  return zeros;
}
