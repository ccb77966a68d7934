// Products of one float tensor with several int8 weights: it is rounded to uint8 codes in the range that it has in each call.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "kernels/parallel.h"
#include "network/kernels.h"

namespace onnxquant {

struct InstructionSet;

// What a product is made of; the arrays are read when it is packed.
struct ProductParts {
  std::int64_t length, channels;
  const std::int8_t* weights;  // [length][channels]
  const float* scales;         // [channels], or one
  bool has_scale_per_channel;
  const float* bias;           // [channels], or null
  Activation activation;
};

class DynamicProducts {
 public:
  // All of one length. Throws std::bad_alloc.
  explicit DynamicProducts(const std::vector<ProductParts>&);

  std::size_t count() const { return products_.size(); }
  std::int64_t length() const { return length_; }
  std::int64_t channels(std::size_t product) const { return products_[product].weights.out_channels; }
  // x is [rows, length], output i [rows, channels(i)]. May be called by several threads at a time. Throws std::bad_alloc.
  void run(const InstructionSet&, const float* x, std::int64_t rows, const std::vector<float*>& outputs, Parallel&) const;

 private:
  struct Packed {
    explicit Packed(const ProductParts&);
    struct Free {
      void operator()(std::int8_t* bytes) const { ::operator delete(bytes, std::align_val_t{64}); }
    };
    std::unique_ptr<std::int8_t, Free> memory;
    Convolution weights;  // packed as pack.h says; its bias is that of a call
    std::vector<std::int32_t> weight_sums;  // of each output, and of those that pad them
    std::vector<float> scales, bias;
    Activation activation;
  };

  std::int64_t length_;
  std::vector<Packed> products_;
};

}  // namespace onnxquant
