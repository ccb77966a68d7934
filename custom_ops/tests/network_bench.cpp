// Times the kernels of networks on one thread: microseconds and 10^9 multiplications of each shape.
//
//     network_bench [ISA [WORD]]     ISA: an instruction set, else the best one; WORD: only shapes whose name has it
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "isa/float_mode.h"
#include "network/pack.h"

using namespace onnxquant;

namespace {

// A convolution of a network, and how often it has that.
struct Shape {
  const char* group;
  std::int64_t size, width;  // of the input
  std::int64_t channels, out_channels, window, stride;
  bool depthwise;
  int times;
};

constexpr Shape kShapes[] = {
    {"mobilenet_v2", 224, 224, 3, 32, 3, 2, false, 1},  {"mobilenet_v2", 112, 112, 32, 32, 3, 1, true, 1},
    {"mobilenet_v2", 112, 112, 32, 16, 1, 1, false, 1}, {"mobilenet_v2", 112, 112, 16, 96, 1, 1, false, 1},
    {"mobilenet_v2", 112, 112, 96, 96, 3, 2, true, 1},  {"mobilenet_v2", 56, 56, 96, 24, 1, 1, false, 1},
    {"mobilenet_v2", 56, 56, 24, 144, 1, 1, false, 2},  {"mobilenet_v2", 56, 56, 144, 144, 3, 1, true, 1},
    {"mobilenet_v2", 56, 56, 144, 24, 1, 1, false, 1},  {"mobilenet_v2", 56, 56, 144, 144, 3, 2, true, 1},
    {"mobilenet_v2", 28, 28, 144, 32, 1, 1, false, 1},  {"mobilenet_v2", 28, 28, 32, 192, 1, 1, false, 3},
    {"mobilenet_v2", 28, 28, 192, 192, 3, 1, true, 2},  {"mobilenet_v2", 28, 28, 192, 32, 1, 1, false, 2},
    {"mobilenet_v2", 28, 28, 192, 192, 3, 2, true, 1},  {"mobilenet_v2", 14, 14, 192, 64, 1, 1, false, 1},
    {"mobilenet_v2", 14, 14, 64, 384, 1, 1, false, 4},  {"mobilenet_v2", 14, 14, 384, 384, 3, 1, true, 4},
    {"mobilenet_v2", 14, 14, 384, 64, 1, 1, false, 3},  {"mobilenet_v2", 14, 14, 384, 96, 1, 1, false, 1},
    {"mobilenet_v2", 14, 14, 96, 576, 1, 1, false, 3},  {"mobilenet_v2", 14, 14, 576, 576, 3, 1, true, 2},
    {"mobilenet_v2", 14, 14, 576, 96, 1, 1, false, 2},  {"mobilenet_v2", 14, 14, 576, 576, 3, 2, true, 1},
    {"mobilenet_v2", 7, 7, 576, 160, 1, 1, false, 1},   {"mobilenet_v2", 7, 7, 160, 960, 1, 1, false, 3},
    {"mobilenet_v2", 7, 7, 960, 960, 3, 1, true, 3},    {"mobilenet_v2", 7, 7, 960, 160, 1, 1, false, 2},
    {"mobilenet_v2", 7, 7, 960, 320, 1, 1, false, 1},   {"mobilenet_v2", 7, 7, 320, 1280, 1, 1, false, 1},
    {"dense", 112, 112, 16, 16, 3, 1, false, 1},        {"dense", 56, 56, 32, 32, 3, 1, false, 1},
    {"dense", 56, 56, 64, 64, 3, 1, false, 1},          {"dense", 28, 28, 128, 128, 3, 1, false, 1},
    {"dense", 28, 28, 128, 128, 3, 2, false, 1},        {"dense", 14, 14, 256, 256, 3, 1, false, 1},
    {"dense", 7, 7, 512, 512, 3, 1, false, 1},          {"dense", 224, 224, 3, 64, 7, 2, false, 1},
    {"depthwise", 56, 56, 64, 64, 3, 1, true, 1},       {"depthwise", 56, 56, 64, 64, 3, 2, true, 1},
    {"depthwise", 56, 56, 64, 64, 5, 1, true, 1},       {"depthwise", 56, 56, 64, 64, 5, 2, true, 1},
    {"depthwise", 56, 56, 64, 64, 7, 1, true, 1},       {"depthwise", 56, 56, 16, 16, 3, 1, true, 1},
    {"depthwise", 28, 28, 72, 72, 5, 2, true, 1},       {"depthwise", 12, 80, 120, 120, 5, 1, true, 1},
    {"pointwise", 28, 28, 16, 16, 1, 1, false, 1},      {"pointwise", 28, 28, 64, 64, 1, 1, false, 1},
    {"pointwise", 28, 28, 256, 256, 1, 1, false, 1},    {"pointwise", 14, 14, 1280, 1280, 1, 1, false, 1},
    {"pointwise", 1, 1, 960, 240, 1, 1, false, 1},      {"pointwise", 1, 40, 480, 480, 1, 1, false, 1},
    {"pointwise", 8, 8, 128, 256, 1, 2, false, 1},
    // Those of scripts/bench_integer_shapes.py.
    {"table", 224, 224, 3, 32, 3, 2, false, 1},         {"table", 224, 224, 3, 64, 7, 2, false, 1},
    {"table", 64, 320, 1, 32, 3, 1, false, 1},          {"table", 112, 112, 16, 16, 3, 1, false, 1},
    {"table", 56, 56, 64, 64, 3, 1, false, 1},          {"table", 14, 14, 256, 256, 3, 1, false, 1},
    {"table", 56, 56, 64, 64, 3, 1, true, 1},           {"table", 56, 56, 64, 64, 3, 2, true, 1},
    {"table", 56, 56, 64, 64, 5, 1, true, 1},           {"table", 56, 56, 64, 64, 5, 2, true, 1},
    {"table", 56, 56, 64, 64, 7, 1, true, 1},           {"table", 56, 56, 64, 64, 7, 2, true, 1},
    {"table", 56, 56, 16, 16, 1, 1, false, 1},          {"table", 56, 56, 32, 32, 1, 1, false, 1},
    {"table", 28, 28, 64, 64, 1, 1, false, 1},          {"table", 28, 28, 128, 128, 1, 1, false, 1},
    {"table", 14, 14, 256, 256, 1, 1, false, 1},        {"table", 14, 14, 640, 640, 1, 1, false, 1},
    {"table", 7, 7, 1280, 1280, 1, 1, false, 1},
};

// An image with a border, in memory of its own.
class Memory {
 public:
  Memory(std::int64_t height, std::int64_t width, std::int64_t channels, bool small, std::int64_t border) {
    const std::int64_t pixel = small && channels <= kSmallPixel ? kSmallPixel : round_up(channels, kChannelBlock);
    const std::int64_t row = (width + 2 * border) * pixel;
    bytes_.resize(static_cast<std::size_t>((height + 2 * border) * row + slack(pixel) + 64));
    std::mt19937 random(1);
    for (std::uint8_t& byte : bytes_) byte = static_cast<std::uint8_t>(random());
    const auto past = reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64;
    image_ = Image{bytes_.data() + (64 - past) % 64 + border * row + border * pixel, height, width, channels, pixel, row};
  }
  const Image& image() const { return image_; }

 private:
  std::vector<std::uint8_t> bytes_;
  Image image_;
};

// The least time of a call, in microseconds.
double microseconds(const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  const auto spent = [&](int calls) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  };
  call();
  const int calls = std::max(1, static_cast<int>(400 / std::max(spent(1), 0.1)));
  double least = 1e30;
  for (int i = 0; i < 15; ++i) least = std::min(least, spent(calls) / calls);
  return least;
}

void show(const char* name, double time, double work, const char* unit) {
  std::printf("%-64s %9.2f us %8.1f %s\n", name, time, work / time * 1e-3, unit);
}

// Its time in microseconds, as often as the network has it.
double time_convolution(const NetworkTable& table, const Shape& shape, const char* word) {
  const std::int64_t pad = (shape.window - 1) / 2, out_height = (shape.size - 1) / shape.stride + 1;
  const std::int64_t out_width = (shape.width - 1) / shape.stride + 1;
  char name[160];
  std::snprintf(name, sizeof name, "%s%s %dx%dx%d -> %d, %dx%d, stride %d", shape.group, shape.depthwise ? " depthwise" : "",
                int(shape.size), int(shape.width), int(shape.channels), int(shape.out_channels), int(shape.window), int(shape.window),
                int(shape.stride));
  if (std::strstr(name, word) == nullptr) return 0;
  const Memory in(shape.size, shape.width, shape.channels, true, pad);
  const Memory out(out_height, out_width, shape.out_channels, false, shape.depthwise ? 0 : 1);
  const std::int64_t channels = shape.depthwise ? 1 : shape.channels, taps = channels * shape.window * shape.window;
  std::vector<std::int8_t> weights(static_cast<std::size_t>(shape.out_channels * taps));
  std::mt19937 random(2);
  for (std::int8_t& weight : weights) weight = static_cast<std::int8_t>(random() % 61 - 30);
  const std::vector<float> scales(static_cast<std::size_t>(shape.out_channels), 0.0013f);
  Window window{shape.window, shape.window};
  window.stride_y = window.stride_x = shape.stride;
  window.pad_top = window.pad_left = pad;
  // Those that lower the number of channels have no rectifier behind them.
  const bool linear = !shape.depthwise && shape.window == 1 && shape.channels > shape.out_channels;
  const std::uint8_t zero = linear ? 120 : 0;
  const PackedConvolution packed({window, channels, in.image().pixel, shape.out_channels, shape.depthwise, weights.data(), nullptr,
                                  scales.data(), 0, zero, 0, 255});
  const auto kernel = shape.depthwise ? table.depthwise : table.convolve;
  const double time = microseconds([&] { kernel(packed.get(), in.image(), out.image(), 0, out_height); });
  show(name, time, static_cast<double>(out_height * out_width * shape.out_channels * taps), "GMAC/s");
  return time * shape.times;
}

void time_others(const NetworkTable& table, const char* word) {
  const Memory a(56, 56, 96, false, 0), b(56, 56, 96, false, 0), out(56, 56, 96, false, 0), small(224, 224, 3, true, 1);
  const Image &x = a.image(), &y = out.image();
  const std::int64_t bytes = x.height * x.row;
  const auto timed = [&](const char* name, std::int64_t count, const std::function<void()>& call) {
    if (std::strstr(name, word) != nullptr) show(name, microseconds(call), static_cast<double>(count), "GB/s");
  };
  timed("add 56x56x96", bytes, [&] { table.add({0.4f, 0.7f, 3, 0, 255}, x.data, b.image().data, bytes, y.data); });
  timed("multiply 56x56x96", bytes, [&] { table.multiply({0.004f, 3, 4, 5, 0, 255}, x.data, b.image().data, bytes, y.data); });
  timed("multiply_channels 56x56x96", bytes,
        [&] { table.multiply_channels({0.004f, 3, 4, 5, 0, 255}, x.data, b.image().data, 56 * 56, 96, y.data); });
  std::vector<std::int32_t> sums(96);
  timed("pixel_sums 56x56x96", bytes, [&] { table.pixel_sums(x, 0, x.height, sums.data()); });
  Window window{3, 3};
  window.stride_y = window.stride_x = 2;
  Image half = y;
  half.height = half.width = 27;
  timed("max_pool 56x56x96, 3x3, stride 2", bytes, [&] { table.max_pool(window, x, half, 0, 27); });
  timed("average_pool 56x56x96, 3x3, stride 2", bytes,
        [&] { table.average_pool({window, 1.0f, 0, 0, false}, x, half, 0, 27); });
  std::vector<std::uint8_t> planes(static_cast<std::size_t>(bytes)), tables(256 * 96, 1);
  timed("map_channels 56x56x96", bytes, [&] { table.map_channels(tables.data(), x.data, 56 * 56, 96, 96, y.data); });
  timed("from_planes 56x56x96", bytes, [&] { table.from_planes(planes.data(), 0, y, 0, 56); });
  timed("to_planes 56x56x96", bytes, [&] { table.to_planes(x, 0, planes.data(), 0, 56); });
  timed("from_planes 224x224x3", 224 * 224 * 3, [&] { table.from_planes(planes.data(), 0, small.image(), 0, 224); });
}

int run(const char* isa, const char* word) {
  const InstructionSet& set = instruction_set(isa);
  const FloatMode mode;
  std::printf("%s\n", set.name);
  double network = 0;
  for (const Shape& shape : kShapes) {
    const double time = time_convolution(*set.network, shape, word);
    if (std::string(shape.group) == "mobilenet_v2") network += time;
  }
  time_others(*set.network, word);
  std::printf("52 convolutions of mobilenet_v2: %.3f ms\n", network / 1000);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count > 1 ? arguments[1] : nullptr, count > 2 ? arguments[2] : "");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
