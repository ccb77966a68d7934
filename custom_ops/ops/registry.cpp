#include "ops/registry.h"

#include <cinttypes>

#include "all_formats.h"

namespace onnxquant {
namespace {

std::int64_t read_int(const OrtApi& api, const OrtShapeInferContext* context, const char* name) {
  const OrtOpAttr* attribute = nullptr;
  check(api, api.ShapeInferContext_GetAttribute(context, name, &attribute), name);
  std::int64_t value = 0;
  std::size_t bytes = 0;
  check(api, api.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof value, &bytes), name);
  return value;
}

}  // namespace

void fill_common(Op& op) {
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp* self) { return op_of(self).name.c_str(); };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // CPU
  op.GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 3; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

void infer_shape(const Op& op, OrtShapeInferContext* context, std::size_t index, std::size_t dropped,
                 const char* name) {
  const OrtApi& api = *op.api;
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api, api.ShapeInferContext_GetInputTypeShape(context, index, &raw), "reading an input's shape");
  // The context owns this one: releasing it frees it twice.
  Shape shape = shape_of(api, raw, true);
  const ONNXTensorElementDataType in_type = type_of(api, raw);
  // ONNX Runtime gives rank 0 for an unknown rank too: then nothing is said about the output.
  if (shape.rank == 0 || shape.rank < dropped) return;
  shape.rank -= dropped;
  shape.push(read_int(api, context, name));

  check(api, api.CreateTensorTypeAndShapeInfo(&raw), "making a shape");
  const TypeAndShape out(api, raw);
  // ONNX Runtime asks the first op of a name for all of its types: a product has the type of this node's X.
  const bool is_product = index == 0;
  check(api, api.SetTensorElementType(raw, is_product ? in_type : op.GetOutputType(&op, 0)), "making a shape");
  check(api, api.SetDimensions(raw, shape.dims.data(), shape.rank), "making a shape");
  check(api, api.SetSymbolicDimensions(raw, shape.names.data(), shape.rank), "making a shape");
  check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, raw), "setting the output's shape");
}

std::vector<Op> all_ops(const OrtApi& api) {
  std::vector<Op> ops;
  for (const Format* format : kFormats) {
    ops.push_back(matmul_op(*format, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    ops.push_back(matmul_op(*format, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16));
    ops.push_back(gather_op(*format, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64));
    ops.push_back(gather_op(*format, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32));
  }
  for (Op& op : ops) op.api = &api;
  return ops;
}

}  // namespace onnxquant
