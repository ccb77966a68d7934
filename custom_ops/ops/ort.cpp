#include "ops/ort.h"

namespace onnxquant {

void check(const OrtApi& api, OrtStatus* status, const char* doing) {
  if (status == nullptr) return;
  const Error error("%s: %.240s", doing, api.GetErrorMessage(status));
  api.ReleaseStatus(status);
  throw error;
}

Shape shape_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info, bool with_names) {
  Shape shape;
  std::size_t rank = 0;
  check(api, api.GetDimensionsCount(info, &rank), "reading a rank");
  if (rank > Shape::kMostDims) throw Error("%zu dimensions, expected at most %zu", rank, Shape::kMostDims);
  for (std::size_t i = 0; i < rank; ++i) shape.push(0);
  check(api, api.GetDimensions(info, shape.dims.data(), rank), "reading a shape");
  if (with_names && rank > 0) {
    check(api, api.GetSymbolicDimensions(info, shape.names.data(), rank), "reading a symbolic shape");
  }
  return shape;
}

ONNXTensorElementDataType type_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api, api.GetTensorElementType(info, &type), "reading a type");
  return type;
}

std::vector<std::int64_t> read_ints(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  std::size_t count = 0;
  check(api, api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &count), name);
  std::vector<std::int64_t> out(count);
  check(api, api.KernelInfoGetAttributeArray_int64(info, name, out.data(), &count), name);
  return out;
}

Tensor tensor_of(const OrtApi& api, const OrtValue* value) {
  if (value == nullptr) throw Error("an input is missing");
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &raw), "reading an input");
  const TypeAndShape info(api, raw);
  Tensor tensor{nullptr, info.shape(false), info.type()};
  // The C API gives no constant pointer; nothing is written through that of an input.
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data), "reading an input");
  return tensor;
}

Tensor input(const OrtApi& api, const OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api, api.KernelContext_GetInput(context, index, &value), "reading an input");
  return tensor_of(api, value);
}

void* output(const OrtApi& api, OrtKernelContext* context, const Shape& shape, std::size_t index) {
  OrtValue* value = nullptr;
  check(api, api.KernelContext_GetOutput(context, index, shape.dims.data(), shape.rank, &value), "making the output");
  void* data = nullptr;
  check(api, api.GetTensorMutableData(value, &data), "making the output");
  return data;
}

}  // namespace onnxquant
