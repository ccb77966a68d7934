// IntegerNetwork<number>(X1, ..., constants) -> Y1, ...: a part of a quantized network, on codes [samples, channels, height, width].
#include <cinttypes>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "isa/dispatch.h"
#include "network/network.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

struct IntegerNetworkKernel {
  const Op& op;
  const OrtApi& api;
  std::size_t inputs;
  std::unique_ptr<Network> network;
};

// Attribute `tables` uint8 [count, 256]; empty where there is none.
std::vector<std::uint8_t> read_tables(const OrtApi& api, const OrtKernelInfo* info) {
  OrtAllocator* allocator = nullptr;
  check(api, api.GetAllocatorWithDefaultOptions(&allocator), "attribute tables");
  OrtValue* raw = nullptr;
  if (OrtStatus* absent = api.KernelInfoGetAttribute_tensor(info, "tables", allocator, &raw); absent != nullptr) {
    api.ReleaseStatus(absent);
    return {};
  }
  const std::unique_ptr<OrtValue, void (*)(OrtValue*)> value(raw, api.ReleaseValue);
  const Tensor tensor = tensor_of(api, raw);
  const Shape& shape = tensor.shape;
  if (tensor.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 || shape.rank != 2 || shape.dims[1] != kTableBytes) {
    throw Error("attribute tables is no uint8 [count, 256]");
  }
  const auto* bytes = static_cast<const std::uint8_t*>(tensor.data);
  return {bytes, bytes + element_count(shape)};
}

// Nothing where no step reads the type.
std::optional<Type> type_of_constant(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return Type::kU8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return Type::kI8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return Type::kI32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return Type::kFloat;
    default: return std::nullopt;
  }
}

// The inputs from `first` on. Their memory is ONNX Runtime's.
std::vector<std::optional<Constant>> read_constants(const OrtApi& api, const OrtKernelInfo* info, std::size_t first) {
  std::size_t count = 0;
  check(api, api.KernelInfo_GetInputCount(info, &count), "counting inputs");
  std::vector<std::optional<Constant>> constants;
  for (std::size_t i = first; i < count; ++i) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(api, api.KernelInfoGetConstantInput_tensor(info, i, &is_constant, &value), "reading a constant");
    if (!is_constant || value == nullptr) throw Error("input %zu must be a constant initializer", i);
    const Tensor tensor = tensor_of(api, value);
    element_count(tensor.shape);  // refuses negative dimensions
    const std::int64_t* dims = tensor.shape.dims.data();
    const std::optional<Type> type = type_of_constant(tensor.type);
    constants.push_back(type ? std::make_optional(Constant{*type, tensor.data, {dims, dims + tensor.shape.rank}}) : std::nullopt);
  }
  return constants;
}

std::unique_ptr<IntegerNetworkKernel> make_kernel(const OrtApi& api, const OrtKernelInfo* info, const Op& op) {
  std::int64_t inputs = 0;
  check(api, api.KernelInfoGetAttribute_int64(info, "inputs", &inputs), "attribute inputs");
  if (inputs < 1) throw Error("attribute inputs is %" PRId64, inputs);
  const auto first = static_cast<std::size_t>(inputs);
  const Constants constants(first, read_constants(api, info, first), read_tables(api, info),
                            op.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
  auto network = std::make_unique<Network>(parse_program(read_ints(api, info, "program"), first), constants, first,
                                           read_ints(api, info, "outputs"));
  std::size_t outputs = 0;
  check(api, api.KernelInfo_GetOutputCount(info, &outputs), "counting outputs");
  if (outputs != network->outputs()) throw Error("%zu outputs, its program has %zu", outputs, network->outputs());
  return std::make_unique<IntegerNetworkKernel>(IntegerNetworkKernel{op, api, first, std::move(network)});
}

void compute(const IntegerNetworkKernel& kernel, OrtKernelContext* context) {
  std::vector<Batch> inputs, outputs;
  std::vector<Size> sizes;
  for (std::size_t i = 0; i < kernel.inputs; ++i) {
    const Tensor x = input(kernel.api, context, i);
    if (x.type != kernel.op.type) throw Error("X%zu has another type than the op was declared for", i + 1);
    if (x.shape.rank != 4) throw Error("X%zu has %zu dimensions, expected 4", i + 1, x.shape.rank);
    sizes.push_back({x.shape.dims[2], x.shape.dims[3], x.shape.dims[1]});
    inputs.push_back({x.data, x.shape.dims[0], sizes.back()});
  }
  NetworkCall call(*kernel.network, sizes);
  for (std::size_t i = 0; i < kernel.network->outputs(); ++i) {
    const Size& size = call.size(i);
    Shape shape;
    for (const std::int64_t dim : {inputs[0].samples, size.channels, size.height, size.width}) shape.push(dim);
    outputs.push_back({output(kernel.api, context, shape, i), inputs[0].samples, size});
  }
  SessionThreads threads(kernel.api, context);
  call.run(instruction_set(), inputs, outputs, threads);
}

}  // namespace

void make_integer_network(Op& op) {
  make_variadic(op);
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    const Op& mine = op_of(self);
    return guarded(*api, mine.name.c_str(), [&] { *kernel = make_kernel(*api, info, mine).release(); });
  };
  op.KernelComputeV2 = [](void* self, OrtKernelContext* context) -> OrtStatusPtr {
    const auto& kernel = *static_cast<IntegerNetworkKernel*>(self);
    return guarded(kernel.api, kernel.op.name.c_str(), [&] { compute(kernel, context); });
  };
  op.KernelDestroy = [](void* self) { delete static_cast<IntegerNetworkKernel*>(self); };
}

}  // namespace onnxquant
