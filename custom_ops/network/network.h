// A part of a quantized network: its steps, one after another, on images in memory of its own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/parallel.h"
#include "network/step.h"

namespace onnxquant {

struct InstructionSet;

// Codes of a batch, [samples, channels, height, width].
struct Batch {
  void* data;
  std::int64_t samples;
  Size size;
};

class Layout;

class Network {
 public:
  // `inputs` tensors come from outside; `outputs` are the numbers of those that it gives. Throws Error.
  Network(const std::vector<StepRecord>& program, const Constants& constants, std::size_t inputs,
          const std::vector<std::int64_t>& outputs);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  std::size_t outputs() const { return outputs_.size(); }

 private:
  friend class NetworkCall;

  std::unique_ptr<Layout> take_layout(const std::vector<Size>& inputs) const;
  void give_back(std::unique_ptr<Layout>) const noexcept;

  std::size_t inputs_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<std::size_t> outputs_;
  bool is_signed_;
  // Layouts that no call uses now.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Layout>> spare_;
};

// A network on inputs of one size, with memory of its own: several may be at a time.
class NetworkCall {
 public:
  // Throws Error where the sizes do not fit.
  NetworkCall(const Network& network, const std::vector<Size>& inputs);
  ~NetworkCall();
  NetworkCall(const NetworkCall&) = delete;
  NetworkCall& operator=(const NetworkCall&) = delete;

  const Size& size(std::size_t output) const;
  // All samples. Throws Error where inputs have different numbers of them.
  void run(const InstructionSet&, const std::vector<Batch>& inputs, const std::vector<Batch>& outputs, Parallel&);

 private:
  const Network& network_;
  std::unique_ptr<Layout> layout_;
};

}  // namespace onnxquant
