// Outputs of a range of rows as one line of positions, or a line for each row, so that tiles need not end where a row does.
#pragma once

#include <cstdint>

#include "kernels/inline.h"
#include "network/kernels.h"
#include "simd/target.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

// Position i of a line reads from `at` + i * step, and is pixel (first_row + i / period, i % period) of the output. Beyond its width
// it is none: what it reads is a border, or what is between rows.
struct Line {
  const std::uint8_t* at;
  std::int64_t step, count, period, first_row;
};

// The address of the first tap of row y's first output.
inline const std::uint8_t* first_tap(const Window& window, const Image& in, std::int64_t y) {
  return in.data + (y * window.stride_y - window.pad_top) * in.row - window.pad_left * in.pixel;
}

// Lines of rows [begin, end) for tiles of so many positions.
class Lines {
 public:
  Lines(const Window& window, const Image& in, const Image& out, std::int64_t begin, std::int64_t end, std::int64_t tile)
      : window_(window), in_(in), begin_(begin), step_(window.stride_x * in.pixel), width_(out.width) {
    const std::int64_t rows = end - begin, between = window.stride_y * in.row;
    count_ = rows;
    length_ = width_;
    period_ = width_;
    if (rows < 2 || between % step_ != 0) return;
    const std::int64_t period = between / step_, length = (rows - 1) * period + width_;
    if (period < width_ || round_up(length, tile) > rows * round_up(width_, tile)) return;
    count_ = 1;
    length_ = length;
    period_ = period;
  }

  std::int64_t count() const { return count_; }
  std::int64_t length() const { return length_; }
  std::int64_t step() const { return step_; }
  Line line(std::int64_t i) const { return {first_tap(window_, in_, begin_ + i), step_, length_, period_, begin_ + i}; }

 private:
  const Window& window_;
  const Image& in_;
  std::int64_t begin_, step_, width_, count_, length_, period_;
};

// Goes through the positions of lines, and says where their outputs are. Those that are none are written to the next row's first
// pixel, whose own output comes later: tiles, and positions in them, are stored one after the other.
class Outputs {
 public:
  explicit Outputs(const Image& out) : out_(out) {}

  void begin(const Line& line) {
    period_ = line.period;
    x_ = 0;
    row_ = out_.data + line.first_row * out_.row;
  }
  void skip(std::int64_t count) {
    for (x_ += count; x_ >= period_; x_ -= period_) row_ += out_.row;
  }
  void find(std::int64_t count, std::uint8_t** to) const {
    std::uint8_t* at = row_ + x_ * out_.pixel;
    if (x_ + count <= out_.width) {
      for (std::int64_t i = 0; i < count; ++i) to[i] = at + i * out_.pixel;
      return;
    }
    std::int64_t x = x_;
    std::uint8_t* row = row_;
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = x < out_.width ? row + x * out_.pixel : row + out_.row;
      if (++x == period_) {
        x = 0;
        row += out_.row;
      }
    }
  }

 private:
  const Image& out_;
  std::int64_t period_ = 1, x_ = 0;
  std::uint8_t* row_ = nullptr;
};

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA
