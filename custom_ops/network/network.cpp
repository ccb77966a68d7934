#include "network/network.h"

#include <algorithm>
#include <cinttypes>

#include "isa/dispatch.h"
#include "kernels/error.h"
#include "network/layout.h"

namespace onnxquant {
namespace {

// Layouts that are kept for calls to come.
constexpr std::size_t kMostSpare = 4;

// The first plane of a sample.
std::uint8_t* planes_of(const Batch& batch, std::int64_t sample) {
  return static_cast<std::uint8_t*>(batch.data) + sample * batch.size.channels * batch.size.height * batch.size.width;
}

// Writes a part of an image to its planes.
void give(const NetworkTable& kernels, Image image, std::uint8_t sign, const Part& part, std::uint8_t* planes) {
  if (part.axis == Axis::kRows) return kernels.to_planes(image, sign, planes, part.begin, part.end);
  const std::int64_t first = part.begin * kChannelBlock;
  image.data += first;
  image.channels = std::min(image.channels, part.end * kChannelBlock) - first;
  kernels.to_planes(image, sign, planes + first * image.height * image.width, 0, image.height);
}

}  // namespace

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
  spare_.reserve(kMostSpare);
}

Network::~Network() = default;

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

void Network::give_back(std::unique_ptr<Layout> layout) const noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spare_.size() == kMostSpare) spare_.erase(spare_.begin());
  spare_.push_back(std::move(layout));
}

NetworkCall::NetworkCall(const Network& network, const std::vector<Size>& inputs)
    : network_(network), layout_(network.take_layout(inputs)) {}

NetworkCall::~NetworkCall() { network_.give_back(std::move(layout_)); }

const Size& NetworkCall::size(std::size_t output) const { return layout_->size(network_.outputs_[output]); }

void NetworkCall::run(const InstructionSet& set, const std::vector<Batch>& inputs, const std::vector<Batch>& outputs,
                      Parallel& parallel) {
  const NetworkTable& kernels = *set.network;
  const std::uint8_t sign = network_.is_signed_ ? 0x80 : 0;
  const std::size_t first = network_.inputs_;
  for (const Batch& batch : inputs) {
    if (batch.samples != inputs.front().samples) {
      throw Error("inputs of %" PRId64 " and %" PRId64 " samples", inputs.front().samples, batch.samples);
    }
  }
  for (std::int64_t sample = 0; sample < inputs.front().samples; ++sample) {
    const auto work = [&](std::size_t tensor, std::int64_t begin, std::int64_t end) {
      const Image& image = layout_->image(tensor);
      const TensorWork& of_tensor = layout_->work(tensor);
      const Part part{of_tensor.axis, begin, end};
      layout_->fill_border(tensor, part);
      if (tensor < first) {
        kernels.from_planes(planes_of(inputs[tensor], sample), sign, image, begin, end);
        return;
      }
      network_.steps_[tensor - first]->run(set, of_tensor.reads, image, part);
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (network_.outputs_[i] == tensor) give(kernels, image, sign, part, planes_of(outputs[i], sample));
      }
    };
    layout_->crew().run(parallel, work);
  }
}

}  // namespace onnxquant
