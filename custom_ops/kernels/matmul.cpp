#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "isa/float_mode.h"
#include "kernels/error.h"
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

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Range {
  std::int64_t first, last;
};
Range part(std::int64_t total, std::int64_t parts, std::int64_t index) {
  return {total * index / parts, total * (index + 1) / parts};
}

// One call: some rows of X at a time are prepared, then multiplied with all tiles.
class Product {
 public:
  Product(const KernelTable& kernels, const Weights& weights, Compute compute, const Matrix& x, const Matrix& y)
      : kernels_(kernels),
        weights_(weights),
        x_(x),
        y_(y),
        int8_(compute == Compute::kInt8),
        quantize_(kernels.quantize(weights.format->bits)),
        int8_tile_(kernels.int8_tile(weights)),
        float_tile_(kernels.float_tile(weights)),
        panel_(std::min(x.M, kPanelRows)),
        code_stride_(weights.blocks * weights.block + kRowGap),
        scratch_(scratch_bytes()) {
    if (int8_) {
      quantized_.codes = scratch_.take<std::int8_t>(size(code_stride_));
      quantized_.scales = scratch_.take<float>(size(weights.blocks));
      quantized_.sums = scratch_.take<std::int32_t>(size(weights.blocks));
      quantized_.code_stride = code_stride_;
      quantized_.block_stride = weights.blocks;
    }
    if (x_.half) wide_ = scratch_.take<float>(size(weights.K));
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
  std::size_t size(std::int64_t per_row) const { return static_cast<std::size_t>(panel_ * per_row); }

  std::size_t scratch_bytes() const {
    std::size_t bytes = 0;
    if (int8_) bytes += Scratch::size_of<std::int8_t>(size(code_stride_)) + 2 * Scratch::size_of<float>(size(weights_.blocks));
    if (x_.half) bytes += Scratch::size_of<float>(size(weights_.K));
    return bytes;
  }

  // Row `row` of the panel as floats.
  const float* floats(std::int64_t row) const {
    return x_.half ? wide_ + row * weights_.K : static_cast<const float*>(x_.values) + (first_ + row) * weights_.K;
  }

  void prepare(Parallel& parallel) {
    if (!int8_ && !x_.half) return;
    const std::int64_t pieces = std::min(rows_, kPieces);
    parallel_for(parallel, static_cast<std::size_t>(pieces), [this, pieces](std::size_t piece) noexcept {
      const FloatMode mode;
      const Range rows = part(rows_, pieces, static_cast<std::int64_t>(piece));
      for (std::int64_t row = rows.first; row < rows.last; ++row) {
        if (x_.half) {
          const auto* from = static_cast<const std::uint16_t*>(x_.values) + (first_ + row) * weights_.K;
          kernels_.widen(from, wide_ + row * weights_.K, weights_.K);
        }
        if (int8_) quantize_(weights_, floats(row), quantized_, row);
      }
    });
  }

  void multiply(Parallel& parallel) {
    const std::int64_t groups = ceil_div(rows_, kMostRows);
    const std::int64_t tile_parts = std::min(weights_.tiles, kPieces);
    const std::int64_t row_parts = std::min(groups, ceil_div(kPieces, tile_parts));
    parallel_for(parallel, static_cast<std::size_t>(tile_parts * row_parts), [=](std::size_t piece) noexcept {
      const FloatMode mode;
      const std::int64_t index = static_cast<std::int64_t>(piece);
      multiply_part(part(weights_.tiles, tile_parts, index / row_parts), part(groups, row_parts, index % row_parts));
    });
  }

  void multiply_part(Range tiles, Range groups) const {
    float out[kMostRows * kTileChannels];
    for (std::int64_t tile = tiles.first; tile < tiles.last; ++tile) {
      for (std::int64_t group = groups.first; group < groups.last; ++group) {
        const std::int64_t row = group * kMostRows;
        const int rows = static_cast<int>(std::min<std::int64_t>(kMostRows, rows_ - row));
        if (int8_) {
          int8_tile_(weights_, quantized_, tile, row, rows, out);
        } else {
          float_tile_(weights_, FloatRows{floats(0), weights_.K}, tile, row, rows, out);
        }
        for (int r = 0; r < rows; ++r) store(out + r * kTileChannels, first_ + row + r, tile);
      }
    }
  }

  void store(const float* values, std::int64_t row, std::int64_t tile) const {
    const std::int64_t channel = tile * kTileChannels;
    const std::int64_t count = std::min(kTileChannels, weights_.N - channel);
    const std::int64_t at = row * weights_.N + channel;
    if (y_.half) {
      kernels_.narrow(values, static_cast<std::uint16_t*>(y_.values) + at, count);
    } else {
      std::memcpy(static_cast<float*>(y_.values) + at, values, static_cast<std::size_t>(count) * sizeof(float));
    }
  }

  const KernelTable& kernels_;
  const Weights& weights_;
  const Matrix x_, y_;
  const bool int8_;
  const QuantizeRow quantize_;
  const Int8Tile int8_tile_;
  const FloatTile float_tile_;
  const std::int64_t panel_, code_stride_;
  Scratch scratch_;
  QuantizedRows quantized_{};
  float* wide_ = nullptr;
  std::int64_t first_ = 0, rows_ = 0;  // the panel in work
};

}  // namespace

Compute parse_compute(const char* name) {
  if (name != nullptr && std::strcmp(name, "int8") == 0) return Compute::kInt8;
  if (name != nullptr && std::strcmp(name, "float32") == 0) return Compute::kFloat;
  throw Error("compute is '%.40s', expected 'int8' or 'float32'", name == nullptr ? "" : name);
}

void matmul(const KernelTable& kernels, const Weights& weights, Compute compute, const Matrix& x, const Matrix& y,
            Parallel& parallel) {
  if (x.M > 0) Product(kernels, weights, compute, x, y).run(parallel);
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
