#include "ops/registry.h"

#include <atomic>
#include <chrono>
#include <cinttypes>
#include <limits>
#include <utility>

#include "all_formats.h"
#include "isa/dispatch.h"

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

std::int64_t read_int(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  std::int64_t value = 0;
  char doing[48];
  std::snprintf(doing, sizeof doing, "attribute %s", name);
  check(api, api.KernelInfoGetAttribute_int64(info, name, &value), doing);
  return value;
}

Tensor constant(const OrtApi& api, const OrtKernelInfo* info, std::size_t index, const char* name) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value), name);
  if (!is_constant || value == nullptr) {
    throw Error("input '%s' must be a constant initializer (not a graph input, not computed)", name);
  }
  return tensor_of(api, value);
}

Op declared(const OrtApi& api, const Format& format, const char* kernel, bool permuted, bool has_bias,
            ONNXTensorElementDataType type) {
  Op op{};
  fill_common(op);
  op.format = &format;
  op.permuted = permuted;
  op.has_bias = has_bias;
  op.type = type;
  op.api = &api;
  op.planes = planes_of(format, permuted);
  op.name = std::string(kernel) + format.suffix + (permuted ? "Permuted" : "") + (has_bias ? "Bias" : "");
  return op;
}

Op without_format(const OrtApi& api, std::string name, ONNXTensorElementDataType type) {
  Op op{};
  fill_common(op);
  op.type = type;
  op.api = &api;
  op.name = std::move(name);
  return op;
}

// Names of open dimensions that have none. ONNX Runtime takes a dimension without a name for its value, and equal names
// for equal sizes: no name comes twice, not even in a file that an earlier process saved.
class OpenNames {
 public:
  void give(Shape& shape) {
    for (std::size_t i = 0; i < shape.rank; ++i) {
      if (shape.dims[i] >= 0 || *shape.names[i] != '\0') continue;
      std::snprintf(texts_[i].data(), texts_[i].size(), "onnxquant_open_%" PRIx64, next());
      shape.names[i] = texts_[i].data();
    }
  }

 private:
  static std::uint64_t next() {
    static std::atomic<std::uint64_t> number{
        static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count())};
    return number++;
  }
  std::array<std::array<char, 32>, Shape::kMostDims> texts_;
};

// Nothing is said where nothing is known.
void state_shape(const Op& op, OrtShapeInferContext* context, const OutputShape& rule) {
  const OrtApi& api = *op.api;
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api, api.ShapeInferContext_GetInputTypeShape(context, rule.input, &raw), "reading an input's shape");
  // The context owns this one: releasing it frees it twice.
  Shape shape = shape_of(api, raw, true);
  const ONNXTensorElementDataType in_type = type_of(api, raw);
  // ONNX Runtime gives rank 0 for an unknown rank too.
  if (shape.rank == 0 || shape.rank < rule.dropped) return;
  shape.rank -= rule.dropped;
  if (rule.last != nullptr) shape.push(read_int(api, context, rule.last));
  OpenNames names;
  names.give(shape);

  check(api, api.CreateTensorTypeAndShapeInfo(&raw), "making a shape");
  const TypeAndShape out(api, raw);
  // ONNX Runtime asks the first op of a name for all of its types: a product has the type of this node's X.
  const bool is_product = rule.input == 0;
  check(api, api.SetTensorElementType(raw, is_product ? in_type : op.GetOutputType(&op, 0)), "making a shape");
  check(api, api.SetDimensions(raw, shape.dims.data(), shape.rank), "making a shape");
  check(api, api.SetSymbolicDimensions(raw, shape.names.data(), shape.rank), "making a shape");
  check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, raw), "setting the output's shape");
}

}  // namespace

ONNXTensorElementDataType onnx_type(Type type) {
  switch (type) {
    case Type::kU8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case Type::kI8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case Type::kI32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Type::kHalf: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Type::kBfloat: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case Type::kFloat: break;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

void fill_common(Op& op) {
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp* self) { return op_of(self).name.c_str(); };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // CPU
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  // The planes, and one input that is none (X or the indices), and the bias.
  op.GetInputTypeCount = [](const OrtCustomOp* self) -> std::size_t {
    return op_of(self).planes.count + (op_of(self).has_bias ? 2 : 1);
  };
  op.GetInputType = [](const OrtCustomOp* self, std::size_t index) {
    const Op& mine = op_of(self);
    const bool is_plane = index >= mine.first_plane && index - mine.first_plane < mine.planes.count;
    return is_plane ? onnx_type(mine.planes.at[index - mine.first_plane].type) : mine.type;
  };
}

void read_one_and_others(Op& op) {
  op.GetInputTypeCount = [](const OrtCustomOp*) -> std::size_t { return 2; };
  op.GetInputType = [](const OrtCustomOp* self, std::size_t index) {
    return index == 0 ? op_of(self).type : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) {
    return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
  };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
}

void make_variadic(Op& op) {
  op.GetOutputType = [](const OrtCustomOp* self, std::size_t) { return op_of(self).type; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_VARIADIC; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  read_one_and_others(op);
}

OrtStatusPtr infer_shape(const OrtCustomOp* self, OrtShapeInferContext* context, const OutputShape& rule) noexcept {
  const Op& op = op_of(self);
  try {
    state_shape(op, context, rule);
  } catch (const std::exception&) {
    // The kernel says what is wrong, when it is made or runs; ONNX Runtime takes no status from here.
  }
  return nullptr;
}

Weights read_weights(const OrtApi& api, const OrtKernelInfo* info, const Op& op) {
  Weights weights = weights_of(*op.format, read_int(api, info, "N"), read_int(api, info, "K"),
                               read_int(api, info, "block_size"));
  std::size_t index = op.first_plane;
  for (const PlaneType& plane : op.planes) {
    const char* name = name_of(plane.plane);
    const Tensor tensor = constant(api, info, index++, name);
    if (tensor.type != onnx_type(plane.type)) throw Error("%s have the wrong element type", name);
    bind(weights, plane.plane, tensor.data, Dims{tensor.shape.dims.data(), tensor.shape.rank});
  }
  return weights;
}

std::int64_t element_count(const Shape& shape, std::size_t without) {
  std::int64_t count = 1;
  for (std::size_t i = 0; i + without < shape.rank; ++i) {
    const std::int64_t dim = shape.dims[i];
    if (dim < 0 || (dim > 0 && count > std::numeric_limits<std::int64_t>::max() / dim)) {
      throw Error("dimension %zu is %" PRId64, i, dim);
    }
    count *= dim;
  }
  return count;
}

std::vector<Op> all_ops(const OrtApi& api) {
  std::vector<Op> ops;
  for (const Family& family : kFamilies) {
    for (const Format& format : family) {
      for (const bool permuted : {false, true}) {
        for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
          for (const bool has_bias : {false, true}) {
            ops.push_back(declared(api, format, "MatMul", permuted, has_bias, type));
            make_matmul(ops.back());
          }
        }
        for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32}) {
          ops.push_back(declared(api, format, "Gather", permuted, false, type));
          make_gather(ops.back());
        }
      }
    }
  }
  for (int number = 1; number <= kNames; ++number) {
    for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8}) {
      ops.push_back(without_format(api, "MapCodes" + std::to_string(number), type));
      make_map_codes(ops.back());
      // Elsewhere ONNX Runtime computes the bodies.
      if (!best_instruction_set().network->is_faster) continue;
      ops.push_back(without_format(api, "IntegerNetwork" + std::to_string(number), type));
      make_integer_network(ops.back());
    }
    // Without matrix registers ONNX Runtime's kernels take less time.
    if (best_instruction_set().many_rows != nullptr) {
      ops.push_back(without_format(api, "DynamicProducts" + std::to_string(number), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
      make_dynamic_products(ops.back());
    }
  }
  ops.push_back(without_format(api, "Observe", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
  make_observe(ops.back());
  return ops;
}

}  // namespace onnxquant
