// The product of activation rows with tiles of 16 channels, and the rounding of those rows.
//
// No include guard: each instruction set includes this inside its own namespace, after its wrapper, so that everything
// is compiled, and inlined, for that instruction set alone. The wrapper defines:
//   kLanes                    channels per vector
//   kRowsAtOnce, vectors_at_once(rows, bits)   what fits its registers: rows, and vectors of channels for so many rows
//   Floats, Ints, Codes       vectors of float, of int32, and of 4 code bytes per lane
//   field, merge, lookup      one field of packed codes; low and high bits put together; codes that index 16 bytes
//   Dot<bits>                 begin(sum), add<group>(partial, codes, activations from group 0 on), end(sum, partial):
//                             exact int32 sums over at most kGroups groups of 4; kOffset is what add() takes off codes;
//                             kExact says that any byte is a code and a sum is its own partial one
//   LargestMagnitude, Rounder the two passes over 16 activations
// Every float operation of int8 compute is the same, in the same order, on each instruction set and for each number of
// rows, so its results are equal to the bit. (multiply_add is for float compute: it may or may not round the product.)

// ---- activations ----

// What the upper half of a table's integers is stored above.
constexpr std::int32_t kTableOffset = 128;

// Below this the scale or its inverse would leave the range of normal floats; such a block counts as zero.
constexpr float kSmallestMagnitude = 1.5e-36f;
constexpr std::int32_t kInfinityBits = 0x7f800000;

// What the codes of zero are above zero.
inline std::int32_t offset_of(const Format& format) {
  return format.values == Values::kOffset ? 1 << (format.bits - 1) : 0;
}

inline void clear(std::int8_t* codes, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) codes[k] = 0;
}

// One block: `count` values, up to `block` codes.
template <int kBits>
inline void quantize_block(const float* x, std::int64_t count, std::int64_t block, std::int8_t* codes, float* scale,
                           std::int32_t* sum) {
  const std::int64_t whole = count & ~std::int64_t{15};
  float tail[16] = {};
  for (std::int64_t k = whole; k < count; ++k) tail[k - whole] = x[k];

  LargestMagnitude largest;
  for (std::int64_t k = 0; k < whole; k += 16) largest.add(x + k);
  if (whole < count) largest.add(tail);
  const std::int32_t bits = largest.reduce();
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof magnitude);

  *sum = 0;
  if (bits >= kInfinityBits || magnitude < kSmallestMagnitude) {
    clear(codes, block);
    const std::int32_t nan_or_zero = bits >= kInfinityBits ? 0x7fc00000 : 0;
    std::memcpy(scale, &nan_or_zero, sizeof nan_or_zero);
    return;
  }
  Rounder<kBits> rounder(127.0f / magnitude);
  for (std::int64_t k = 0; k < whole; k += 16) rounder.put(x + k, codes + k);
  if (whole < block) {
    rounder.put(tail, codes + whole);
    clear(codes + whole + 16, block - whole - 16);
  }
  *scale = magnitude / 127.0f;
  *sum = rounder.reduce();
}

// What the sum of a block's activations is multiplied with before codes times activations are added to it: the codes'
// offset, but for what the products take off by themselves.
inline std::int32_t start_offset(const Format& format) {
  if (format.values == Values::kTable) return Dot<8>::kOffset - kTableOffset;
  return (format.bits == 8 ? Dot<8>::kOffset : 0) - offset_of(format);
}

template <int kBits>
void quantize_row(const Weights& weights, const float* x, const QuantizedRows& rows, std::int64_t row) {
  const std::int32_t offset = start_offset(*weights.format);
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    const std::int64_t first = b * weights.block;
    const std::int64_t rest = weights.K - first;
    const std::int64_t at = row * rows.block_stride + b;
    std::int32_t sum;
    quantize_block<kBits>(x + first, rest < weights.block ? rest : weights.block, weights.block,
                          rows.codes + row * rows.code_stride + first, rows.scales + at, &sum);
    rows.starts[at] = offset * sum;
    rows.totals[at] = rows.scales[at] * static_cast<float>(sum);
  }
}

// ---- scales and minima ----

constexpr int kHalfScales = 0, kFixedScales = 1, kAnyScales = 2;
constexpr int kScalesAhead = 16;  // blocks

// Lanes of a plane that has one value per channel, row or block.
inline std::int64_t side_at(const Weights& weights, std::int64_t tile, std::int64_t group, int lane) {
  return (tile * weights.groups + group) * kTileChannels + lane;
}

inline Floats load_scales(const Weights& weights, std::int64_t tile, std::int64_t group, int lane) {
  if (weights.granularity == kPerTensor) {
    float scale;
    if (weights.format->scale_type == ScaleType::kFloat) {
      std::memcpy(&scale, weights.scales, sizeof scale);
    } else {
      std::uint16_t half;
      std::memcpy(&half, weights.scales, sizeof half);
      scale = half_to_float(half);
    }
    return splat(scale);
  }
  const std::int64_t at = side_at(weights, tile, group, lane);
  if (weights.format->scale_type == ScaleType::kFloat) return load(static_cast<const float*>(weights.scales) + at);
  if (weights.format->scale_type == ScaleType::kHalf) {
    return load_half(static_cast<const std::uint16_t*>(weights.scales) + at);
  }
  float nested[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const std::int64_t n = tile * kTileChannels + lane + i;
    // The channels that pad N have no nested scale of their own.
    const std::int64_t flat = (n < weights.N ? n : weights.N - 1) * weights.groups + group;
    float outer, offset;
    std::memcpy(&outer, weights.nested_scales + flat / kNested, sizeof outer);
    std::memcpy(&offset, weights.nested_offset, sizeof offset);
    const float own = tables::kDynamic8Values[static_cast<const std::uint8_t*>(weights.scales)[at + i]];
    nested[i] = own * outer + offset;
  }
  return load(nested);
}

// Zero points or minima of a group as what is added to code * scale.
inline Floats load_minima(const Weights& weights, std::int64_t tile, std::int64_t group, int lane, Floats scale) {
  const bool tensor = weights.granularity == kPerTensor;
  const std::int64_t at = tensor ? 0 : side_at(weights, tile, group, lane);
  const auto half = [&](const void* plane) {
    const auto* halves = static_cast<const std::uint16_t*>(plane);
    if (!tensor) return load_half(halves + at);
    std::uint16_t one;
    std::memcpy(&one, halves, sizeof one);
    return splat(half_to_float(one));
  };
  switch (weights.format->side) {
    case Side::kMinima: return half(weights.minima);
    case Side::kZeroHalves: return negate(multiply(half(weights.zero_points), scale));
    case Side::kZeroCodes: {
      const auto* codes = static_cast<const std::uint8_t*>(weights.zero_points);
      return negate(multiply(tensor ? splat(static_cast<float>(codes[0])) : load_bytes(codes + at), scale));
    }
    default: return splat(0.0f);
  }
}

// Bytes of 16 channels at once: ggml's packing of eight 6-bit scales and minima in 12 bytes.
struct SixBits {
  std::uint8_t scales[8][kTileChannels], minima[8][kTileChannels];
  explicit SixBits(const std::uint8_t* packed) {
    constexpr std::uint64_t kLow4 = 0x0f0f0f0f0f0f0f0f, kLow6 = 0x3f3f3f3f3f3f3f3f, kTop2 = 0x3030303030303030;
    for (int j = 0; j < 4; ++j) {
      for (int half = 0; half < kTileChannels; half += 8) {
        std::uint64_t a, b, c;
        std::memcpy(&a, packed + j * kTileChannels + half, 8);
        std::memcpy(&b, packed + (j + 4) * kTileChannels + half, 8);
        std::memcpy(&c, packed + (j + 8) * kTileChannels + half, 8);
        const std::uint64_t values[] = {a & kLow6, b & kLow6, (c & kLow4) | (a >> 2 & kTop2),
                                        (c >> 4 & kLow4) | (b >> 2 & kTop2)};
        std::memcpy(scales[j] + half, values, 8);
        std::memcpy(minima[j] + half, values + 1, 8);
        std::memcpy(scales[j + 4] + half, values + 2, 8);
        std::memcpy(minima[j + 4] + half, values + 3, 8);
      }
    }
  }
};

// Scales and minima of some blocks of a tile as floats: those of one super-block, or of as many blocks.
struct SideSpan {
  static constexpr std::int64_t kBlocks = 16;
  alignas(64) float scales[kBlocks][kTileChannels];
  alignas(64) float minima[kBlocks][kTileChannels];

  static std::int64_t length(const Weights& weights) { return weights.format->side == Side::kSixBits ? 8 : kBlocks; }

  // Blocks [b, b + count), b a multiple of length().
  void fill(const Weights& weights, std::int64_t tile, std::int64_t b, std::int64_t count) {
    const Side side = weights.format->side;
    if (side == Side::kSixBits) {
      const std::int64_t super = b / 8;
      const SixBits factors(weights.factors + (tile * weights.groups + super) * kSixBitBytes * kTileChannels);
      const std::int64_t at = side_at(weights, tile, super, 0);
      for (int lane = 0; lane < kTileChannels; lane += kLanes) {
        const Floats scale = load_half(static_cast<const std::uint16_t*>(weights.scales) + at + lane);
        const Floats minimum = negate(load_half(weights.minima + at + lane));
        for (int j = 0; j < count; ++j) {
          store(scales[j] + lane, multiply(scale, load_bytes(factors.scales[j] + lane)));
          store(minima[j] + lane, multiply(minimum, load_bytes(factors.minima[j] + lane)));
        }
      }
      return;
    }
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      if (side == Side::kSignedFactors) {
        const std::int64_t at = side_at(weights, tile, b / 16, lane);
        const Floats scale = load_half(static_cast<const std::uint16_t*>(weights.scales) + at);
        const std::uint8_t* factors = weights.factors + (tile * weights.groups * 16 + b) * kTileChannels + lane;
        for (int j = 0; j < count; ++j) {
          store(scales[j] + lane, multiply(scale, load_signed_bytes(factors + j * kTileChannels)));
        }
        continue;
      }
      for (int j = 0; j < count; ++j) {
        const std::int64_t group = weights.granularity == kPerBlock ? (b + j) >> weights.group_shift : 0;
        const Floats scale = load_scales(weights, tile, group, lane);
        if (weights.format->has_minimum()) {
          store(minima[j] + lane, load_minima(weights, tile, group, lane, scale));
        }
        store(scales[j] + lane, scale);
      }
    }
  }
};

// ---- codes ----

// Where the codes of one lane vector of a tile are.
struct CodePointers {
  const std::uint8_t* low;
  const std::uint8_t* high;
};

inline CodePointers codes_at(const Weights& weights, std::int64_t tile, int lane) {
  const std::uint8_t* high =
      weights.high_vectors == 0 ? nullptr : weights.high + tile * weights.high_vectors * kVectorBytes + 4 * lane;
  return {weights.codes + tile * weights.vectors * kVectorBytes + 4 * lane, high};
}

constexpr int low_bits(int bits) { return bits == 5 || bits == 6 ? 4 : bits == 3 ? 2 : bits; }
constexpr int high_bits(int bits) { return bits - low_bits(bits); }

// The next 4 weights of each lane, number kGroup of a chunk: whole codes, one per byte.
template <int kBits, int kGroup>
ONNXQUANT_INLINE Codes code_group(const CodePointers& at) {
  constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits), kFields = 8 / kLow;
  constexpr int kVector = kGroup / kFields, kField = kGroup % kFields;
  const Codes low = field<kLow, kField>(load_codes(at.low + kVector * kVectorBytes));
  if constexpr (kHigh == 0) {
    return low;
  } else {
    constexpr int kPerWord = 8 / kHigh;  // groups in a vector of high bits
    return merge<kHigh, kHigh * (kGroup % kPerWord), kLow>(low, load_codes(at.high + kGroup / kPerWord * kVectorBytes));
  }
}

template <int kBits>
ONNXQUANT_INLINE void advance(CodePointers& at, int weights) {
  at.low += weights * low_bits(kBits) / 32 * kVectorBytes;
  if constexpr (high_bits(kBits) > 0) at.high += weights * high_bits(kBits) / 32 * kVectorBytes;
}

// ---- int8 ----

// Exact sums of weights times activations for some rows and vectors of channels: one block at a time. They begin with what
// quantize_row put into `starts`.
template <int kBits, int kRows, int kVectors>
struct Sums {
  using D = Dot<kBits>;
  // A single row leaves each field of the codes where it is, a power of two too large, and has a sum for each field: the
  // shifts are then done once per block. More rows share them anyway, and need the registers.
  static constexpr bool kInPlace = D::kExact && kRows == 1 && (kBits == 4 || kBits == 2);
  static constexpr int kFields = kInPlace ? 8 / kBits : 1;
  Ints sum[kVectors][kRows][kFields];
  typename D::Partial partial[kVectors][kRows];

  explicit Sums(const Weights&) {}

  ONNXQUANT_INLINE void start(const std::int32_t* starts, std::int64_t stride) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sum[v][r][0] = splat_int(starts[r * stride]);
        for (int f = 1; f < kFields; ++f) sum[v][r][f] = splat_int(0);
      }
    }
  }

  // Step kGroup of a chunk, then the next; partial sums are widened before they could overflow.
  template <int kGroup, int kEnd>
  ONNXQUANT_INLINE void add_groups(const CodePointers (&codes)[kVectors], const std::int8_t* const (&x)[kRows],
                                   std::int64_t k) {
    if constexpr (kGroup < kEnd) {
      if constexpr (kInPlace) {
        add_in_place<kGroup>(codes, x[0] + k);
      } else {
        add_group<kGroup, kEnd>(codes, x, k);
      }
      add_groups<kGroup + 1, kEnd>(codes, x, k);
    }
  }

  // All fields of the vector of codes that step kGroup begins.
  template <int kGroup>
  ONNXQUANT_INLINE void add_in_place(const CodePointers (&codes)[kVectors], const std::int8_t* x) {
    if constexpr (kGroup % kFields == 0) {
      for (int v = 0; v < kVectors; ++v) {
        const Codes packed = in_register(load_codes(codes[v].low + kGroup / kFields * kVectorBytes));
        add_fields<kGroup, 0>(sum[v][0], packed, x);
      }
    }
  }

  template <int kGroup, int kField>
  static ONNXQUANT_INLINE void add_fields(Ints (&sums)[kFields], Codes packed, const std::int8_t* x) {
    if constexpr (kField < kFields) {
      D::template add<kGroup + kField>(sums[kField], masked<kBits, kField>(packed), x);
      add_fields<kGroup, kField + 1>(sums, packed, x);
    }
  }

  template <int kGroup, int kEnd>
  ONNXQUANT_INLINE void add_group(const CodePointers (&codes)[kVectors], const std::int8_t* const (&x)[kRows],
                                  std::int64_t k) {
    if constexpr (kGroup % D::kGroups == 0) {
      for (int v = 0; v < kVectors; ++v) {
        for (int r = 0; r < kRows; ++r) partial[v][r] = D::begin(sum[v][r][0]);
      }
    }
    Codes one[kVectors];
    for (int v = 0; v < kVectors; ++v) one[v] = code_group<kBits, kGroup>(codes[v]);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) D::template add<kGroup>(partial[v][r], one[v], x[r] + k);
    }
    if constexpr ((kGroup + 1) % D::kGroups == 0 || kGroup + 1 == kEnd) {
      for (int v = 0; v < kVectors; ++v) {
        for (int r = 0; r < kRows; ++r) sum[v][r][0] = D::end(sum[v][r][0], partial[v][r]);
      }
    }
  }

  ONNXQUANT_INLINE Ints result(int v, int r) const {
    Ints out = sum[v][r][0];
    if constexpr (kFields > 1) out = add_int(out, shift_right<kBits>(sum[v][r][1]));
    if constexpr (kFields > 2) {
      out = add_int(out, shift_right<2 * kBits>(sum[v][r][2]));
      out = add_int(out, shift_right<3 * kBits>(sum[v][r][3]));
    }
    return out;
  }
};

// Codes of 4 bits that choose from a table: its integers in two parts, 128 * upper + lower.
template <int kRows, int kVectors>
struct Sums<kTable, kRows, kVectors> {
  using Upper = Dot<8>;
  using Lower = Dot<7>;
  Ints upper[kVectors][kRows], lower[kVectors][kRows];
  Lookup upper_bytes, lower_bytes;

  explicit Sums(const Weights& weights) {
    std::uint8_t above[16], below[16];
    for (int i = 0; i < 16; ++i) {
      const int fine = weights.format->table->fine[i];
      above[i] = static_cast<std::uint8_t>((fine >> 7) + kTableOffset);
      below[i] = static_cast<std::uint8_t>(fine & 127);
    }
    upper_bytes = make_lookup(above);
    lower_bytes = make_lookup(below);
  }

  ONNXQUANT_INLINE void start(const std::int32_t* starts, std::int64_t stride) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        upper[v][r] = splat_int(starts[r * stride]);
        lower[v][r] = splat_int(0);
      }
    }
  }

  template <int kGroup, int kEnd>
  ONNXQUANT_INLINE void add_groups(const CodePointers (&codes)[kVectors], const std::int8_t* const (&x)[kRows],
                                   std::int64_t k) {
    if constexpr (kGroup < kEnd) {
      for (int v = 0; v < kVectors; ++v) {
        const Codes one = code_group<4, kGroup>(codes[v]);
        const Codes above = lookup(upper_bytes, one), below = lookup(lower_bytes, one);
        for (int r = 0; r < kRows; ++r) {
          add_one<Upper, kGroup>(upper[v][r], above, x[r] + k);
          add_one<Lower, kGroup>(lower[v][r], below, x[r] + k);
        }
      }
      add_groups<kGroup + 1, kEnd>(codes, x, k);
    }
  }
  template <class D, int kGroup>
  static ONNXQUANT_INLINE void add_one(Ints& sum, Codes codes, const std::int8_t* x) {
    typename D::Partial partial = D::begin(sum);
    D::template add<kGroup>(partial, codes, x);
    sum = D::end(sum, partial);
  }

  ONNXQUANT_INLINE Ints result(int v, int r) const { return add_int(shift_left<7>(upper[v][r]), lower[v][r]); }
};

constexpr int kVectorsPerTile = static_cast<int>(kTileChannels) / kLanes;

struct Int8Call {
  const Weights& weights;
  const QuantizedRows& rows;
  std::int64_t tile;  // of the first lane vector
  std::int64_t row;
  float* out;
  bool fetch;  // the weights of the tiles that come next
};

// Asks for the same blocks of the tiles that come next. With several rows, products take long enough to hide that, and the
// CPU's own prefetching begins anew with every tile of a small K.
template <int kWeights, int kBits>
ONNXQUANT_INLINE void fetch_next(const Weights& weights, const CodePointers& at) {
  constexpr int kLow = kWeights * low_bits(kBits) / 32, kHigh = kWeights * high_bits(kBits) / 32;
  const std::uint8_t* low = at.low + kMostTiles * weights.vectors * kVectorBytes;
  for (int line = 0; line < kLow; ++line) ONNXQUANT_PREFETCH(low + line * kVectorBytes);
  if constexpr (kHigh > 0) {
    const std::uint8_t* high = at.high + kMostTiles * weights.high_vectors * kVectorBytes;
    for (int line = 0; line < kHigh; ++line) ONNXQUANT_PREFETCH(high + line * kVectorBytes);
  }
}

// kRows rows times kVectors lane vectors, the first of which is number `first` of the call's tiles. kBlock is the block of
// activations where it is known, else 0.
template <int kBits, int kScales, bool kMinimum, int kBlock, int kRows, int kVectors>
ONNXQUANT_NOINLINE void int8_rows(const Int8Call& call, int first) {
  const Weights& weights = call.weights;
  const QuantizedRows& rows = call.rows;
  constexpr int kWidth = kBits == kTable ? 4 : kBits, kChunk = kBlock == 16 ? 16 : 32;
  CodePointers codes[kVectors];
  std::int64_t tile[kVectors];
  int lane[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    tile[v] = call.tile + (first + v) / kVectorsPerTile;
    lane[v] = (first + v) % kVectorsPerTile * kLanes;
    codes[v] = codes_at(weights, tile[v], lane[v]);
  }
  const std::int8_t* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = rows.codes + (call.row + r) * rows.code_stride;
  const std::int64_t at = call.row * rows.block_stride;

  Sums<kBits, kRows, kVectors> sums(weights);
  const Floats unit = splat(kBits == kTable ? weights.format->table->unit : 1.0f);

  Floats total[kVectors][kRows], fixed[kVectors];
  const std::uint16_t* halves[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    halves[v] = static_cast<const std::uint16_t*>(weights.scales) + side_at(weights, tile[v], 0, lane[v]);
    for (Floats& value : total[v]) value = splat(0.0f);
    if constexpr (kScales == kFixedScales) fixed[v] = load_scales(weights, tile[v], 0, lane[v]);
  }
  // Vectors come in powers of two: they are parts of one tile, or whole tiles.
  constexpr int kTiles = kVectors > kVectorsPerTile ? kVectors / kVectorsPerTile : 1;
  SideSpan spans[kScales == kAnyScales ? kTiles : 1];
  const std::int64_t span = kScales == kAnyScales ? SideSpan::length(weights) : 1;
  std::int64_t k = 0;
  for (std::int64_t b = 0; b < weights.blocks; ++b) {
    const std::int64_t in_span = b & (span - 1);
    if (kScales == kAnyScales && in_span == 0) {
      const std::int64_t rest = weights.blocks - b;
      for (int t = 0; t < kTiles; ++t) spans[t].fill(weights, tile[0] + t, b, rest < span ? rest : span);
    }
    if constexpr (kScales == kHalfScales && kRows == 1) {
      // Scales are a stream beside the codes: asked for some lines at a time, memory switches less between the two.
      if (b % kScalesAhead == 0) {
        for (int line = 0; line < kScalesAhead / 2; ++line) {
          ONNXQUANT_PREFETCH(halves[0] + (b + kScalesAhead) * kTileChannels + line * 32);
        }
      }
    }
    sums.start(rows.starts + at + b, rows.block_stride);
    const std::int64_t end = k + (kBlock > 0 ? kBlock : weights.block);
    do {
      if (kRows > 1 && call.fetch) {
        for (int v = 0; v < kVectors; v += kVectorsPerTile) fetch_next<kChunk, kWidth>(weights, codes[v]);
      }
      sums.template add_groups<0, kChunk / 4>(codes, x, k);
      for (CodePointers& pointers : codes) advance<kWidth>(pointers, kChunk);
      k += kChunk;
    } while (kBlock != kChunk && k < end);
    for (int v = 0; v < kVectors; ++v) {
      Floats scale, minimum;
      if constexpr (kScales == kHalfScales) {
        scale = load_half(halves[v] + (b >> weights.group_shift) * kTileChannels);
      } else if constexpr (kScales == kFixedScales) {
        scale = fixed[v];
      } else {
        const SideSpan& of_tile = spans[v / kVectorsPerTile];
        scale = load(of_tile.scales[in_span] + lane[v]);
        if constexpr (kMinimum) minimum = load(of_tile.minima[in_span] + lane[v]);
      }
      if constexpr (kBits == kTable) scale = multiply(scale, unit);
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t x_at = at + r * rows.block_stride + b;
        // The weight's scale first: the product of two small scales could be flushed to zero.
        const Floats scaled = multiply(to_float(sums.result(v, r)), scale);
        total[v][r] = add(total[v][r], multiply(scaled, splat(rows.scales[x_at])));
        if constexpr (kMinimum) total[v][r] = add(total[v][r], multiply(splat(rows.totals[x_at]), minimum));
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int r = 0; r < kRows; ++r) store(call.out + r * kMostChannels + (first + v) * kLanes, total[v][r]);
  }
}

template <int kBits, int kScales, bool kMinimum, int kBlock, int kRows, int kVectors>
inline void int8_vectors(const Int8Call& call, int first, int count) {
  for (; count >= kVectors; count -= kVectors, first += kVectors) {
    int8_rows<kBits, kScales, kMinimum, kBlock, kRows, kVectors>(call, first);
  }
  // Parts of a tile leave nothing over, whole tiles may.
  if constexpr (kVectors > kVectorsPerTile) {
    int8_vectors<kBits, kScales, kMinimum, kBlock, kRows, kVectors / 2>(call, first, count);
  }
}

// kRows rows at a time, then what is left in smaller steps.
template <int kBits, int kScales, bool kMinimum, int kBlock, int kRows = kRowsAtOnce>
inline void int8_all_rows(Int8Call call, int vectors, int rows) {
  for (; rows >= kRows; rows -= kRows, call.row += kRows, call.out += kRows * kMostChannels) {
    int8_vectors<kBits, kScales, kMinimum, kBlock, kRows, vectors_at_once(kRows, kBits)>(call, 0, vectors);
    call.fetch = false;
  }
  if constexpr (kRows > 1) int8_all_rows<kBits, kScales, kMinimum, kBlock, kRows / 2>(call, vectors, rows);
}

template <int kBits, int kScales, bool kMinimum, int kBlock>
void int8_tiles(const Weights& weights, const QuantizedRows& rows, std::int64_t tile, int tiles, std::int64_t row,
                int count, float* out) {
  const int vectors = tiles * kVectorsPerTile;
  int8_all_rows<kBits, kScales, kMinimum, kBlock>(Int8Call{weights, rows, tile, row, out, true}, vectors, count);
}

// ---- float ----

// Code k of each lane, its low and high bits put together.
template <int kBits>
inline Ints code_at(const CodePointers& at, std::int64_t k) {
  constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits), kStep = 32 / kLow;
  const int within = static_cast<int>(k % kStep);
  const Ints low = bits_of<kLow>(load_codes(at.low + k / kStep * kVectorBytes), within * kLow);
  if constexpr (kHigh == 0) {
    return low;
  } else {
    constexpr int kWord = 32 / kHigh, kFields = 8 / kLow;
    const int byte = within / kFields, field = static_cast<int>(k % kWord / kStep) * kFields + within % kFields;
    const Ints high = bits_of<kHigh>(load_codes(at.high + k / kWord * kVectorBytes), 8 * byte + kHigh * field);
    return add_int(low, shift_left<kLow>(high));
  }
}

// Codes around an offset, scaled, and a minimum added.
template <int kBits>
void decode_codes(const Weights& weights, std::int64_t tile, std::int64_t first, std::int64_t count, float* panel) {
  const Ints offset = splat_int(-offset_of(*weights.format));
  const bool minimum = weights.format->has_minimum();
  const std::int64_t length = SideSpan::length(weights);
  SideSpan span;
  for (std::int64_t k = first; k < first + count;) {
    const std::int64_t b = k / weights.block;
    if (k == first || b % length == 0) {
      const std::int64_t from = b / length * length, rest = weights.blocks - from;
      span.fill(weights, tile, from, rest < length ? rest : length);
    }
    const std::int64_t end = (b + 1) * weights.block < first + count ? (b + 1) * weights.block : first + count;
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      const CodePointers at = codes_at(weights, tile, lane);
      const Floats scale = load(span.scales[b % length] + lane);
      const Floats low = minimum ? load(span.minima[b % length] + lane) : splat(0.0f);
      for (std::int64_t i = k; i < end; ++i) {
        const Floats value = multiply(to_float(add_int(code_at<kBits>(at, i), offset)), scale);
        store(panel + (i - first) * kTileChannels + lane, minimum ? add(value, low) : value);
      }
    }
    k = end;
  }
}

// Entries of a table, scaled.
template <int kBits>
void decode_table(const Weights& weights, std::int64_t tile, std::int64_t first, std::int64_t count, float* panel) {
  const float* table = weights.format->table->values;
  for (int lane = 0; lane < kTileChannels; lane += kLanes) {
    const CodePointers at = codes_at(weights, tile, lane);
    for (std::int64_t k = first; k < first + count;) {
      const std::int64_t b = k / weights.block;
      const std::int64_t group = weights.granularity == kPerBlock ? b >> weights.group_shift : 0;
      const Floats scale = load_scales(weights, tile, group, lane);
      const std::int64_t end = (b + 1) * weights.block < first + count ? (b + 1) * weights.block : first + count;
      for (; k < end; ++k) {
        const Floats value = multiply(table_floats<kBits>(table, code_at<kBits>(at, k)), scale);
        store(panel + (k - first) * kTileChannels + lane, value);
      }
    }
  }
}

template <bool kBfloat>
void decode_floats(const Weights& weights, std::int64_t tile, std::int64_t first, std::int64_t count, float* panel) {
  const auto* values =
      reinterpret_cast<const std::uint16_t*>(weights.codes) + (tile * weights.padded_k() + first) * kTileChannels;
  for (std::int64_t i = 0; i < count * kTileChannels; i += kLanes) {
    store(panel + i, kBfloat ? load_bfloat(values + i) : load_half(values + i));
  }
}

// Two sums per row, of the weights at even and at odd places: a single one would wait for every addition.
template <bool kSigned, int kRows>
inline void panel_rows(const float* panel, std::int64_t count, const float* x, std::int64_t stride, int lane, float* sums) {
  Floats sum[2][kRows];
  for (int r = 0; r < kRows; ++r) {
    sum[0][r] = load(sums + r * kTileChannels + lane);
    sum[1][r] = splat(0.0f);
  }
  const auto step = [&](std::int64_t k, Floats (&into)[kRows]) {
    const Floats weight = load(panel + k * kTileChannels + lane);
    for (int r = 0; r < kRows; ++r) {
      const Floats value = splat(x[r * stride + k]);
      into[r] = kSigned ? add(into[r], with_sign(value, weight)) : multiply_add(weight, value, into[r]);
    }
  };
  std::int64_t k = 0;
  for (; k + 2 <= count; k += 2) {
    step(k, sum[0]);
    step(k + 1, sum[1]);
  }
  if (k < count) step(k, sum[0]);
  for (int r = 0; r < kRows; ++r) store(sums + r * kTileChannels + lane, add(sum[0][r], sum[1][r]));
}

template <bool kSigned, int kRows = kFloatRowsAtOnce>
inline void panel_all_rows(const float* panel, std::int64_t count, FloatRows x, std::int64_t rows, float* sums) {
  for (; rows >= kRows; rows -= kRows, x.values += kRows * x.stride, sums += kRows * kTileChannels) {
    for (int lane = 0; lane < kTileChannels; lane += kLanes) {
      panel_rows<kSigned, kRows>(panel, count, x.values, x.stride, lane, sums);
    }
  }
  if constexpr (kRows > 1) panel_all_rows<kSigned, kRows / 2>(panel, count, x, rows, sums);
}

void multiply_panel(const float* panel, std::int64_t count, const FloatRows& x, std::int64_t rows, float* sums) {
  panel_all_rows<false>(panel, count, x, rows, sums);
}

void add_signed_panel(const float* panel, std::int64_t count, const FloatRows& x, std::int64_t rows, float* sums) {
  panel_all_rows<true>(panel, count, x, rows, sums);
}

// ---- float16 ----

void widen(const std::uint16_t* half, float* out, std::int64_t count) {
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store(out + at, load_half(half + at));
  for (; at < count; ++at) out[at] = half_to_float(half[at]);
}

void narrow(const float* values, std::uint16_t* out, std::int64_t count) {
  std::int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) store_half(out + at, load(values + at));
  for (; at < count; ++at) out[at] = float_to_half(values[at]);
}

// ---- selection ----

QuantizeRow select_quantize(int low) { return low == 8 ? quantize_row<8> : low == 4 ? quantize_row<4> : quantize_row<2>; }

template <int kBits, int kBlock>
Int8Tiles select_scales(const Weights& weights) {
  if (weights.format->has_minimum()) return int8_tiles<kBits, kAnyScales, true, kBlock>;
  if (weights.granularity != kPerBlock) return int8_tiles<kBits, kFixedScales, false, kBlock>;
  const bool plain = weights.format->side == Side::kNone && weights.format->scale_type == ScaleType::kHalf;
  return plain ? int8_tiles<kBits, kHalfScales, false, kBlock> : int8_tiles<kBits, kAnyScales, false, kBlock>;
}

template <int kBits>
Int8Tiles select_block(const Weights& weights) {
  return weights.block == 32 ? select_scales<kBits, 32>(weights) : select_scales<kBits, 0>(weights);
}

template <int kBits>
Int8Tiles select_any_block(const Weights& weights) {
  return weights.block == 16 ? select_scales<kBits, 16>(weights) : select_block<kBits>(weights);
}

Int8Tiles select_int8_tiles(const Weights& weights) {
  if (weights.format->values == Values::kTable) return int8_tiles<kTable, kAnyScales, false, 0>;
  switch (weights.format->bits) {
    case 8: return select_any_block<8>(weights);
    case 6: return select_any_block<6>(weights);
    case 5: return select_block<5>(weights);
    case 4: return select_any_block<4>(weights);
    case 3: return select_block<3>(weights);
    default: return select_any_block<2>(weights);
  }
}

DecodePanel select_decode(const Weights& weights) {
  switch (weights.format->values) {
    case Values::kHalf: return decode_floats<false>;
    case Values::kBfloat: return decode_floats<true>;
    case Values::kTable: return weights.format->bits == 4 ? decode_table<4> : decode_table<8>;
    default: break;
  }
  switch (weights.format->bits) {
    case 8: return decode_codes<8>;
    case 6: return decode_codes<6>;
    case 5: return decode_codes<5>;
    case 4: return decode_codes<4>;
    case 3: return decode_codes<3>;
    default: return decode_codes<2>;
  }
}

constexpr KernelTable table_of(const char* name, bool (*usable)(), ManyRows (*many_rows)(const Weights&) = nullptr) {
  return {name,           usable,           select_quantize, select_int8_tiles, select_decode,
          multiply_panel, add_signed_panel, widen,           narrow,            many_rows};
}
