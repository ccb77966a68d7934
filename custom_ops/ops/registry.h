// The declarations of all ops: one per kernel, format and type.
#pragma once

#include <string>
#include <vector>

#include "kernels/format.h"
#include "ops/ort.h"

namespace onnxquant {

// What ONNX Runtime hands back to every callback.
struct Op : OrtCustomOp {
  const Format* format = nullptr;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // of X, or of the indices
  const OrtApi* api = nullptr;  // for shape inference, whose callback is not given one
  std::string name;

  ONNXTensorElementDataType scale_type() const {
    return format->scale_type == ScaleType::kHalf ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                                  : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
};

inline const Op& op_of(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

// The callbacks that are the same for all ops.
void fill_common(Op& op);

// The output's shape is input `index`'s without its last `dropped` dimensions, then the attribute `name`.
void infer_shape(const Op& op, OrtShapeInferContext* context, std::size_t index, std::size_t dropped,
                 const char* name);

Op matmul_op(const Format& format, ONNXTensorElementDataType type);
Op gather_op(const Format& format, ONNXTensorElementDataType type);

// Every format times every kernel times every type it is declared for.
std::vector<Op> all_ops(const OrtApi& api);

}  // namespace onnxquant
