// The declarations of all ops: one per kernel, format, option and type.
#pragma once

#include <string>
#include <vector>

#include "kernels/weights.h"
#include "ops/ort.h"

namespace onnxquant {

// An operator. ONNX Runtime hands it back to every callback.
struct Op : OrtCustomOp {
  const Format* format = nullptr;
  bool permuted = false;  // the contracted channels are stored in another order, which is a plane of its own
  bool has_bias = false;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;  // of X, or of the indices
  const OrtApi* api = nullptr;  // for shape inference, whose callback is not given one
  std::string name;
  // Input `first_plane` is the first plane; X comes before, indices or bias after them.
  std::size_t first_plane = 0;
  PlaneTypes planes{};
};

inline const Op& op_of(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

// The type in which ONNX Runtime gives a plane.
ONNXTensorElementDataType onnx_type(Type type);

// The callbacks that are the same for all ops.
void fill_common(Op& op);

// The inputs of an op: one of its type, and any others.
void read_one_and_others(Op& op);

// The same, and any number of outputs of its type.
void make_variadic(Op& op);

// The output's shape: that of an input without its last `dropped` dimensions, then the value of an attribute, if there is one.
struct OutputShape {
  std::size_t input;
  std::size_t dropped;
  const char* last;
};

// Shape inference of an op. Open dimensions stay open under a name.
OrtStatusPtr infer_shape(const OrtCustomOp* self, OrtShapeInferContext* context, const OutputShape& rule) noexcept;

// The weight of a node: attributes K, N, block_size, and the planes, which must be constant. They stay ONNX Runtime's and
// live as long as the session. Everything is checked before the first byte of a plane is read. Throws Error.
Weights read_weights(const OrtApi& api, const OrtKernelInfo* info, const Op& op);

// Number of elements in all but the last `without` dimensions. Throws Error when it overflows.
std::int64_t element_count(const Shape& shape, std::size_t without = 0);

// The callbacks of one kernel, for an op whose other members are set.
void make_matmul(Op& op);
void make_gather(Op& op);
void make_observe(Op& op);
void make_map_codes(Op& op);
void make_integer_network(Op& op);
void make_dynamic_products(Op& op);

// Names that MapCodes, IntegerNetwork and DynamicProducts have, MapCodes1 and so on: a body for each.
constexpr int kNames = 16;

// Every format times every kernel, option and type it is declared for; MapCodes by each of its names; IntegerNetwork and DynamicProducts where
// they are faster; and Observe.
std::vector<Op> all_ops(const OrtApi& api);

}  // namespace onnxquant
