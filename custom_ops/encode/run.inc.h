// Walks over a weight group by group: quantize, dequantize what was written, sum the errors, all while the group is in the
// first cache. Included inside an instruction set's namespace.

// Weights that are decoded at a time.
constexpr int kDecodeStep = 256;

inline std::int64_t unit_of(std::int64_t cols, std::int64_t group) { return group != 0 ? group : round_up(cols, 16); }
inline std::int64_t window_of(std::int64_t unit) { return unit < kWindow ? kWindow / unit * unit : unit; }

std::int64_t scratch_floats(std::int64_t cols, std::int64_t group) {
  const std::int64_t unit = unit_of(cols, group);
  return kRowsTogether * window_of(unit) + 2 * unit + kDecodeStep;
}

ONNXQUANT_INLINE void add_errors(const float* x, const float* y, std::int64_t count, Sums& sums) {
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) sums.add(load(x + i), load(y + i));
  if (i == count) return;
  float a[16] = {}, b[16] = {};
  for (int j = 0; i < count; ++i, ++j) {
    a[j] = x[i];
    b[j] = y[i];
  }
  sums.add(load(a), load(b));
}

// The form gets a copy that it may overwrite.
template <class Form>
constexpr bool kOverwrites = false;
template <>
constexpr bool kOverwrites<LlmInt8> = true;

// Forms of blocks of 32 that are prepared 16 at a time.
template <class Form>
constexpr bool kBatches = false;
template <int kBits>
constexpr bool kBatches<GgmlBlock<kBits, 32>> = true;
template <int kBits>
constexpr bool kBatches<Minimum<kBits>> = true;
template <Zero kZero>
constexpr bool kBatches<Affine<kZero, 32>> = true;

template <class Form>
struct Walk {
  using Code = typename Form::Code;
  const EncodeJob& job;
  const Form form;
  const std::int64_t unit, groups;
  float *tail, *decoded;
  Code* code_tail;

  Walk(const EncodeJob& of, float* scratch)
      : job(of), form{of}, unit(Form::kUnit ? Form::kUnit : unit_of(of.cols, of.group)), groups((of.cols + unit - 1) / unit) {
    tail = scratch + kRowsTogether * window_of(unit);
    decoded = tail + unit;
    code_tail = reinterpret_cast<Code*>(decoded + kDecodeStep);
  }

  // `count` weights of a row from column `first` on, which begins a group.
  template <Action kAction>
  ONNXQUANT_INLINE void columns(std::int64_t row, std::int64_t first, std::int64_t count, const float* x, Sums& sums) const {
    Code* codes = static_cast<Code*>(job.codes) + row * job.cols + first;
    Group at{row, first / unit, row * groups + first / unit, Form::kUnit ? Form::kUnit : static_cast<int>(unit)};
    Sums own = sums;  // in registers: nothing has its address
    std::int64_t k = 0;
    if constexpr (kAction == Action::kEncode && kBatches<Form>) {
      for (; k + 16 * 32 <= count; k += 16 * 32) batch(at, first + k, x + k, codes + k, own);
    }
    for (; k + unit <= count; k += unit, ++at.in_row, ++at.number) whole<kAction>(at, first + k, unit, x + k, codes + k, own);
    sums = own;
    if (k < count) partial<kAction>(at, first + k, count - k, x + k, codes + k, sums);
  }

  // 16 groups of 32, each step for all of them before the next: their latencies overlap.
  ONNXQUANT_INLINE void batch(Group& at, std::int64_t first, const float* x, Code* codes, Sums& sums) const {
    float low[16], high[16];
    Grid grids[16];
    ranges<Form::kPeak>(x, low, high);
    Group each = at;
    for (int g = 0; g < 16; ++g, ++each.in_row, ++each.number) grids[g] = form.prepare(low[g], high[g], x + 32 * g, each);
    for (int g = 0; g < 16; ++g) form.write(x + 32 * g, grids[g], codes + 32 * g);
    for (int g = 0; g < 16; ++g, ++at.in_row, ++at.number) {
      back<Action::kEncode>(at, first + 32 * g, 32, x + 32 * g, codes + 32 * g, sums);
    }
  }

  template <Action kAction>
  ONNXQUANT_INLINE void whole(const Group& at, std::int64_t first, std::int64_t there, const float* x, Code* codes, Sums& sums) const {
    if constexpr (kAction == Action::kEncode && kOverwrites<Form>) {
      std::memcpy(tail, x, static_cast<std::size_t>(there) * sizeof *x);
      form.quantize(tail, at, codes);
    } else if constexpr (kAction == Action::kEncode) {
      form.quantize(x, at, codes);
    }
    back<kAction>(at, first, Form::kUnit ? Form::kUnit : there, x, codes, sums);
  }

  // A short last group is filled up with the row's last value.
  template <Action kAction>
  void partial(const Group& at, std::int64_t first, std::int64_t there, const float* x, Code* codes, Sums& sums) const {
    if constexpr (kAction == Action::kEncode) {
      for (std::int64_t i = 0; i < unit; ++i) tail[i] = x[lower(i, there - 1)];
      form.quantize(tail, at, code_tail);
      std::memcpy(codes, code_tail, static_cast<std::size_t>(there) * sizeof(Code));
    } else {
      std::memset(code_tail, 0, static_cast<std::size_t>(unit) * sizeof(Code));
      std::memcpy(code_tail, codes, static_cast<std::size_t>(there) * sizeof(Code));
    }
    back<kAction>(at, first, there, x, code_tail, sums);
  }

  template <Action kAction>
  ONNXQUANT_INLINE void back(const Group& at, std::int64_t first, std::int64_t there, const float* x, const Code* codes,
                             Sums& sums) const {
    for (std::int64_t from = 0; from < there; from += kDecodeStep) {
      const std::int64_t count = lower(kDecodeStep, there - from);
      form.dequantize(codes + from, at, from, static_cast<int>(round_up(count, 16)), decoded);
      if constexpr (kAction == Action::kDecode) {
        float* row = job.decoded + at.row * job.cols;
        for (std::int64_t i = 0, k = first + from; i < count; ++i, ++k) {
          row[job.source.columns == nullptr ? k : job.source.columns[k]] = decoded[i];
        }
      } else {
        add_errors(x + from, decoded, count, sums);
      }
    }
  }
};

inline void write(const Sums& sums, Statistics& out) {
  double lanes[5][8];
  sums.write(lanes);
  double* totals[] = {&out.error, &out.bias, &out.reference, &out.got};
  for (int i = 0; i < 4; ++i) {
    *totals[i] = 0;
    for (const double lane : lanes[i]) *totals[i] += lane;
  }
  out.worst = 0;  // squared
  for (const double lane : lanes[4]) out.worst = lane > out.worst ? lane : out.worst;
  out.unequal = sums.unequal_count;
}

template <class Form, Action kAction>
void run(const EncodeJob& job, float* scratch) {
  const Walk<Form> walk(job, scratch);
  Sums sums;
  if constexpr (kAction == Action::kDecode) {
    for (std::int64_t row = 0; row < job.rows; ++row) {
      walk.template columns<kAction>(row, 0, job.cols, nullptr, sums);
    }
    return;
  }
  for_pieces(job.source, job.rows, job.cols, window_of(walk.unit), scratch,
             [&](std::int64_t row, std::int64_t first, std::int64_t count, const float* x) {
               walk.template columns<kAction>(row, first, count, x, sums);
             });
  write(sums, *job.statistics);
  if (finite_sum(job.statistics->reference)) {
    job.statistics->bad_row = job.statistics->bad_col = -1;
  } else {
    find_bad(job.source, job.rows, job.cols, scratch, &job.statistics->bad_row, &job.statistics->bad_col);
  }
}

template <class Form>
void run(const EncodeJob& job, Action action, float* scratch) {
  if (action == Action::kEncode) return run<Form, Action::kEncode>(job, scratch);
  if (action == Action::kMeasure) return run<Form, Action::kMeasure>(job, scratch);
  run<Form, Action::kDecode>(job, scratch);
}

using Runner = void (*)(const EncodeJob&, Action, float*);

template <int kSize>
Runner affine(std::int64_t zero_point) {
  if (zero_point == 0) return run<Affine<Zero::kNone, kSize>>;
  return zero_point == 1 ? Runner{run<Affine<Zero::kCode, kSize>>} : Runner{run<Affine<Zero::kHalf, kSize>>};
}

// The function of a job's format, which is known to exist.
Runner find(const EncodeJob& job) {
  const struct {
    const char* name;
    Runner runner;
  } all[] = {
      {"q4_0", run<GgmlBlock<4, 32>>},
      {"q5_0", run<GgmlBlock<5, 32>>},
      {"q8_0", run<GgmlBlock<8, 32>>},
      {"tq2_0", run<GgmlBlock<2, 256>>},
      {"q8_k", run<Q8K>},
      {"i2_s", run<I2S>},
      {"q4_1", run<Minimum<4>>},
      {"q5_1", run<Minimum<5>>},
      {"q4_k", run<MinimumSuperBlock<4>>},
      {"q5_k", run<MinimumSuperBlock<5>>},
      {"q6_k", run<Q6K>},
      {"f8_e4m3", run<SmallFloat<4, 3>>},
      {"f8_e5m2", run<SmallFloat<5, 2>>},
      {"f16", run<Half>},
      {"bf16", run<Bfloat>},
      {"llm_int8", run<LlmInt8>},
  };
  for (const auto& one : all) {
    if (std::strcmp(job.format, one.name) == 0) return one.runner;
  }
  if (std::strncmp(job.format, "int", 3) == 0) {
    return job.group == 32 && job.shared == nullptr ? affine<32>(job.zero_point) : affine<0>(job.zero_point);
  }
  return job.stochastic != 0 ? Runner{run<Table<true>>} : Runner{run<Table<false>>};
}

void survey(const SurveyJob& job, float* scratch) {
  F low = splat(float_of(0x7f800000u)), high = splat(float_of(0xff800000u)), smallest_size = low;
  const F none = low;
  double sums[16] = {};
  for_pieces(job.source, job.rows, job.cols, kWindow, scratch, [&](std::int64_t, std::int64_t first, std::int64_t count, const float* x) {
    for (std::int64_t k = 0; k < count; k += 16) {
      float some[16];
      const std::int64_t there = lower(16, count - k);
      for (std::int64_t i = there; i < 16; ++i) some[i] = x[k];
      std::memcpy(some, x + k, static_cast<std::size_t>(there) * sizeof *x);
      const F values = load(some), sizes = magnitude(values);
      low = lesser(low, values);
      high = greater(high, values);
      smallest_size = lesser(smallest_size, pick(above(sizes, splat(0.0f)), sizes, none));
      for (std::int64_t i = 0; i < there; ++i) sums[i] += absolute(some[i]);
      if (job.column_peaks == nullptr) continue;
      float* peaks = job.column_peaks + first + k;
      for (std::int64_t i = 0; i < there; ++i) peaks[i] = most(absolute(some[i]), peaks[i]);
    }
  });
  Survey& out = *job.survey;
  out.low = smallest(low);
  out.high = largest(high);
  out.smallest = smallest(smallest_size);
  out.sum = 0;
  for (const double sum : sums) out.sum += sum;
  out.bad_row = out.bad_col = -1;
  if (!finite_sum(out.sum)) find_bad(job.source, job.rows, job.cols, scratch, &out.bad_row, &out.bad_col);
}
