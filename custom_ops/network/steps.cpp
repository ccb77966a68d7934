#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>
#include <utility>

#include "codes/code_map.h"
#include "isa/dispatch.h"
#include "kernels/error.h"
#include "network/pack.h"
#include "network/step.h"

namespace onnxquant {
namespace {

// About what a processor does in a nanosecond: multiplications of a convolution, of a depthwise one.
constexpr double kConvolves = 150, kDepthwise = 40;
// Nanoseconds of a pixel that is copied by itself.
constexpr double kPixel = 2;

double pixels(const Size& size) { return static_cast<double>(size.height) * static_cast<double>(size.width); }

double elements(const Size& size) {
  return pixels(size) * static_cast<double>(size.channels);
}

// The window of a convolution or of pooling, and what is added around the image.
struct Sliding {
  Window window;
  std::int64_t pad_bottom, pad_right;

  // Kernel, strides, pads above, left, below and right, dilations.
  explicit Sliding(const std::int64_t* n)
      : window{n[0], n[1], n[2], n[3], n[8], n[9], n[4], n[5]}, pad_bottom(n[6]), pad_right(n[7]) {
    for (int i = 0; i < 10; ++i) {
      const bool is_pad = i >= 4 && i < 8;
      const bool is_stride = i == 2 || i == 3;
      if (n[i] < (is_pad ? 0 : 1) || n[i] > (is_stride ? kMostStride : kMost)) {
        throw Error("a window has %" PRId64 " at place %d", n[i], i);
      }
    }
  }

  Size over(const Size& in, std::int64_t channels) const {
    const Window& w = window;
    return {places(in.height + w.pad_top + pad_bottom, w.height, w.stride_y, w.dilation_y),
            places(in.width + w.pad_left + pad_right, w.width, w.stride_x, w.dilation_x), channels};
  }
  // Whether a window is not larger than the image and its pads.
  bool fits(const Size& in) const {
    return in.height + window.pad_top + pad_bottom >= reach(window.height, window.dilation_y) &&
           in.width + window.pad_left + pad_right >= reach(window.width, window.dilation_x);
  }
  // As far as windows reach.
  Border border(const Size& in, std::uint8_t code) const {
    const Window& w = window;
    return {w.pad_top, w.pad_left, std::max(pad_bottom, reach(w.height, w.dilation_y) - w.pad_top - in.height),
            std::max(pad_right, reach(w.width, w.dilation_x) - w.pad_left - in.width), code};
  }

 private:
  // Sums of a window's codes fit 32 bits; kernels compute a few pixels beyond a row, which slack() has room for.
  static constexpr std::int64_t kMost = 1 << 11, kMostStride = 16;
  static std::int64_t reach(std::int64_t kernel, std::int64_t dilation) { return (kernel - 1) * dilation + 1; }
  // A window that is larger by less than a stride has a place, too: so ONNX Runtime divides where it pools.
  static std::int64_t places(std::int64_t length, std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
    return (length - reach(kernel, dilation)) / stride + 1;
  }
};

class Convolve final : public Step {
 public:
  Convolve(const StepRecord& record, const Constants& constants)
      : Step(record.tensors), sliding_(record.numbers.data() + 1), zero_(constants.zero(record.constants[3])) {
    const Constant& weight = constants.at(record.constants[0], Type::kI8);
    const Window& window = sliding_.window;
    if (weight.dims.size() != 4 || weight.dims[2] != window.height || weight.dims[3] != window.width || weight.count() < 1) {
      throw Error("the weight of a convolution has another kernel than its step");
    }
    const std::int64_t groups = record.numbers[0], per_group = weight.dims[1];
    outputs_ = weight.dims[0];
    if (groups < 1 || outputs_ % groups != 0) throw Error("%" PRId64 " outputs in %" PRId64 " groups", outputs_, groups);
    channels_ = per_group * groups;
    const bool is_depthwise = per_group == 1 && groups > 1 && outputs_ == groups;
    parts_count_ = is_depthwise ? 1 : groups;
    if (parts_count_ > 1 && (per_group % kChannelBlock != 0 || outputs_ / groups % kChannelBlock != 0)) {
      throw Error("%" PRId64 " groups of %" PRId64 " channels, expected multiples of %" PRId64, groups, per_group, kChannelBlock);
    }
    const Scales scales = scales_of(record, constants);
    const std::vector<std::int32_t> bias = bias_of(record, constants, scales);
    ConvolutionParts parts{};
    parts.window = window;
    parts.channels = per_group;
    parts.out_channels = outputs_ / parts_count_;
    parts.depthwise = is_depthwise;
    parts.x_zero = zero_;
    parts.zero = constants.zero(record.constants[6]);
    parts.low = constants.code(record.numbers[11]);
    parts.high = constants.code(record.numbers[12]);
    const std::int64_t weights = parts.out_channels * per_group * window.height * window.width;
    // Weights for both widths of a pixel are packed only where both may be.
    const bool may_be_small = groups == 1 && channels_ <= kSmallPixel;
    for (std::int64_t i = 0; i < parts_count_; ++i) {
      parts.weights = static_cast<const std::int8_t*>(weight.data) + i * weights;
      parts.bias = bias.empty() ? nullptr : bias.data() + i * parts.out_channels;
      parts.scales = scales.of_codes.data() + i * parts.out_channels;
      parts.pixel = round_up(channels_, kChannelBlock);
      parts_.push_back(PackedConvolution(parts));
      if (!may_be_small) continue;
      parts.pixel = kSmallPixel;
      small_.push_back(PackedConvolution(parts));
    }
    // Kernels of large windows take one tap after the other.
    constexpr double kMostTaps = 128, kPlainly = 0.5;
    const double taps = static_cast<double>(window.height * window.width);
    const double multiplies = !is_depthwise ? kConvolves : taps > kMostTaps ? kPlainly : kDepthwise;
    duration_ = taps * static_cast<double>(per_group) / multiplies;
    weights_ = static_cast<double>(outputs_ * per_group) * taps;
  }

  Size size(const std::vector<Size>& in) const override {
    if (in[0].channels != channels_) {
      throw Error("a convolution of %" PRId64 " channels reads %" PRId64, channels_, in[0].channels);
    }
    if (!sliding_.fits(in[0])) throw Error("a window is larger than its image of %" PRId64 " x %" PRId64, in[0].height, in[0].width);
    return sliding_.over(in[0], outputs_);
  }
  Border border(const Size& in) const override { return sliding_.border(in, zero_); }
  bool takes_small_pixels() const override { return !small_.empty(); }
  double duration(const std::vector<Size>&, const Size& out) const override { return elements(out) * duration_; }
  // Few rows, or weights that take much more memory than the image, which each thread would read.
  Axis axis(const std::vector<Size>& in, const Size& out) const override {
    constexpr std::int64_t kFewRows = 8;
    constexpr double kMuch = 4;
    if (parts_count_ > 1) return Axis::kRows;
    return out.height <= kFewRows || weights_ > kMuch * elements(in[0]) ? Axis::kBlocks : Axis::kRows;
  }

  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    Image from = in[0], to = out;
    const auto& groups = from.pixel == kSmallPixel ? small_ : parts_;
    if (part.axis == Axis::kBlocks) {
      const Convolution some = groups.front().blocks(part.begin, part.end);
      if (some.depthwise) from.data += part.begin * kChannelBlock;
      to.data += part.begin * kChannelBlock;
      return run(set, some, from, to, 0, out.height);
    }
    for (const PackedConvolution& group : groups) {
      run(set, group.get(), from, to, part.begin, part.end);
      from.data += channels_ / parts_count_;
      to.data += outputs_ / parts_count_;
    }
  }

 private:
  static void run(const InstructionSet& set, const Convolution& convolution, const Image& in, const Image& out, std::int64_t begin,
                  std::int64_t end) {
    (convolution.depthwise ? set.network->depthwise : set.network->convolve)(convolution, in, out, begin, end);
  }

  struct Scales {
    std::vector<float> of_sums, of_codes;  // the same over the scale of what is computed
  };

  Scales scales_of(const StepRecord& record, const Constants& constants) const {
    const Constant& of_weight = constants.at(record.constants[4], Type::kFloat);
    const std::int64_t count = of_weight.count();
    if (count != 1 && count != outputs_) throw Error("%" PRId64 " scales of %" PRId64 " outputs", count, outputs_);
    const float x = constants.scale(record.constants[2]), y = constants.scale(record.constants[5]);
    Scales scales;
    for (std::int64_t i = 0; i < outputs_; ++i) {
      scales.of_sums.push_back(x * static_cast<const float*>(of_weight.data)[count == 1 ? 0 : i]);
      scales.of_codes.push_back(scales.of_sums.back() / y);
    }
    return scales;
  }

  // A bias in float is rounded to the scale of the sums, as ONNX Runtime does. Empty where there is none.
  std::vector<std::int32_t> bias_of(const StepRecord& record, const Constants& constants, const Scales& scales) const {
    const std::int64_t input = record.constants[1];
    if (input < 0) return {};
    const bool is_float = constants.type(input) == Type::kFloat;
    const Constant& bias = constants.at(input, is_float ? Type::kFloat : Type::kI32);
    if (bias.count() != outputs_) throw Error("a bias of %" PRId64 " for %" PRId64 " outputs", bias.count(), outputs_);
    std::vector<std::int32_t> codes;
    for (std::int64_t i = 0; i < outputs_; ++i) {
      if (!is_float) {
        codes.push_back(static_cast<const std::int32_t*>(bias.data)[i]);
        continue;
      }
      constexpr double kMost = 2147483647;
      const double code = std::nearbyint(static_cast<const float*>(bias.data)[i] / scales.of_sums[static_cast<std::size_t>(i)]);
      codes.push_back(code == code ? static_cast<std::int32_t>(std::clamp(code, -kMost, kMost)) : 0);
    }
    return codes;
  }

  Sliding sliding_;
  std::uint8_t zero_;
  std::int64_t channels_ = 0, outputs_ = 0, parts_count_ = 1;
  std::vector<PackedConvolution> parts_, small_;  // of each group; for pixels of kSmallPixel bytes
  double duration_ = 0, weights_ = 0;             // of an element; how many
};

std::uint8_t* row_of(const Image& image, std::int64_t y) { return image.data + y * image.row; }

class Map final : public Step {
 public:
  Map(const StepRecord& record, const Constants& constants) : Step(record.tensors), channels_(record.numbers[1]) {
    const std::uint8_t* tables = constants.tables(record.numbers[0], channels_);
    tables_.assign(tables, tables + channels_ * kTableBytes);
    // Channels that pad a pixel are mapped too.
    if (channels_ > 1) tables_.resize(static_cast<std::size_t>(round_up(channels_, kChannelBlock) * kTableBytes));
  }

  Size size(const std::vector<Size>& in) const override {
    if (channels_ > 1 && in[0].channels != channels_) {
      throw Error("tables of %" PRId64 " channels for %" PRId64, channels_, in[0].channels);
    }
    return in[0];
  }
  double duration(const std::vector<Size>&, const Size& out) const override {
    return elements(out) / (channels_ > 1 ? 1 : kWrites);
  }

  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    const MapBytes map = map_bytes_of(set);
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      if (channels_ == 1) {
        map(tables_.data(), row_of(in[0], y), out.width * out.pixel, row_of(out, y));
      } else {
        set.network->map_channels(tables_.data(), row_of(in[0], y), out.width, out.pixel, out.pixel, row_of(out, y));
      }
    }
  }

 private:
  std::int64_t channels_;
  std::vector<std::uint8_t> tables_;
};

// A step of two tensors of one size; the second one may have one pixel.
class Pair : public Step {
 public:
  using Step::Step;
  double duration(const std::vector<Size>&, const Size& out) const override { return elements(out) / kWrites; }
};

class Add final : public Pair {
 public:
  Add(const StepRecord& record, const Constants& constants) : Pair(record.tensors) {
    const auto& c = record.constants;
    const float y = constants.scale(c[4]);
    addition_.a_factor = constants.scale(c[0]) / y;
    addition_.b_factor = constants.scale(c[2]) / y;
    const float of_b = addition_.b_factor * static_cast<float>(constants.zero(c[3]));
    addition_.offset = static_cast<float>(constants.zero(c[5])) - std::fma(addition_.a_factor, static_cast<float>(constants.zero(c[1])), of_b);
    addition_.low = constants.code(record.numbers[0]);
    addition_.high = constants.code(record.numbers[1]);
  }

  Size size(const std::vector<Size>& in) const override {
    if (!(in[0] == in[1])) throw Error("a sum of tensors of different sizes");
    return in[0];
  }
  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      set.network->add(addition_, row_of(in[0], y), row_of(in[1], y), out.width * out.pixel, row_of(out, y));
    }
  }

 private:
  Addition addition_{};
};

class Multiply final : public Pair {
 public:
  Multiply(const StepRecord& record, const Constants& constants) : Pair(record.tensors) {
    const auto& c = record.constants;
    product_.factor = constants.scale(c[0]) * constants.scale(c[2]) / constants.scale(c[4]);
    product_.a_zero = constants.zero(c[1]);
    product_.b_zero = constants.zero(c[3]);
    product_.zero = constants.zero(c[5]);
    product_.low = constants.code(record.numbers[0]);
    product_.high = constants.code(record.numbers[1]);
  }

  Size size(const std::vector<Size>& in) const override {
    const Size& b = in[1];
    if (!(in[0] == b) && (b.channels != in[0].channels || b.height != 1 || b.width != 1)) {
      throw Error("a product of tensors of different sizes");
    }
    return in[0];
  }
  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    const Image &a = in[0], &b = in[1];
    const bool is_pixel = b.height * b.width == 1 && a.height * a.width > 1;
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      if (is_pixel) {
        set.network->multiply_channels(product_, row_of(a, y), b.data, out.width, out.pixel, row_of(out, y));
      } else {
        set.network->multiply(product_, row_of(a, y), row_of(b, y), out.width * out.pixel, row_of(out, y));
      }
    }
  }

 private:
  Multiplication product_{};
};

// The average of all pixels.
class GlobalAverage final : public Step {
 public:
  GlobalAverage(const StepRecord& record, const Constants& constants)
      : Step(record.tensors), factor_(static_cast<double>(constants.scale(record.constants[0])) / constants.scale(record.constants[2])),
        x_zero_(constants.zero(record.constants[1])), zero_(constants.zero(record.constants[3])) {}

  Size size(const std::vector<Size>& in) const override {
    if (in[0].width > kMostPixels) throw Error("a row of %" PRId64 " pixels, expected at most %" PRId64, in[0].width, kMostPixels);
    return {1, 1, in[0].channels};
  }
  double duration(const std::vector<Size>& in, const Size&) const override { return elements(in[0]) / kWrites; }
  Axis axis(const std::vector<Size>&, const Size&) const override { return Axis::kBlocks; }
  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    for (std::int64_t block = part.begin; block < part.end; block += kBlocksAtOnce) {
      Image from = in[0];
      from.data += block * kChannelBlock;
      from.channels = std::min(kBlocksAtOnce, part.end - block) * kChannelBlock;
      average(set, from, out.data + block * kChannelBlock);
    }
  }

 private:
  // Whose sum fits 32 bits.
  static constexpr std::int64_t kMostPixels = std::int64_t{1} << 23;
  static constexpr std::int64_t kBlocksAtOnce = 16;

  // Of at most kBlocksAtOnce blocks.
  void average(const InstructionSet& set, const Image& in, std::uint8_t* out) const {
    std::int64_t all[kBlocksAtOnce * kChannelBlock] = {};
    for (std::int64_t begin = 0, rows = kMostPixels / in.width; begin < in.height; begin += rows) {
      std::int32_t sums[kBlocksAtOnce * kChannelBlock] = {};
      set.network->pixel_sums(in, begin, std::min(in.height, begin + rows), sums);
      for (std::int64_t c = 0; c < in.channels; ++c) all[c] += sums[c];
    }
    const double count = static_cast<double>(in.height) * static_cast<double>(in.width);
    for (std::int64_t c = 0; c < in.channels; ++c) {
      const double mean = static_cast<double>(all[c]) / count - x_zero_;
      const double code = std::nearbyint(mean * factor_) + zero_;
      out[c] = code == code ? static_cast<std::uint8_t>(std::clamp(code, 0.0, 255.0)) : 0;
    }
  }

  double factor_;
  std::uint8_t x_zero_, zero_;
};

class MaxPool final : public Step {
 public:
  MaxPool(const StepRecord& record, const Constants&) : Step(record.tensors), sliding_(record.numbers.data()) {}

  Size size(const std::vector<Size>& in) const override { return sliding_.over(in[0], in[0].channels); }
  double duration(const std::vector<Size>&, const Size& out) const override {
    return elements(out) * static_cast<double>(sliding_.window.height * sliding_.window.width) / kWrites / 4;
  }
  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    const Window& w = sliding_.window;
    const Range rows = inside(in[0].height, out.height, w.height, w.stride_y, w.dilation_y, w.pad_top).within(part.begin, part.end);
    const Range columns = inside(in[0].width, out.width, w.width, w.stride_x, w.dilation_x, w.pad_left);
    if (rows.begin < rows.end && columns.begin < columns.end) {
      Image from = in[0], to = out;
      from.data += columns.begin * w.stride_x * from.pixel;
      to.data += columns.begin * to.pixel;
      to.width = columns.end - columns.begin;
      set.network->max_pool(w, from, to, rows.begin, rows.end);
    }
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      const bool has_inside = y >= rows.begin && y < rows.end;
      for (std::int64_t x = 0; x < out.width; ++x) {
        if (has_inside && x == columns.begin) x = columns.end;
        if (x < out.width) at_edge(in[0], out, y, x);
      }
    }
  }

 private:
  // Outputs whose window lies inside of the image.
  struct Range {
    std::int64_t begin, end;
    Range within(std::int64_t first, std::int64_t last) const { return {std::max(begin, first), std::min(end, last)}; }
  };
  static Range inside(std::int64_t length, std::int64_t outputs, std::int64_t kernel, std::int64_t stride, std::int64_t dilation,
                      std::int64_t pad) {
    const std::int64_t room = length - 1 - (kernel - 1) * dilation + pad;
    if (room < 0) return {0, 0};
    const Range range{(pad + stride - 1) / stride, std::min(outputs, room / stride + 1)};
    return range.begin < range.end ? range : Range{0, 0};
  }

  // A window of which a part lies outside; that part counts for nothing.
  void at_edge(const Image& in, const Image& out, std::int64_t y, std::int64_t x) const {
    const Window& w = sliding_.window;
    std::uint8_t* to = row_of(out, y) + x * out.pixel;
    std::memset(to, 0, static_cast<std::size_t>(out.pixel));
    for (std::int64_t ky = 0; ky < w.height; ++ky) {
      const std::int64_t row = y * w.stride_y + ky * w.dilation_y - w.pad_top;
      if (row < 0 || row >= in.height) continue;
      for (std::int64_t kx = 0; kx < w.width; ++kx) {
        const std::int64_t column = x * w.stride_x + kx * w.dilation_x - w.pad_left;
        if (column < 0 || column >= in.width) continue;
        const std::uint8_t* from = row_of(in, row) + column * in.pixel;
        for (std::int64_t c = 0; c < out.pixel; ++c) to[c] = std::max(to[c], from[c]);
      }
    }
  }

  Sliding sliding_;
};

class AveragePool final : public Step {
 public:
  AveragePool(const StepRecord& record, const Constants& constants) : Step(record.tensors), sliding_(record.numbers.data()) {
    const auto& c = record.constants;
    average_ = {sliding_.window, constants.scale(c[0]) / constants.scale(c[2]), constants.zero(c[1]), constants.zero(c[3]),
                record.numbers[10] != 0};
  }

  Size size(const std::vector<Size>& in) const override { return sliding_.over(in[0], in[0].channels); }
  Border border(const Size& in) const override { return sliding_.border(in, average_.x_zero); }
  double duration(const std::vector<Size>&, const Size& out) const override {
    return elements(out) * static_cast<double>(sliding_.window.height * sliding_.window.width) / kWrites;
  }
  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    set.network->average_pool(average_, in[0], out, part.begin, part.end);
  }

 private:
  Sliding sliding_;
  Average average_{};
};

// Channels of several tensors, one behind the other.
class Concat final : public Step {
 public:
  Concat(const StepRecord& record, const Constants& constants) : Step(record.tensors) {
    for (const std::int64_t table : record.numbers) tables_.push_back(table < 0 ? nullptr : copied(constants.tables(table, 1)));
  }

  Size size(const std::vector<Size>& in) const override {
    Size out = in[0];
    out.channels = 0;
    for (const Size& each : in) {
      if (each.height != out.height || each.width != out.width) throw Error("channels of images of different sizes");
      out.channels += each.channels;
    }
    return out;
  }
  double duration(const std::vector<Size>& in, const Size& out) const override {
    return elements(out) / kWrites + static_cast<double>(in.size()) * pixels(out) * kPixel;
  }
  void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    const MapBytes map = map_bytes_of(set);
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      std::int64_t first = 0;
      for (std::size_t i = 0; i < in.size(); ++i) {
        for (std::int64_t x = 0; x < out.width; ++x) {
          const std::uint8_t* from = row_of(in[i], y) + x * in[i].pixel;
          std::uint8_t* to = row_of(out, y) + x * out.pixel + first;
          if (tables_[i] == nullptr) {
            std::memcpy(to, from, static_cast<std::size_t>(in[i].channels));
          } else {
            map(tables_[i].get(), from, in[i].channels, to);
          }
        }
        first += in[i].channels;
      }
    }
  }

 private:
  static std::unique_ptr<std::uint8_t[]> copied(const std::uint8_t* table) {
    auto out = std::make_unique<std::uint8_t[]>(kTableBytes);
    std::memcpy(out.get(), table, kTableBytes);
    return out;
  }

  std::vector<std::unique_ptr<std::uint8_t[]>> tables_;  // null: codes as they are
};

// Every pixel several times.
class Resize final : public Step {
 public:
  Resize(const StepRecord& record, const Constants&) : Step(record.tensors), y_(record.numbers[0]), x_(record.numbers[1]) {
    constexpr std::int64_t kMost = 64;
    if (y_ < 1 || x_ < 1 || y_ > kMost || x_ > kMost) throw Error("factors %" PRId64 " and %" PRId64, y_, x_);
  }

  Size size(const std::vector<Size>& in) const override { return {in[0].height * y_, in[0].width * x_, in[0].channels}; }
  double duration(const std::vector<Size>&, const Size& out) const override { return elements(out) / kWrites + pixels(out) * kPixel; }
  void run(const InstructionSet&, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      for (std::int64_t x = 0; x < out.width; ++x) {
        std::memcpy(row_of(out, y) + x * out.pixel, row_of(in[0], y / y_) + x / x_ * in[0].pixel, static_cast<std::size_t>(out.pixel));
      }
    }
  }

 private:
  std::int64_t y_, x_;
};

// Some channels.
class Slice final : public Step {
 public:
  Slice(const StepRecord& record, const Constants&) : Step(record.tensors), first_(record.numbers[0]), end_(record.numbers[1]) {}

  Size size(const std::vector<Size>& in) const override {
    if (first_ < 0 || end_ <= first_ || end_ > in[0].channels) {
      throw Error("channels %" PRId64 " to %" PRId64 " of %" PRId64, first_, end_, in[0].channels);
    }
    return {in[0].height, in[0].width, end_ - first_};
  }
  double duration(const std::vector<Size>&, const Size& out) const override { return elements(out) / kWrites + pixels(out) * kPixel; }
  void run(const InstructionSet&, const std::vector<Image>& in, const Image& out, const Part& part) const override {
    for (std::int64_t y = part.begin; y < part.end; ++y) {
      for (std::int64_t x = 0; x < out.width; ++x) {
        std::memcpy(row_of(out, y) + x * out.pixel, row_of(in[0], y) + x * in[0].pixel + first_, static_cast<std::size_t>(end_ - first_));
      }
    }
  }

 private:
  std::int64_t first_, end_;
};

template <class Kind>
std::unique_ptr<Step> checked(const StepRecord& record, const Constants& constants, const char* name, std::size_t tensors,
                              std::size_t given, std::size_t numbers) {
  if (record.tensors.size() != tensors || record.constants.size() != given || record.numbers.size() != numbers) {
    throw Error("step '%s' has %zu tensors, %zu constants and %zu numbers, expected %zu, %zu and %zu", name, record.tensors.size(),
                record.constants.size(), record.numbers.size(), tensors, given, numbers);
  }
  return std::make_unique<Kind>(record, constants);
}

}  // namespace

std::unique_ptr<Step> make_step(const StepRecord& record, const Constants& constants) {
  switch (record.kind) {
    case StepKind::kConvolve: return checked<Convolve>(record, constants, "convolve", 1, 7, 13);
    case StepKind::kMap: return checked<Map>(record, constants, "map", 1, 0, 2);
    case StepKind::kAdd: return checked<Add>(record, constants, "add", 2, 6, 2);
    case StepKind::kMultiply: return checked<Multiply>(record, constants, "multiply", 2, 6, 2);
    case StepKind::kAverage: return checked<GlobalAverage>(record, constants, "average", 1, 4, 0);
    case StepKind::kMaxPool: return checked<MaxPool>(record, constants, "max pool", 1, 0, 10);
    case StepKind::kAveragePool: return checked<AveragePool>(record, constants, "average pool", 1, 4, 11);
    case StepKind::kConcat: {
      const std::size_t tensors = record.tensors.empty() ? 1 : record.tensors.size();
      return checked<Concat>(record, constants, "concat", tensors, 0, tensors);
    }
    case StepKind::kResize: return checked<Resize>(record, constants, "resize", 1, 0, 2);
    case StepKind::kSlice: return checked<Slice>(record, constants, "slice", 1, 0, 2);
  }
  throw Error("program has a step of kind %" PRId64 ", which this library does not know", static_cast<std::int64_t>(record.kind));
}

}  // namespace onnxquant
