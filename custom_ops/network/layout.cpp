#include "network/layout.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <thread>

#include "kernels/error.h"

namespace onnxquant {
namespace {

constexpr std::int64_t kAlignment = 64;
// A network may take so much memory, and so many nanoseconds, and besides so much for each byte of its inputs: far beyond any that is
// of use, but factors and windows of a damaged program would fill the memory, or never come to an end.
constexpr double kMostBytes = 1 << 28, kMostBytesOfByte = 1 << 16;
constexpr double kMostDuration = 1e9, kMostDurationOfByte = 1e6;

double bytes_of(const Size& size) {
  return static_cast<double>(size.height) * static_cast<double>(size.width) * static_cast<double>(size.channels);
}

// Whether bytes of an image might not be counted in 64 bits.
bool is_huge(const Size& size) {
  constexpr std::int64_t kMostLength = std::int64_t{1} << 31;
  constexpr double kMostElements = 0x1p34;
  return size.height > kMostLength || size.width > kMostLength || size.channels > kMostLength || bytes_of(size) > kMostElements;
}

bool is_empty(const Size& size) { return size.height < 1 || size.width < 1 || size.channels < 1; }

std::vector<Size> sizes_read(const Step& step, const std::vector<Size>& sizes) {
  std::vector<Size> in;
  for (const std::size_t tensor : step.tensors()) in.push_back(sizes[tensor]);
  return in;
}

// Sizes of all tensors.
std::vector<Size> sizes_of(const std::vector<std::unique_ptr<Step>>& steps, const std::vector<Size>& inputs) {
  std::vector<Size> sizes = inputs;
  for (const Size& size : inputs) {
    if (is_empty(size) || is_huge(size)) {
      throw Error("an input of %" PRId64 " x %" PRId64 " pixels of %" PRId64 " channels", size.height, size.width, size.channels);
    }
  }
  for (const auto& step : steps) {
    const Size size = step->size(sizes_read(*step, sizes));
    if (is_empty(size) || is_huge(size)) {
      throw Error("step %zu computes %" PRId64 " x %" PRId64 " pixels of %" PRId64 " channels", sizes.size() - inputs.size(),
                  size.height, size.width, size.channels);
    }
    sizes.push_back(size);
  }
  return sizes;
}

// Memory that is free from a step on.
struct Block {
  std::size_t offset, bytes;
  std::size_t last_step;
};

// Finds room in one piece of memory for tensors that are needed for some steps only.
class Room {
 public:
  std::size_t bytes() const { return bytes_; }

  // Offset of memory that nobody else uses from `step` until after `last_step`.
  std::size_t place(std::size_t bytes, std::size_t step, std::size_t last_step) {
    blocks_.erase(std::remove_if(blocks_.begin(), blocks_.end(), [&](const Block& b) { return b.last_step < step; }),
                  blocks_.end());
    std::size_t offset = 0;
    auto before = blocks_.begin();
    for (; before != blocks_.end() && before->offset - offset < bytes; ++before) offset = before->offset + before->bytes;
    blocks_.insert(before, Block{offset, bytes, last_step});
    bytes_ = std::max(bytes_, offset + bytes);
    return offset;
  }

 private:
  std::vector<Block> blocks_;  // by their offsets
  std::size_t bytes_ = 0;
};

}  // namespace

// The step of which the last reads each tensor, and whether its pixels may be small. Inputs are there before step 0.
struct Layout::Uses {
  std::vector<std::size_t> last;
  std::vector<bool> is_small;
};

void Layout::Free::operator()(std::uint8_t* bytes) const { ::operator delete(bytes, std::align_val_t{kAlignment}); }

Layout::Layout(const std::vector<std::unique_ptr<Step>>& steps, const std::vector<Size>& inputs,
               const std::vector<std::size_t>& outputs)
    : inputs_(inputs.size()), sizes_(sizes_of(steps, inputs)), borders_(sizes_.size()) {
  Uses uses{std::vector<std::size_t>(sizes_.size(), 0), std::vector<bool>(sizes_.size(), false)};
  double bytes = 0;
  for (std::size_t i = 0; i < inputs_; ++i) {
    uses.is_small[i] = sizes_[i].channels <= kSmallPixel;
    bytes += bytes_of(sizes_[i]);
  }
  for (std::size_t s = 0; s < steps.size(); ++s) {
    uses.last[inputs_ + s] = s;
    for (const std::size_t tensor : steps[s]->tensors()) {
      uses.last[tensor] = s;
      uses.is_small[tensor] = uses.is_small[tensor] && steps[s]->takes_small_pixels();
    }
    const std::size_t first = steps[s]->tensors().front();
    widen(first, steps[s]->border(sizes_[first]));
  }
  for (const std::size_t tensor : outputs) uses.last[tensor] = std::max(uses.last[tensor], tensor - inputs_);
  place(uses, kMostBytes + kMostBytesOfByte * bytes);
  share_out(steps, kMostDuration + kMostDurationOfByte * bytes);
}

void Layout::widen(std::size_t tensor, const Border& border) {
  if (border.is_empty()) return;
  Border& wide = borders_[tensor];
  if (!wide.is_empty() && wide.code != border.code) throw Error("two steps read tensor %zu with different zero points", tensor);
  wide = {std::max(wide.top, border.top), std::max(wide.left, border.left), std::max(wide.bottom, border.bottom),
          std::max(wide.right, border.right), border.code};
}

void Layout::place(const Uses& uses, double most_bytes) {
  Room room;
  std::vector<std::size_t> offsets;
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    const Size& size = sizes_[i];
    const Border& border = borders_[i];
    const std::int64_t pixel = uses.is_small[i] ? kSmallPixel : round_up(size.channels, kChannelBlock);
    const Size all{border.top + size.height + border.bottom, border.left + size.width + border.right, pixel};
    if (is_huge(all) || bytes_of(all) > most_bytes) {
      throw Error("tensor %zu takes %" PRId64 " x %" PRId64 " pixels of %" PRId64 " bytes, which is too much", i, all.height, all.width,
                  all.channels);
    }
    images_.push_back(Image{nullptr, size.height, size.width, size.channels, pixel, all.width * pixel});
    const std::int64_t bytes = all.height * images_[i].row + slack(pixel);
    offsets.push_back(room.place(static_cast<std::size_t>(round_up(bytes, kAlignment)), i < inputs_ ? 0 : i - inputs_, uses.last[i]));
    if (static_cast<double>(room.bytes()) > most_bytes) throw Error("tensors to %zu take %zu bytes, which is too much", i, room.bytes());
  }
  memory_.reset(static_cast<std::uint8_t*>(::operator new(room.bytes(), std::align_val_t{kAlignment})));
  std::memset(memory_.get(), 0, room.bytes());
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    Image& image = images_[i];
    image.data = memory_.get() + offsets[i] + borders_[i].top * image.row + borders_[i].left * image.pixel;
  }
}

void Layout::share_out(const std::vector<std::unique_ptr<Step>>& steps, double most_duration) {
  const std::size_t threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<Phase> phases;
  double all = 0;
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    const Size& out = sizes_[i];
    TensorWork work{Axis::kRows, {}};
    double duration = bytes_of(out) / kWrites;
    if (i >= inputs_) {
      const Step& step = *steps[i - inputs_];
      const std::vector<Size> in = sizes_read(step, sizes_);
      work.axis = step.axis(in, out);
      duration = step.duration(in, out);
      for (const std::size_t tensor : step.tensors()) work.reads.push_back(images_[tensor]);
    }
    all += duration;
    if (!(all <= most_duration)) throw Error("steps to %zu take about %.0f seconds, which is too much", i - inputs_, all * 1e-9);
    phases.push_back({work.axis == Axis::kRows ? out.height : round_up(out.channels, kChannelBlock) / kChannelBlock, duration});
    work_.push_back(std::move(work));
  }
  crew_ = std::make_unique<Crew>(phases, threads);
}

bool Layout::fits(const std::vector<Size>& inputs) const {
  return std::equal(inputs.begin(), inputs.end(), sizes_.begin(), sizes_.begin() + static_cast<std::ptrdiff_t>(inputs_));
}

void Layout::fill_border(std::size_t tensor, const Part& part) const {
  const Border& border = borders_[tensor];
  const bool by_rows = part.axis == Axis::kRows;
  if (border.is_empty() || (!by_rows && part.begin > 0)) return;
  const Image& image = images_[tensor];
  const std::int64_t left = border.left * image.pixel, right = border.right * image.pixel;
  const std::int64_t begin = by_rows ? part.begin : 0, end = by_rows ? part.end : image.height;
  const auto set = [&](std::uint8_t* from, std::int64_t count) {
    std::memset(from, border.code, static_cast<std::size_t>(count));
  };
  const auto row = [&](std::int64_t y) { return image.data + y * image.row; };
  if (begin == 0 && border.top > 0) set(row(-border.top) - left, border.top * image.row);
  for (std::int64_t y = begin; y < end; ++y) {
    set(row(y) - left, left);
    set(row(y) + image.width * image.pixel, right);
  }
  if (end == image.height && border.bottom > 0) set(row(end) - left, border.bottom * image.row);
}

}  // namespace onnxquant
