// A step of a part of a network: what it needs of its tensors, and what it computes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "network/kernels.h"
#include "network/program.h"

namespace onnxquant {

struct InstructionSet;

struct Size {
  std::int64_t height, width, channels;

  bool operator==(const Size& other) const {
    return height == other.height && width == other.width && channels == other.channels;
  }
};

// What a thread computes of a tensor: rows, or blocks of kChannelBlock channels.
enum class Axis { kRows, kBlocks };
struct Part {
  Axis axis;
  std::int64_t begin, end;
};

// Bytes that a processor writes in a nanosecond where it does little else, about.
constexpr double kWrites = 8;

// Pixels around an image, of one code.
struct Border {
  std::int64_t top = 0, left = 0, bottom = 0, right = 0;
  std::uint8_t code = 0;

  bool is_empty() const { return top + left + bottom + right == 0; }
};

class Step {
 public:
  explicit Step(std::vector<std::size_t> tensors) : tensors_(std::move(tensors)) {}
  virtual ~Step() = default;
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  // Numbers of the tensors that it reads.
  const std::vector<std::size_t>& tensors() const { return tensors_; }
  // Size of what it computes. Throws Error where the sizes of its tensors do not fit.
  virtual Size size(const std::vector<Size>& in) const = 0;
  // What it reads around its first tensor, which is of that size.
  virtual Border border(const Size&) const { return {}; }
  // Whether it reads pixels of kSmallPixel bytes.
  virtual bool takes_small_pixels() const { return false; }
  // About how long it takes on one thread, in nanoseconds.
  virtual double duration(const std::vector<Size>& in, const Size& out) const = 0;
  // How threads share it.
  virtual Axis axis(const std::vector<Size>&, const Size&) const { return Axis::kRows; }
  // Computes a part of `out`, of that axis. Throws nothing.
  virtual void run(const InstructionSet& set, const std::vector<Image>& in, const Image& out, const Part& part) const = 0;

 private:
  std::vector<std::size_t> tensors_;
};

// The step of a record. Throws Error where tensors, constants or numbers are not those of its kind.
std::unique_ptr<Step> make_step(const StepRecord& record, const Constants& constants);

}  // namespace onnxquant
