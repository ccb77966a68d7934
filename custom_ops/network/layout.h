// Where the tensors of a network are, for inputs of one size, and how its steps are shared out.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "network/crew.h"
#include "network/step.h"

namespace onnxquant {

// How a tensor is computed, and what its step reads; an input is a copy.
struct TensorWork {
  Axis axis;
  std::vector<Image> reads;
};

// One call at a time uses it.
class Layout {
 public:
  // Throws Error where the sizes of the inputs do not fit, or where what is computed of them is out of all proportion.
  Layout(const std::vector<std::unique_ptr<Step>>& steps, const std::vector<Size>& inputs, const std::vector<std::size_t>& outputs);

  bool fits(const std::vector<Size>& inputs) const;
  const Size& size(std::size_t tensor) const { return sizes_[tensor]; }
  const Image& image(std::size_t tensor) const { return images_[tensor]; }
  const TensorWork& work(std::size_t tensor) const { return work_[tensor]; }
  // Each tensor is a phase.
  Crew& crew() { return *crew_; }
  // Writes the border of a part of a tensor.
  void fill_border(std::size_t tensor, const Part& part) const;

 private:
  struct Free {
    void operator()(std::uint8_t* bytes) const;
  };
  struct Uses;  // of each tensor

  void widen(std::size_t tensor, const Border& border);
  void place(const Uses& uses, double most_bytes);
  void share_out(const std::vector<std::unique_ptr<Step>>& steps, double most_duration);

  std::size_t inputs_;
  std::vector<Size> sizes_;
  std::vector<Border> borders_;
  std::vector<Image> images_;
  std::vector<TensorWork> work_;
  std::unique_ptr<std::uint8_t, Free> memory_;
  std::unique_ptr<Crew> crew_;
};

}  // namespace onnxquant
