// DynamicProducts<number>(X: float, constants...) -> Y1, ...: products of X, rounded to codes in each call, with int8 weights.
#include <cinttypes>
#include <memory>
#include <vector>

#include "isa/dispatch.h"
#include "network/products.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

struct DynamicProductsKernel {
  const Op& op;
  const OrtApi& api;
  DynamicProducts products;
};

// What stands for a constant that a product does without.
constexpr std::int64_t kAbsent = -1;

// A constant input by its number; its memory is ONNX Runtime's.
Tensor read_constant(const OrtApi& api, const OrtKernelInfo* info, std::int64_t number, ONNXTensorElementDataType type, const char* name) {
  std::size_t count = 0;
  check(api, api.KernelInfo_GetInputCount(info, &count), "counting inputs");
  if (number < 1 || static_cast<std::size_t>(number) >= count) throw Error("%s are input %" PRId64 " of %zu", name, number, count);
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, static_cast<std::size_t>(number), &is_constant, &value), name);
  if (!is_constant || value == nullptr) throw Error("%s must be a constant initializer", name);
  const Tensor tensor = tensor_of(api, value);
  if (tensor.type != type) throw Error("%s have another type than expected", name);
  return tensor;
}

bool is_one_for_each(const Shape& shape, std::int64_t channels) { return shape.rank == 1 && shape.dims[0] == channels; }

// Numbers of the weight, its scales, its zero points, which are 0, and the bias; the activation.
constexpr std::size_t kWords = 5;

ProductParts read_product(const OrtApi& api, const OrtKernelInfo* info, const std::int64_t* words) {
  const Tensor weights = read_constant(api, info, words[0], ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "weights");
  if (weights.shape.rank != 2) throw Error("weights have %zu dimensions, expected 2", weights.shape.rank);
  element_count(weights.shape);  // refuses negative dimensions
  ProductParts parts{};
  parts.length = weights.shape.dims[0];
  parts.channels = weights.shape.dims[1];
  if (parts.length < 1 || parts.channels < 1) throw Error("weights are [%" PRId64 ", %" PRId64 "]", parts.length, parts.channels);
  parts.weights = static_cast<const std::int8_t*>(weights.data);
  const Tensor scales = read_constant(api, info, words[1], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "scales");
  parts.has_scale_per_channel = is_one_for_each(scales.shape, parts.channels);
  if (!parts.has_scale_per_channel && element_count(scales.shape) != 1) throw Error("scales are neither one nor one for each channel");
  parts.scales = static_cast<const float*>(scales.data);
  if (words[2] != kAbsent) {
    const Tensor zeros = read_constant(api, info, words[2], ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "zero points");
    const auto* codes = static_cast<const std::int8_t*>(zeros.data);
    for (std::int64_t i = 0; i < element_count(zeros.shape); ++i) {
      if (codes[i] != 0) throw Error("zero point %" PRId64 " is %d, expected 0", i, int{codes[i]});
    }
  }
  if (words[3] != kAbsent) {
    const Tensor bias = read_constant(api, info, words[3], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "biases");
    if (!is_one_for_each(bias.shape, parts.channels)) throw Error("biases are not one for each channel");
    parts.bias = static_cast<const float*>(bias.data);
  }
  if (words[4] < 0 || words[4] > static_cast<std::int64_t>(Activation::kGelu)) throw Error("activation %" PRId64 " is unknown", words[4]);
  parts.activation = static_cast<Activation>(words[4]);
  return parts;
}

std::unique_ptr<DynamicProductsKernel> make_kernel(const OrtApi& api, const OrtKernelInfo* info, const Op& op) {
  const std::vector<std::int64_t> words = read_ints(api, info, "products");
  std::size_t outputs = 0;
  check(api, api.KernelInfo_GetOutputCount(info, &outputs), "counting outputs");
  if (words.size() != outputs * kWords) throw Error("attribute products has %zu numbers for %zu outputs", words.size(), outputs);
  std::vector<ProductParts> parts;
  for (std::size_t i = 0; i < outputs; ++i) {
    parts.push_back(read_product(api, info, words.data() + i * kWords));
    if (parts.back().length != parts.front().length) throw Error("weights have different numbers of rows");
  }
  return std::make_unique<DynamicProductsKernel>(DynamicProductsKernel{op, api, DynamicProducts(parts)});
}

void compute(const DynamicProductsKernel& kernel, OrtKernelContext* context) {
  const Tensor x = input(kernel.api, context, 0);
  const DynamicProducts& products = kernel.products;
  if (x.type != kernel.op.type) throw Error("X has another type than the op was declared for");
  if (x.shape.rank == 0) throw Error("X is a scalar, expected [..., %" PRId64 "]", products.length());
  Shape shape = x.shape;
  if (shape.dims[shape.rank - 1] != products.length()) {
    throw Error("X's last dimension is %" PRId64 ", expected %" PRId64, shape.dims[shape.rank - 1], products.length());
  }
  std::vector<float*> outputs;
  for (std::size_t i = 0; i < products.count(); ++i) {
    shape.dims[shape.rank - 1] = products.channels(i);
    outputs.push_back(static_cast<float*>(output(kernel.api, context, shape, i)));
  }
  SessionThreads threads(kernel.api, context);
  products.run(instruction_set(), static_cast<const float*>(x.data), element_count(x.shape, 1), outputs, threads);
}

}  // namespace

void make_dynamic_products(Op& op) {
  make_variadic(op);
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    const Op& mine = op_of(self);
    return guarded(*api, mine.name.c_str(), [&] { *kernel = make_kernel(*api, info, mine).release(); });
  };
  op.KernelComputeV2 = [](void* self, OrtKernelContext* context) -> OrtStatusPtr {
    const auto& kernel = *static_cast<DynamicProductsKernel*>(self);
    return guarded(kernel.api, kernel.op.name.c_str(), [&] { compute(kernel, context); });
  };
  op.KernelDestroy = [](void* self) { delete static_cast<DynamicProductsKernel*>(self); };
}

}  // namespace onnxquant
