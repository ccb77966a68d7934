// Kernels of networks against plain loops: images lie between pages that cannot be touched, outputs between bytes that must stay.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define ONNXQUANT_GUARDED 1
#endif

#include "isa/float_mode.h"
#include "network/pack.h"
#include "tests/cases.h"

namespace onnxquant::tests {

using Random = std::mt19937;

inline std::int64_t between(Random& random, std::int64_t least, std::int64_t most) {
  return least + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most - least + 1));
}

// Bytes that end, or begin, where a page does that cannot be read.
class Guarded {
 public:
  Guarded(std::size_t bytes, bool at_end) {
#ifdef ONNXQUANT_GUARDED
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), inside = (bytes + page - 1) / page * page;
    size_ = inside + 2 * page;
    memory_ = static_cast<std::uint8_t*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(memory_, page, PROT_NONE);
    mprotect(memory_ + page + inside, page, PROT_NONE);
    data_ = memory_ + page + (at_end ? inside - bytes : 0);
#else
    static_cast<void>(at_end);
    bytes_.resize(bytes);
    data_ = bytes_.data();
#endif
  }
#ifdef ONNXQUANT_GUARDED
  ~Guarded() { munmap(memory_, size_); }
#endif
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  std::uint8_t* data() const { return data_; }

 private:
  std::uint8_t* data_;
#ifdef ONNXQUANT_GUARDED
  std::uint8_t* memory_;
  std::size_t size_;
#else
  std::vector<std::uint8_t> bytes_;
#endif
};

struct Border {
  std::int64_t top, left, bottom, right;
};

// An image with its border, all of it random; `gap` bytes are between rows.
struct TestImage {
  Image image;
  std::size_t bytes;
  Guarded memory;

  TestImage(std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t pixel, const Border& border,
            std::int64_t gap, std::int64_t behind, Random& random)
      : image{nullptr, height, width, channels, pixel, (border.left + width + border.right) * pixel + gap},
        bytes(static_cast<std::size_t>((border.top + height + border.bottom) * image.row + behind)),
        memory(bytes, random() % 2 == 0) {
    image.data = memory.data() + border.top * image.row + border.left * pixel;
    for (std::size_t i = 0; i < bytes; ++i) memory.data()[i] = static_cast<std::uint8_t>(random());
  }
  std::uint8_t at(std::int64_t y, std::int64_t x, std::int64_t c) const {
    return image.data[y * image.row + x * image.pixel + c];
  }
};

inline std::int64_t pixel_of(std::int64_t channels, bool may_be_small) {
  return may_be_small && channels <= kSmallPixel ? kSmallPixel : round_up(channels, kChannelBlock);
}

// The border that a window needs on the sides where outputs are computed.
inline Border border_of(const Window& window, std::int64_t height, std::int64_t width, std::int64_t out_height, std::int64_t out_width) {
  const auto beyond = [](std::int64_t out, std::int64_t stride, std::int64_t taps, std::int64_t dilation, std::int64_t pad,
                         std::int64_t size) {
    return std::max<std::int64_t>(0, (out - 1) * stride + (taps - 1) * dilation + 1 - pad - size);
  };
  return {window.pad_top, window.pad_left,
          beyond(out_height, window.stride_y, window.height, window.dilation_y, window.pad_top, height),
          beyond(out_width, window.stride_x, window.width, window.dilation_x, window.pad_left, width)};
}

struct Geometry {
  Window window;
  std::int64_t height, width, out_height, out_width;

  static Geometry of(Random& random, std::int64_t most_taps, std::int64_t most_pixels) {
    Geometry out{};
    Window& window = out.window;
    window.height = between(random, 1, most_taps);
    window.width = random() % 3 != 0 ? window.height : between(random, 1, most_taps);
    window.stride_y = between(random, 1, 3);
    window.stride_x = random() % 4 != 0 ? window.stride_y : between(random, 1, 3);
    if (random() % 4 == 0) window.dilation_y = window.dilation_x = 2;
    if (random() % 8 == 0) window.dilation_x = 3;
    window.pad_top = between(random, 0, window.height);
    window.pad_left = between(random, 0, window.width);
    out.height = between(random, 1, most_pixels);
    out.width = between(random, 1, most_pixels);
    out.out_height = out_size(random, out.height, window.height, window.dilation_y, window.stride_y, window.pad_top);
    out.out_width = out_size(random, out.width, window.width, window.dilation_x, window.stride_x, window.pad_left);
    return out;
  }
  TestImage input(std::int64_t channels, std::int64_t pixel, Random& random) const {
    const std::int64_t gap = random() % 3 == 0 ? 16 * between(random, 1, 4) : 0;
    return {height, width, channels, pixel, border_of(window, height, width, out_height, out_width), gap, slack(pixel), random};
  }
  TestImage output(std::int64_t channels, Random& random) const {
    const Border border{between(random, 0, 1), between(random, 0, 2), between(random, 0, 1), between(random, 0, 2)};
    return {out_height, out_width, channels, pixel_of(channels, false), border, 0, 0, random};
  }

 private:
  static std::int64_t out_size(Random& random, std::int64_t size, std::int64_t taps, std::int64_t dilation, std::int64_t stride,
                               std::int64_t pad) {
    const std::int64_t other_pad = between(random, 0, taps);
    return std::max<std::int64_t>(1, (size + pad + other_pad - (taps - 1) * dilation - 1) / stride + 1);
  }
};

// What a kernel may leave in an output: the expected codes in rows [begin, end), whatever pads their channels, and all else as it was.
template <class Expected>
void check_output(const std::string& what, const TestImage& out, const std::vector<std::uint8_t>& before, std::int64_t begin,
                  std::int64_t end, Expected expected) {
  const Image& image = out.image;
  std::vector<std::uint8_t> after(out.memory.data(), out.memory.data() + out.bytes);
  const std::int64_t first = image.data - out.memory.data();
  for (std::int64_t y = begin; y < end; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      for (std::int64_t c = 0; c < image.pixel; ++c) {
        const auto at = static_cast<std::size_t>(first + y * image.row + x * image.pixel + c);
        if (c < image.channels) {
          const std::uint8_t code = expected(y, x, c);
          if (after[at] != code) {
            return fail("%s: output (%d, %d, %d) is %d, not %d", what.c_str(), int(y), int(x), int(c), after[at], code);
          }
        }
        after[at] = before[at];
      }
    }
  }
  if (after != before) fail("%s writes beyond its rows", what.c_str());
}

// All rows, in one call or in several, on a fresh output.
template <class Kernel, class Expected>
void check_rows(const std::string& what, const TestImage& out, Random& random, Kernel kernel, Expected expected) {
  const std::vector<std::uint8_t> before(out.memory.data(), out.memory.data() + out.bytes);
  for (std::int64_t begin = 0; begin < out.image.height;) {
    const std::int64_t end = random() % 2 == 0 ? out.image.height : between(random, begin + 1, out.image.height);
    std::memcpy(out.memory.data(), before.data(), before.size());
    kernel(begin, end);
    check_output(what, out, before, begin, end, expected);
    begin = end;
  }
}

inline std::uint8_t code_of(double value, int zero, int low, int high) {
  const double code = std::nearbyint(value) + zero;
  return static_cast<std::uint8_t>(std::max<double>(low, std::min<double>(high, code)));
}

inline std::string text_of(const Geometry& shape, std::int64_t channels, std::int64_t out_channels) {
  const Window& window = shape.window;
  char text[200];
  std::snprintf(text, sizeof text, "%dx%dx%d -> %dx%dx%d, window %dx%d, stride %d %d, dilation %d %d, pads %d %d", int(shape.height),
                int(shape.width), int(channels), int(shape.out_height), int(shape.out_width), int(out_channels), int(window.height),
                int(window.width), int(window.stride_y), int(window.stride_x), int(window.dilation_y), int(window.dilation_x),
                int(window.pad_top), int(window.pad_left));
  return text;
}

struct TestConvolution {
  std::vector<std::int8_t> weights;
  std::vector<std::int32_t> bias;
  std::vector<float> scales;
  ConvolutionParts parts;

  // extreme: all sums are as large as they can be.
  TestConvolution(const Window& window, std::int64_t channels, std::int64_t pixel, std::int64_t out_channels, bool depthwise,
                  bool extreme, Random& random)
      : weights(static_cast<std::size_t>(out_channels * channels * window.height * window.width)),
        bias(static_cast<std::size_t>(out_channels)),
        scales(bias.size()) {
    for (std::int8_t& w : weights) w = static_cast<std::int8_t>(extreme ? (random() % 8 == 0 ? 127 : -128) : random());
    const double taps = static_cast<double>(channels * window.height * window.width);
    for (std::size_t i = 0; i < bias.size(); ++i) {
      bias[i] = extreme ? static_cast<std::int32_t>(random()) : static_cast<std::int32_t>(random()) >> 16;
      scales[i] = static_cast<float>((0.2 + static_cast<double>(random() % 1000) / 1000) / (std::sqrt(taps) * 74));
    }
    // Ties, and steps of outputs that are smaller than those of the sums.
    if (random() % 4 == 0) std::fill(scales.begin(), scales.end(), 0x1p-9f);
    if (random() % 8 == 0) scales[0] = random() % 2 == 0 ? 1.0f : 3.7e5f;
    const std::uint8_t zeros[] = {0, 255, 128, static_cast<std::uint8_t>(random())};
    const auto zero = zeros[random() % 4];
    const bool rectified = random() % 2 == 0, plain = rectified && random() % 2 == 0;
    const auto low = static_cast<std::uint8_t>(rectified ? (plain ? 0 : zero) : random() % 3 == 0 ? random() % 100 : 0);
    const auto high = static_cast<std::uint8_t>(!plain && random() % 3 == 0 ? std::max<std::int64_t>(low, between(random, 100, 255)) : 255);
    parts = ConvolutionParts{window, channels, pixel, out_channels, depthwise, weights.data(), random() % 4 == 0 ? nullptr : bias.data(),
                             scales.data(), zeros[random() % 4], plain ? std::uint8_t{0} : zero, low, high};
  }

  std::uint8_t expected(const TestImage& in, std::int64_t first, std::int64_t y, std::int64_t x, std::int64_t out) const {
    const Window& window = parts.window;
    std::int64_t sum = parts.bias != nullptr ? parts.bias[out] : 0;
    for (std::int64_t c = 0; c < parts.channels; ++c) {
      for (std::int64_t ky = 0; ky < window.height; ++ky) {
        for (std::int64_t kx = 0; kx < window.width; ++kx) {
          const std::int64_t row = (out * parts.channels + c) * window.height + ky;
          const int code = in.at(y * window.stride_y + ky * window.dilation_y - window.pad_top,
                                 x * window.stride_x + kx * window.dilation_x - window.pad_left, first + (parts.depthwise ? out : c));
          sum += (code - parts.x_zero) * weights[static_cast<std::size_t>(row * window.width + kx)];
        }
      }
    }
    const auto wrapped = static_cast<float>(static_cast<std::int32_t>(static_cast<std::uint64_t>(sum)));
    const float value = wrapped * scales[static_cast<std::size_t>(out)];
    return code_of(static_cast<double>(value), parts.zero, parts.low, parts.high);
  }
};

// All outputs, or some blocks after the others.
template <class Kernel>
void convolve_blocks(Kernel kernel, const PackedConvolution& packed, const Image& in, const Image& out, std::int64_t split,
                     std::int64_t begin, std::int64_t end) {
  const std::int64_t blocks = round_up(packed.get().out_channels, kChannelBlock) / kChannelBlock;
  if (split == 0 || split >= blocks) return kernel(packed.get(), in, out, begin, end);
  for (const std::int64_t first : {std::int64_t{0}, split}) {
    Image from = in, to = out;
    if (packed.get().depthwise) from.data += first * kChannelBlock;
    to.data += first * kChannelBlock;
    kernel(packed.blocks(first, first == 0 ? split : blocks), from, to, begin, end);
  }
}

inline void check_convolutions(const NetworkTable& table, const std::string& name, int count, Random& random) {
  for (int i = 0; i < count; ++i) {
    const std::int64_t kind = between(random, 0, 5);
    const Geometry shape = Geometry::of(random, kind == 0 ? 1 : kind == 1 ? 3 : 7, kind < 3 ? 12 : 20);
    const std::int64_t channels = kind == 2 ? between(random, 1, 4) : between(random, 1, kind == 0 ? 300 : 70);
    const std::int64_t out_channels = between(random, 1, 70), groups = random() % 8 == 0 && channels % 16 == 0 ? 3 : 1;
    const std::int64_t all = groups * channels, pixel = pixel_of(all, true), group = between(random, 0, groups - 1);
    const TestConvolution test(shape.window, channels, pixel, out_channels, false, random() % 4 == 0, random);
    const PackedConvolution packed(test.parts);
    TestImage in = shape.input(all, pixel, random), out = shape.output(out_channels, random);
    if (random() % 4 == 0) std::memset(in.memory.data(), 255, in.bytes);
    Image part = in.image;
    part.data += group * channels;
    check_rows(
        name + ": convolve " + text_of(shape, channels, out_channels), out, random,
        [&](std::int64_t begin, std::int64_t end) { convolve_blocks(table.convolve, packed, part, out.image, i % 3, begin, end); },
        [&](std::int64_t y, std::int64_t x, std::int64_t c) { return test.expected(in, group * channels, y, x, c); });
  }
}

inline void check_depthwise(const NetworkTable& table, const std::string& name, int count, Random& random) {
  for (int i = 0; i < count; ++i) {
    const Geometry shape = Geometry::of(random, i % 16 == 0 ? 11 : 7, i % 7 == 0 ? 130 : 20);
    const std::int64_t channels = between(random, 1, i % 3 == 0 ? 16 : 150), pixel = pixel_of(channels, false);
    const TestConvolution test(shape.window, 1, pixel, channels, true, random() % 4 == 0, random);
    const PackedConvolution packed(test.parts);
    TestImage in = shape.input(channels, pixel, random), out = shape.output(channels, random);
    check_rows(
        name + ": depthwise " + text_of(shape, channels, channels), out, random,
        [&](std::int64_t begin, std::int64_t end) { convolve_blocks(table.depthwise, packed, in.image, out.image, i % 3, begin, end); },
        [&](std::int64_t y, std::int64_t x, std::int64_t c) { return test.expected(in, 0, y, x, c); });
  }
}

inline void check_pools(const NetworkTable& table, const std::string& name, int count, Random& random) {
  for (int i = 0; i < count; ++i) {
    const Geometry shape = Geometry::of(random, 5, 20);
    const Window& window = shape.window;
    const std::int64_t channels = between(random, 1, 150), pixel = pixel_of(channels, false);
    TestImage in = shape.input(channels, pixel, random), out = shape.output(channels, random);
    const auto tap = [&](std::int64_t y, std::int64_t x, std::int64_t ky, std::int64_t kx, std::int64_t c) {
      return in.at(y * window.stride_y + ky * window.dilation_y - window.pad_top,
                   x * window.stride_x + kx * window.dilation_x - window.pad_left, c);
    };
    check_rows(
        name + ": max_pool " + text_of(shape, channels, channels), out, random,
        [&](std::int64_t begin, std::int64_t end) { table.max_pool(window, in.image, out.image, begin, end); },
        [&](std::int64_t y, std::int64_t x, std::int64_t c) {
          std::uint8_t most = 0;
          for (std::int64_t at = 0; at < window.height * window.width; ++at) {
            most = std::max(most, tap(y, x, at / window.width, at % window.width, c));
          }
          return most;
        });
    const Average average{window, 1.37f, 100, static_cast<std::uint8_t>(random()), random() % 2 == 0};
    const auto inside = [](std::int64_t from, std::int64_t at, std::int64_t dilation, std::int64_t size) {
      return from + at * dilation >= 0 && from + at * dilation < size;
    };
    check_rows(
        name + ": average_pool " + text_of(shape, channels, channels), out, random,
        [&](std::int64_t begin, std::int64_t end) { table.average_pool(average, in.image, out.image, begin, end); },
        [&](std::int64_t y, std::int64_t x, std::int64_t c) {
          std::int64_t sum = 0, taps = 0;
          for (std::int64_t at = 0; at < window.height * window.width; ++at) {
            const std::int64_t ky = at / window.width, kx = at % window.width;
            sum += tap(y, x, ky, kx, c) - average.x_zero;
            taps += average.counts_border || (inside(y * window.stride_y - window.pad_top, ky, window.dilation_y, shape.height) &&
                                              inside(x * window.stride_x - window.pad_left, kx, window.dilation_x, shape.width));
          }
          const float factor = average.factor / static_cast<float>(std::max<std::int64_t>(taps, 1));
          return code_of(static_cast<double>(static_cast<float>(sum) * factor), average.zero, 0, 255);
        });
    std::vector<std::int32_t> sums(static_cast<std::size_t>(pixel), 7);
    const std::int64_t begin = between(random, 0, shape.height - 1);
    table.pixel_sums(in.image, begin, shape.height, sums.data());
    for (std::int64_t c = 0; c < channels; ++c) {
      std::int32_t sum = 7;
      for (std::int64_t y = begin; y < shape.height; ++y) {
        for (std::int64_t x = 0; x < shape.width; ++x) sum += in.at(y, x, c);
      }
      if (sums[static_cast<std::size_t>(c)] != sum) {
        fail("%s: sum of channel %d of %d is %d, not %d", name.c_str(), int(c), int(channels), sums[static_cast<std::size_t>(c)], sum);
        break;
      }
    }
  }
}

inline void check_elementwise(const NetworkTable& table, const std::string& name, int count, Random& random) {
  for (int i = 0; i < count; ++i) {
    const std::int64_t channels = 16 * between(random, 1, 12), pixels = between(random, 1, 9), size = channels * pixels;
    const Border none{};
    TestImage a(1, pixels, channels, channels, none, 0, 0, random), b(1, pixels, channels, channels, none, 0, 0, random);
    TestImage out(1, pixels, channels, channels, none, 0, 0, random);
    const auto low = static_cast<std::uint8_t>(random() % 90), high = static_cast<std::uint8_t>(120 + random() % 136);
    const auto factor = [&] { return static_cast<float>(static_cast<double>(random() % 1000) / 500); };
    const Addition addition{factor(), random() % 4 == 0 ? 0.5f : factor(), factor() * 100 - 100, low, high};
    check_rows(
        name + ": add", out, random,
        [&](std::int64_t, std::int64_t) { table.add(addition, a.image.data, b.image.data, size, out.image.data); },
        [&](std::int64_t, std::int64_t x, std::int64_t c) {
          const float right = std::fma(addition.b_factor, static_cast<float>(b.at(0, x, c)), addition.offset);
          const float sum = std::fma(addition.a_factor, static_cast<float>(a.at(0, x, c)), right);
          return code_of(static_cast<double>(sum), 0, low, high);
        });
    const Multiplication by{random() % 4 == 0 ? 0.5f : factor() / 50, static_cast<std::uint8_t>(random()),
                            static_cast<std::uint8_t>(random()), static_cast<std::uint8_t>(random()), low, high};
    for (const bool one_pixel : {false, true}) {
      check_rows(
          name + (one_pixel ? ": multiply_channels" : ": multiply"), out, random,
          [&](std::int64_t, std::int64_t) {
            if (one_pixel) {
              table.multiply_channels(by, a.image.data, b.image.data, pixels, channels, out.image.data);
            } else {
              table.multiply(by, a.image.data, b.image.data, size, out.image.data);
            }
          },
          [&](std::int64_t, std::int64_t x, std::int64_t c) {
            const int product = (a.at(0, x, c) - by.a_zero) * (b.at(0, one_pixel ? 0 : x, c) - by.b_zero);
            const float scaled = static_cast<float>(product) * by.factor;
            return code_of(static_cast<double>(scaled + by.zero), 0, low, high);
          });
    }
    std::vector<std::uint8_t> tables(static_cast<std::size_t>(256 * channels));
    for (std::uint8_t& code : tables) code = static_cast<std::uint8_t>(random());
    check_rows(
        name + ": map_channels", out, random,
        [&](std::int64_t, std::int64_t) {
          table.map_channels(tables.data(), a.image.data, pixels, channels, channels, out.image.data);
        },
        [&](std::int64_t, std::int64_t x, std::int64_t c) { return tables[static_cast<std::size_t>(256 * c + a.at(0, x, c))]; });
  }
}

inline void check_planes(const NetworkTable& table, const std::string& name, int count, Random& random) {
  for (int i = 0; i < count; ++i) {
    const std::int64_t channels = between(random, 1, i % 2 == 0 ? 4 : 70), height = between(random, 1, 9), width = between(random, 1, 70);
    const std::int64_t pixel = pixel_of(channels, random() % 4 != 0), plane = height * width;
    const std::uint8_t flip = random() % 2 == 0 ? 0x80 : 0;
    const Border border{1, 2, 1, 1};
    TestImage planes(channels, plane, 1, 1, Border{}, 0, 0, random);
    TestImage image(height, width, channels, pixel, border, 0, 0, random);
    check_rows(
        name + ": from_planes", image, random,
        [&](std::int64_t begin, std::int64_t end) { table.from_planes(planes.image.data, flip, image.image, begin, end); },
        [&](std::int64_t y, std::int64_t x, std::int64_t c) {
          return static_cast<std::uint8_t>(planes.image.data[c * plane + y * width + x] ^ flip);
        });
    TestImage out(channels, plane, 1, 1, Border{}, 0, 0, random);
    const std::int64_t begin = between(random, 0, height - 1), end = between(random, begin + 1, height);
    const std::vector<std::uint8_t> before(out.image.data, out.image.data + channels * plane);
    table.to_planes(image.image, flip, out.image.data, begin, end);
    for (std::int64_t at = 0; at < channels * plane; ++at) {
      const std::int64_t y = at % plane / width;
      const auto expected = static_cast<std::uint8_t>(
          y < begin || y >= end ? before[static_cast<std::size_t>(at)] : image.at(y, at % width, at / plane) ^ flip);
      if (out.image.data[at] != expected) {
        fail("%s: to_planes of %d channels of %d x %d is wrong", name.c_str(), int(channels), int(height), int(width));
        break;
      }
    }
  }
}

// `count` convolutions of either kind, and fewer of all else, as the op calls them.
inline void check_network(const NetworkTable& table, const char* name, int count) {
  const FloatMode mode;
  Random random(7);
  check_convolutions(table, name, count, random);
  check_depthwise(table, name, count, random);
  check_pools(table, name, count / 4, random);
  check_elementwise(table, name, count / 4, random);
  check_planes(table, name, count / 4, random);
}

}  // namespace onnxquant::tests
