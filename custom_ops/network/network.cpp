#include "network/network.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <new>
#include <thread>

#include "isa/dispatch.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

constexpr std::int64_t kAlignment = 64;
// Nanoseconds of a piece of work, by the estimate of steps: longer than handing it to a thread.
constexpr double kPiece = 12e3;
// Layouts that are kept for calls to come.
constexpr std::size_t kMostSpare = 4;

// Whether bytes of an image, with its borders, might not be counted in 64 bits.
bool is_huge(const Size& size) {
  constexpr std::int64_t kMostLength = std::int64_t{1} << 31, kMostElements = std::int64_t{1} << 34;
  if (size.height > kMostLength || size.width > kMostLength || size.channels > kMostLength) return true;
  return size.height > kMostElements / size.width || size.height * size.width > kMostElements / size.channels;
}

// Sizes of all tensors.
std::vector<Size> sizes_of(const std::vector<std::unique_ptr<Step>>& steps, const std::vector<Size>& inputs) {
  std::vector<Size> sizes = inputs;
  for (const Size& size : inputs) {
    if (size.height < 1 || size.width < 1 || size.channels < 1 || is_huge(size)) {
      throw Error("an input of %" PRId64 " x %" PRId64 " pixels of %" PRId64 " channels", size.height, size.width, size.channels);
    }
  }
  for (const auto& step : steps) {
    std::vector<Size> in;
    for (const std::size_t tensor : step->tensors()) in.push_back(sizes[tensor]);
    const Size size = step->size(in);
    if (size.height < 1 || size.width < 1 || size.channels < 1 || is_huge(size)) {
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

// Writes the border around an image.
void fill_border(const Image& image, const Border& border) {
  if (border.is_empty()) return;
  const std::int64_t left = border.left * image.pixel, right = border.right * image.pixel;
  const auto set = [&](std::uint8_t* from, std::int64_t count) {
    std::memset(from, border.code, static_cast<std::size_t>(count));
  };
  const auto row = [&](std::int64_t y) { return image.data + y * image.row; };
  for (std::int64_t y = -border.top; y < 0; ++y) set(row(y) - left, image.row);
  for (std::int64_t y = 0; y < image.height; ++y) {
    set(row(y) - left, left);
    set(row(y) + image.width * image.pixel, right);
  }
  for (std::int64_t y = image.height; y < image.height + border.bottom; ++y) set(row(y) - left, image.row);
}

}  // namespace

// Where the tensors of one size of inputs are. One call at a time uses it.
class Layout {
 public:
  Layout(const std::vector<std::unique_ptr<Step>>& steps, const std::vector<Size>& inputs, const std::vector<std::size_t>& outputs)
      : inputs_(inputs), sizes_(sizes_of(steps, inputs)), borders_(sizes_.size()) {
    const std::size_t count = sizes_.size(), end = steps.size();
    // Steps of which the last reads a tensor; it is computed in step `i - inputs`, inputs before the first one.
    std::vector<std::size_t> last(count, 0);
    std::vector<bool> is_small(count, false);
    for (std::size_t i = 0; i < inputs.size(); ++i) is_small[i] = sizes_[i].channels <= kSmallPixel;
    for (std::size_t s = 0; s < end; ++s) {
      for (const std::size_t tensor : steps[s]->tensors()) {
        last[tensor] = s;
        is_small[tensor] = is_small[tensor] && steps[s]->takes_small_pixels();
      }
      widen(steps[s]->tensors().front(), steps[s]->border());
    }
    for (std::size_t i = inputs.size(); i < count; ++i) last[i] = std::max(last[i], i - inputs.size());
    for (const std::size_t tensor : outputs) last[tensor] = std::max(last[tensor], tensor < inputs.size() ? 0 : tensor - inputs.size());

    Room room;
    std::vector<std::size_t> offsets(count);
    for (std::size_t i = 0; i < count; ++i) {
      const Size& size = sizes_[i];
      const Border& border = borders_[i];
      Image image{};
      image.height = size.height;
      image.width = size.width;
      image.channels = size.channels;
      image.pixel = is_small[i] ? kSmallPixel
                               : round_up(size.channels, kChannelBlock);
      image.row = (border.left + size.width + border.right) * image.pixel;
      const std::int64_t bytes = (border.top + size.height + border.bottom) * image.row + slack(image.pixel);
      const std::size_t step = i < inputs.size() ? 0 : i - inputs.size();
      offsets[i] = room.place(static_cast<std::size_t>(round_up(bytes, kAlignment)), step, last[i]);
      images_.push_back(image);
    }
    memory_.reset(static_cast<std::uint8_t*>(::operator new(room.bytes(), std::align_val_t{kAlignment})));
    std::memset(memory_.get(), 0, room.bytes());
    for (std::size_t i = 0; i < count; ++i) {
      images_[i].data = memory_.get() + offsets[i] + borders_[i].top * images_[i].row + borders_[i].left * images_[i].pixel;
    }
    // Two pieces for each processor keep all of them busy.
    const auto most = static_cast<std::int64_t>(2 * std::max(1u, std::thread::hardware_concurrency()));
    for (std::size_t s = 0; s < end; ++s) {
      std::vector<Size> in;
      std::vector<Image> images;
      for (const std::size_t tensor : steps[s]->tensors()) {
        in.push_back(sizes_[tensor]);
        images.push_back(images_[tensor]);
      }
      const Size& out = sizes_[inputs.size() + s];
      const auto wanted = static_cast<std::int64_t>(steps[s]->duration(in, out) / kPiece);
      pieces_.push_back(std::clamp(wanted, std::int64_t{1}, std::min(most, out.height)));
      read_.push_back(std::move(images));
    }
  }

  bool fits(const std::vector<Size>& inputs) const {
    return std::equal(inputs.begin(), inputs.end(), inputs_.begin(), inputs_.end(), [](const Size& a, const Size& b) {
      return a.height == b.height && a.width == b.width && a.channels == b.channels;
    });
  }
  const Image& image(std::size_t tensor) const { return images_[tensor]; }
  const Border& border(std::size_t tensor) const { return borders_[tensor]; }
  const std::vector<Image>& read_by(std::size_t step) const { return read_[step]; }
  std::int64_t pieces(std::size_t step) const { return pieces_[step]; }

 private:
  void widen(std::size_t tensor, const Border& border) {
    if (border.is_empty()) return;
    Border& wide = borders_[tensor];
    if (!wide.is_empty() && wide.code != border.code) throw Error("two steps read tensor %zu with different zero points", tensor);
    wide = {std::max(wide.top, border.top), std::max(wide.left, border.left), std::max(wide.bottom, border.bottom),
            std::max(wide.right, border.right), border.code};
  }

  struct Free {
    void operator()(std::uint8_t* bytes) const { ::operator delete(bytes, std::align_val_t{kAlignment}); }
  };

  std::vector<Size> inputs_, sizes_;
  std::vector<Border> borders_;
  std::vector<Image> images_;
  std::vector<std::vector<Image>> read_;  // by each step
  std::vector<std::int64_t> pieces_;      // of each step's rows
  std::unique_ptr<std::uint8_t, Free> memory_;
};

Network::Network(const std::vector<StepRecord>& program, const Constants& constants, std::size_t inputs,
                 const std::vector<std::int64_t>& outputs)
    : inputs_(inputs), is_signed_(constants.is_signed()) {
  for (const StepRecord& record : program) steps_.push_back(make_step(record, constants));
  for (const std::int64_t tensor : outputs) {
    if (tensor < static_cast<std::int64_t>(inputs) || tensor >= static_cast<std::int64_t>(inputs + steps_.size())) {
      throw Error("output %" PRId64 " is no tensor that a step computes", tensor);
    }
    outputs_.push_back(static_cast<std::size_t>(tensor));
  }
}

Network::~Network() = default;

std::vector<Size> Network::sizes(const std::vector<Size>& inputs) const {
  const std::vector<Size> all = sizes_of(steps_, inputs);
  std::vector<Size> out;
  for (const std::size_t tensor : outputs_) out.push_back(all[tensor]);
  return out;
}

std::unique_ptr<Layout> Network::take_layout(const std::vector<Size>& inputs) const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& spare : spare_) {
      if (!spare->fits(inputs)) continue;
      std::swap(spare, spare_.back());
      std::unique_ptr<Layout> layout = std::move(spare_.back());
      spare_.pop_back();
      return layout;
    }
  }
  return std::make_unique<Layout>(steps_, inputs, outputs_);
}

void Network::run(const InstructionSet& set, const std::vector<Batch>& inputs, const std::vector<Batch>& outputs,
                  Parallel& parallel) const {
  const NetworkTable& kernels = *set.network;
  const std::uint8_t sign = is_signed_ ? 0x80 : 0;
  std::vector<Size> sizes;
  for (const Batch& batch : inputs) {
    sizes.push_back(batch.size);
    if (batch.samples != inputs.front().samples) {
      throw Error("inputs of %" PRId64 " and %" PRId64 " samples", inputs.front().samples, batch.samples);
    }
  }
  std::unique_ptr<Layout> layout = take_layout(sizes);
  const auto sample_of = [](const Batch& batch, std::int64_t sample) {
    return static_cast<std::uint8_t*>(batch.data) + sample * batch.size.channels * batch.size.height * batch.size.width;
  };
  for (std::int64_t sample = 0; sample < inputs.front().samples; ++sample) {
    for (std::size_t i = 0; i < inputs_; ++i) {
      const Image& image = layout->image(i);
      kernels.from_planes(sample_of(inputs[i], sample), sign, image, 0, image.height);
      fill_border(image, layout->border(i));
    }
    for (std::size_t s = 0; s < steps_.size(); ++s) {
      const std::size_t made = inputs_ + s;
      const Image& out = layout->image(made);
      const std::int64_t pieces = layout->pieces(s), rows = (out.height + pieces - 1) / pieces;
      fill_border(out, layout->border(made));
      const auto piece = [&](std::size_t i) {
        const std::int64_t begin = static_cast<std::int64_t>(i) * rows;
        if (begin < out.height) steps_[s]->run(set, layout->read_by(s), out, begin, std::min(out.height, begin + rows));
      };
      if (pieces == 1) {
        piece(0);
      } else {
        parallel_for(parallel, static_cast<std::size_t>(pieces), piece);
      }
      for (std::size_t i = 0; i < outputs_.size(); ++i) {
        if (outputs_[i] == made) kernels.to_planes(out, sign, sample_of(outputs[i], sample), 0, out.height);
      }
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spare_.size() == kMostSpare) spare_.erase(spare_.begin());
  spare_.push_back(std::move(layout));
}

}  // namespace onnxquant
