#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "isa/float_mode.h"
#include "kernels/error.h"
#include "kernels/inline.h"
#include "kernels/scratch.h"

namespace onnxquant {
namespace {

// Rows prepared at a time: bounds the scratch memory, and is plenty to share a tile's codes.
constexpr std::int64_t kPanelRows = 256;
// More pieces than threads, so that they end together; the thread count is not known here.
constexpr std::int64_t kPieces = 16;
// Multiplications below which waking other threads costs more than it brings.
constexpr std::int64_t kWorthSharing = 1 << 17;
// Rows at a multiple of 4096 bytes would share the same cache sets.
constexpr std::int64_t kRowGap = 64;

constexpr std::int64_t kLineBytes = 64;
// Codes that stay in the second-level cache beside activations.
constexpr std::int64_t kCachedBytes = 1 << 18;

// Rows that one piece of work multiplies at least where ManyRows does it: its tiles are used two by two.
constexpr std::int64_t kManyRowsStep = 2 * kRowPadding;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

struct Range {
  std::int64_t first, last;
};
Range part(std::int64_t total, std::int64_t parts, std::int64_t index) {
  return {total * index / parts, total * (index + 1) / parts};
}

// Sizes of the arrays that a call prepares per row of X.
struct RowSizes {
  std::int64_t codes = 0, blocks = 0, bfloats = 0, floats = 0, halves = 0, outliers = 0, checks = 0;
};

// One call: some rows of X at a time are prepared, then multiplied with all tiles.
class Product {
 public:
  Product(const InstructionSet& set, const Weights& weights, Compute compute, const Matrix& x, const void* bias,
          const Matrix& y)
      : kernels_(*set.kernels),
        weights_(weights),
        x_(x),
        y_(y),
        bias_(bias),
        many_(compute == Compute::kInt8 ? many_rows(set, weights, x.M) : ManyRows{}),
        int8_(compute == Compute::kInt8 && weights.format->has_int8() && many_.round == nullptr),
        ternary_(compute == Compute::kFloat && weights.granularity == kPerTensor && is_ternary(*weights.format)),
        units_(with_unit_scale(weights)),
        quantize_(kernels_.quantize(weights.format->low_bits())),
        int8_tiles_(int8_ ? kernels_.int8_tiles(weights) : nullptr),
        decode_(kernels_.decode(weights)),
        panel_(round_up(std::min(x.M, kPanelRows), many_.multiply != nullptr ? kRowPadding : 1)),
        sizes_(sizes()),
        scratch_(bytes(sizes_)) {
    quantized_.code_stride = sizes_.codes;
    quantized_.block_stride = sizes_.blocks;
    quantized_.codes = scratch_.take<std::int8_t>(size(sizes_.codes));
    quantized_.scales = scratch_.take<float>(size(sizes_.blocks));
    quantized_.starts = scratch_.take<std::int32_t>(size(sizes_.blocks));
    quantized_.totals = scratch_.take<float>(size(sizes_.blocks));
    bfloats_ = {scratch_.take<std::uint16_t>(size(sizes_.bfloats)), sizes_.bfloats};
    copy_ = scratch_.take<float>(size(sizes_.floats));
    wide_ = scratch_.take<float>(size(sizes_.halves));
    outliers_ = scratch_.take<float>(size(sizes_.outliers));
    checks_ = scratch_.take<float>(size(sizes_.checks));
  }

  void run(Parallel& parallel) {
    Serial serial;
    for (first_ = 0; first_ < x_.M; first_ += panel_) {
      rows_ = std::min(panel_, x_.M - first_);
      const bool share = static_cast<double>(rows_) * static_cast<double>(weights_.N) *
                             static_cast<double>(weights_.K) >= static_cast<double>(kWorthSharing);
      prepare(share && rows_ > 1 ? parallel : serial);
      multiply(share ? parallel : serial);
    }
  }

 private:
  static bool is_ternary(const Format& format) {
    return format.bits == 2 && format.granularities == kPerTensor && format.values == Values::kOffset;
  }

  static ManyRows many_rows(const InstructionSet& set, const Weights& weights, std::int64_t M) {
    const ManyRows many = set.many_rows != nullptr ? set.many_rows(weights) : ManyRows{};
    return M >= many.least ? many : ManyRows{};
  }

  // The same weight with a scale of 1, for sums that are scaled at the end.
  static Weights with_unit_scale(const Weights& weights) {
    static constexpr float kOne = 1.0f;
    Weights units = weights;
    units.scales = &kOne;
    return units;
  }

  RowSizes sizes() const {
    RowSizes out;
    const bool has_outliers = weights_.outlier_count > 0;
    if (int8_) {
      out.codes = weights_.padded_k() + kRowGap;
      out.blocks = weights_.blocks;
    }
    if (many_.round != nullptr) out.bfloats = round_up(weights_.K, kBfloatStep) + kRowGap / 2;
    // Rows are copied where they are reordered, or columns taken out of them.
    if (weights_.permutation != nullptr || (int8_ && has_outliers)) out.floats = weights_.K;
    if (x_.half) out.halves = weights_.K;
    out.outliers = weights_.outlier_count;
    if (ternary_) out.checks = 1;
    return out;
  }

  std::size_t size(std::int64_t per_row) const { return static_cast<std::size_t>(panel_ * per_row); }

  std::size_t bytes(const RowSizes& of) const {
    return Scratch::size_of<std::int8_t>(size(of.codes)) + 3 * Scratch::size_of<float>(size(of.blocks)) +
           Scratch::size_of<std::uint16_t>(size(of.bfloats)) + Scratch::size_of<float>(size(of.floats)) +
           Scratch::size_of<float>(size(of.halves)) + Scratch::size_of<float>(size(of.outliers)) +
           Scratch::size_of<float>(size(of.checks));
  }

  bool prepares() const {
    return int8_ || x_.half || sizes_.bfloats + sizes_.floats + sizes_.outliers + sizes_.checks > 0;
  }

  // Row `row` of the panel as the kernels read it.
  const float* prepared(std::int64_t row) const {
    if (sizes_.floats > 0) return copy_ + row * weights_.K;
    return floats(row);
  }

  // Row `row` of the panel as floats, in its own order.
  const float* floats(std::int64_t row) const {
    return x_.half ? wide_ + row * weights_.K : static_cast<const float*>(x_.values) + (first_ + row) * weights_.K;
  }

  void prepare(Parallel& parallel) {
    if (!prepares()) return;
    const std::int64_t pieces = std::min(rows_, kPieces);
    parallel_for(parallel, static_cast<std::size_t>(pieces), [this, pieces](std::size_t piece) noexcept {
      const FloatMode mode;
      const Range rows = part(rows_, pieces, static_cast<std::int64_t>(piece));
      for (std::int64_t row = rows.first; row < rows.last; ++row) prepare_row(row);
    });
    if (many_.multiply != nullptr) clear_padding();
  }

  void clear_padding() const {
    const auto count = static_cast<std::size_t>(round_up(rows_, kRowPadding) - rows_);
    const auto clear = [&](auto* rows, std::int64_t stride) {
      std::memset(rows + rows_ * stride, 0, count * static_cast<std::size_t>(stride) * sizeof *rows);
    };
    clear(quantized_.codes, sizes_.codes);
    clear(bfloats_.values, sizes_.bfloats);
  }

  void prepare_row(std::int64_t row) const {
    const std::int64_t K = weights_.K;
    if (x_.half) {
      kernels_.widen(static_cast<const std::uint16_t*>(x_.values) + (first_ + row) * K, wide_ + row * K, K);
    }
    const float* x = floats(row);
    if (sizes_.floats > 0) {
      float* copy = copy_ + row * K;
      if (weights_.permutation != nullptr) {
        for (std::int64_t k = 0; k < K; ++k) copy[k] = x[weights_.permutation[k]];
      } else {
        std::memcpy(copy, x, static_cast<std::size_t>(K) * sizeof(float));
      }
      x = copy;
    }
    for (std::int64_t j = 0; j < weights_.outlier_count; ++j) {
      const std::int64_t column = weights_.outlier_columns[j];
      outliers_[row * weights_.outlier_count + j] = x[column];
      if (int8_) copy_[row * K + column] = 0.0f;
    }
    if (int8_) quantize_(weights_, x, quantized_, row);
    if (many_.round != nullptr) many_.round(x, K, bfloats_.values + row * bfloats_.stride);
    if (ternary_) checks_[row] = nan_or_zero(x, K);
  }

  // Additions alone pass over activations whose weight is zero, whatever they are.
  static float nan_or_zero(const float* x, std::int64_t count) {
    std::int32_t largest = 0;
    for (std::int64_t k = 0; k < count; ++k) {
      std::int32_t bits;
      std::memcpy(&bits, x + k, sizeof bits);
      largest = std::max(largest, bits & 0x7fffffff);
    }
    return largest >= 0x7f800000 ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
  }

  void multiply(Parallel& parallel) {
    const std::int64_t step = many_.multiply != nullptr ? kManyRowsStep : kMostRows;
    const std::int64_t groups = ceil_div(rows_, step);
    const std::int64_t pairs = ceil_div(weights_.tiles, kMostTiles);
    const std::int64_t tile_parts = std::min(pairs, kPieces);
    const std::int64_t row_parts = std::min(groups, ceil_div(kPieces, tile_parts));
    parallel_for(parallel, static_cast<std::size_t>(tile_parts * row_parts), [=](std::size_t piece) noexcept {
      const FloatMode mode;
      const std::int64_t index = static_cast<std::int64_t>(piece);
      Range tiles = part(pairs, tile_parts, index / row_parts), rows = part(groups, row_parts, index % row_parts);
      tiles = {tiles.first * kMostTiles, std::min(tiles.last * kMostTiles, weights_.tiles)};
      rows = {rows.first * step, std::min(rows.last * step, rows_)};
      if (many_.multiply != nullptr) {
        multiply_many(tiles, rows);
      } else if (int8_) {
        multiply_int8(tiles, rows);
      } else {
        multiply_float(tiles, rows);
      }
    });
  }

  void multiply_int8(const Range& tiles, const Range& rows) const {
    alignas(64) float out[kMostRows * kMostChannels];
    // Some tiles at a time that stay in cache while all rows pass: rows of Y are then written in longer pieces.
    const std::int64_t tile_bytes = (weights_.vectors + weights_.high_vectors) * kVectorBytes;
    const std::int64_t step = std::max<std::int64_t>(1, kCachedBytes / (tile_bytes * kMostTiles)) * kMostTiles;
    for (std::int64_t some = tiles.first; some < tiles.last; some += step) {
      const std::int64_t end = std::min(some + step, tiles.last);
      for (std::int64_t row = rows.first; row < rows.last; row += kMostRows) {
        const int height = static_cast<int>(std::min<std::int64_t>(kMostRows, rows.last - row));
        for (std::int64_t tile = some; tile < end; tile += kMostTiles) {
          const int count = static_cast<int>(std::min<std::int64_t>(kMostTiles, end - tile));
          fetch_results(tile, row, height);
          int8_tiles_(weights_, quantized_, tile, count, row, height, out);
          finish(tile, count, row, height, out);
        }
      }
    }
  }

  void multiply_many(const Range& tiles, const Range& rows) const {
    alignas(64) float sums[kPanelRows * kMostChannels];
    for (std::int64_t tile = tiles.first; tile < tiles.last; tile += kMostTiles) {
      const int count = static_cast<int>(std::min<std::int64_t>(kMostTiles, tiles.last - tile));
      many_.multiply(weights_, quantized_, bfloats_, tile, count, rows.first, rows.last - rows.first, sums);
      for (std::int64_t row = rows.first; row < rows.last; row += kMostRows) {
        const int height = static_cast<int>(std::min<std::int64_t>(kMostRows, rows.last - row));
        finish(tile, count, row, height, sums + (row - rows.first) * kMostChannels);
      }
    }
  }

  // Asks for where results go: rows of Y are far apart, and few lines of each are written at a time.
  void fetch_results(std::int64_t tile, std::int64_t row, int height) const {
    const std::int64_t bytes = y_.half ? sizeof(std::uint16_t) : sizeof(float);
    for (int r = 0; r < height; ++r) {
      const char* at = static_cast<const char*>(y_.values) + ((first_ + row + r) * weights_.N + tile * kTileChannels) * bytes;
      for (std::int64_t b = 0; b <= kMostChannels * bytes; b += kLineBytes) ONNXQUANT_PREFETCH_WRITE(at + b);
    }
  }

  // Adds what else there is to some sums, and writes them.
  void finish(std::int64_t tile, int count, std::int64_t row, int height, float* out) const {
    for (int t = 0; t < count && weights_.outlier_count > 0; ++t) {
      add_outliers(tile + t, row, height, out + t * kTileChannels);
    }
    for (int r = 0; r < height; ++r) {
      store(out + r * kMostChannels, first_ + row + r, tile * kTileChannels, count * kTileChannels);
    }
  }

  void add_outliers(std::int64_t tile, std::int64_t row, int height, float* out) const {
    alignas(64) float sums[kMostRows * kTileChannels] = {};
    sum_outliers(tile, {row, row + height}, sums);
    for (int r = 0; r < height; ++r) {
      for (int c = 0; c < kTileChannels; ++c) out[r * kMostChannels + c] += sums[r * kTileChannels + c];
    }
  }

  // sums[rows][16] += the outlier columns of X times theirs of the weight.
  void sum_outliers(std::int64_t tile, const Range& rows, float* sums) const {
    alignas(64) float panel[kPanel * kTileChannels];
    const std::int64_t total = weights_.outlier_count;
    for (std::int64_t j = 0; j < total; j += kPanel) {
      const std::int64_t count = std::min(kPanel, total - j);
      kernels_.widen(weights_.outliers + (tile * total + j) * kTileChannels, panel, count * kTileChannels);
      kernels_.multiply(panel, count, FloatRows{outliers_ + rows.first * total + j, total}, rows.last - rows.first, sums);
    }
  }

  void multiply_float(const Range& tiles, const Range& rows) const {
    alignas(64) float panel[kPanel * kTileChannels];
    alignas(64) float sums[kPanelRows * kTileChannels];
    const Weights& weights = ternary_ ? units_ : weights_;
    const MultiplyPanel product = ternary_ ? kernels_.add_signed : kernels_.multiply;
    const std::int64_t height = rows.last - rows.first;
    for (std::int64_t tile = tiles.first; tile < tiles.last; ++tile) {
      std::fill(sums, sums + height * kTileChannels, 0.0f);
      for (std::int64_t k = 0; k < weights_.K; k += kPanel) {
        const std::int64_t count = std::min(kPanel, weights_.K - k);
        decode_(weights, tile, k, count, panel);
        product(panel, count, FloatRows{prepared(rows.first) + k, weights_.K}, height, sums);
      }
      if (weights_.outlier_count > 0) sum_outliers(tile, rows, sums);
      if (ternary_) scale_sums(rows, sums);
      for (std::int64_t r = 0; r < height; ++r) {
        store(sums + r * kTileChannels, first_ + rows.first + r, tile * kTileChannels, kTileChannels);
      }
    }
  }

  void scale_sums(const Range& rows, float* sums) const {
    float scale;
    std::memcpy(&scale, weights_.scales, sizeof scale);
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      for (int c = 0; c < kTileChannels; ++c, ++sums) *sums = *sums * scale + checks_[row];
    }
  }

  void store(float* values, std::int64_t row, std::int64_t channel, std::int64_t channels) const {
    const std::int64_t count = std::min(channels, weights_.N - channel);
    if (bias_ != nullptr) add_bias(values, channel, count);
    const std::int64_t at = row * weights_.N + channel;
    if (y_.half) {
      kernels_.narrow(values, static_cast<std::uint16_t*>(y_.values) + at, count);
    } else {
      std::memcpy(static_cast<float*>(y_.values) + at, values, static_cast<std::size_t>(count) * sizeof(float));
    }
  }

  void add_bias(float* values, std::int64_t channel, std::int64_t count) const {
    alignas(64) float wide[kMostChannels];
    const float* bias = static_cast<const float*>(bias_) + channel;
    if (x_.half) {
      kernels_.widen(static_cast<const std::uint16_t*>(bias_) + channel, wide, count);
      bias = wide;
    }
    for (std::int64_t c = 0; c < count; ++c) values[c] += bias[c];
  }

  const KernelTable& kernels_;
  const Weights& weights_;
  const Matrix x_, y_;
  const void* const bias_;
  const ManyRows many_;
  const bool int8_, ternary_;
  const Weights units_;
  const QuantizeRow quantize_;
  const Int8Tiles int8_tiles_;
  const DecodePanel decode_;
  const std::int64_t panel_;
  const RowSizes sizes_;
  Scratch scratch_;
  QuantizedRows quantized_{};
  BfloatRows bfloats_{};
  float *copy_ = nullptr, *wide_ = nullptr, *outliers_ = nullptr, *checks_ = nullptr;
  std::int64_t first_ = 0, rows_ = 0;  // the panel in work
};

}  // namespace

Compute parse_compute(const char* name) {
  if (name != nullptr && std::strcmp(name, "int8") == 0) return Compute::kInt8;
  if (name != nullptr && std::strcmp(name, "float32") == 0) return Compute::kFloat;
  throw Error("compute is '%.40s', expected 'int8' or 'float32'", name == nullptr ? "" : name);
}

void matmul(const InstructionSet& set, const Weights& weights, Compute compute, const Matrix& x, const void* bias,
            const Matrix& y, Parallel& parallel) {
  if (x.M > 0) Product(set, weights, compute, x, bias, y).run(parallel);
}

void gather(const Weights& weights, const std::int64_t* indices, std::int64_t count, float* out, Parallel& parallel) {
  const std::int64_t pieces = std::min(count, kPieces);
  Serial serial;
  const bool share = count > 1 && count >= kWorthSharing / weights.K / 16;
  parallel_for(share ? parallel : serial, static_cast<std::size_t>(pieces), [=, &weights](std::size_t piece) noexcept {
    const FloatMode mode;
    const Range rows = part(count, pieces, static_cast<std::int64_t>(piece));
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      decode_row(weights, indices[row], out + row * weights.K);
    }
  });
}

}  // namespace onnxquant
