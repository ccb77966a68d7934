// MatMul<Format>(X, planes..., [bias]) -> Y
#include <cinttypes>
#include <cstring>

#include "isa/dispatch.h"
#include "kernels/matmul.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

struct MatMulKernel {
  const Op& op;
  const OrtApi& api;
  Weights weights;
  Compute compute;
};

bool succeeds(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

// The attribute is optional; one of another type must not pass for a missing one.
Compute read_compute(const OrtApi& api, const OrtKernelInfo* info) {
  char text[16] = {};
  std::size_t size = 0;
  if (OrtStatus* status = api.KernelInfoGetAttribute_string(info, "compute", nullptr, &size)) {
    api.ReleaseStatus(status);
    std::int64_t integer;
    float real;
    if (succeeds(api, api.KernelInfoGetAttribute_int64(info, "compute", &integer)) ||
        succeeds(api, api.KernelInfoGetAttribute_float(info, "compute", &real))) {
      throw Error("attribute compute is not a string");
    }
    return Compute::kInt8;
  }
  if (size > sizeof text) throw Error("attribute compute has %zu characters, expected 'int8' or 'float32'", size);
  check(api, api.KernelInfoGetAttribute_string(info, "compute", text, &size), "attribute compute");
  text[sizeof text - 1] = '\0';
  // The size counts the terminator: a text with a NUL inside is longer than it looks.
  if (std::strlen(text) + 1 != size) throw Error("attribute compute holds a NUL");
  return parse_compute(text);
}

// The bias: one value per channel, of X's type.
const void* read_bias(const MatMulKernel& kernel, const OrtKernelContext* context) {
  const Tensor bias = input(kernel.api, context, kernel.op.first_plane + kernel.op.planes.count);
  if (bias.type != kernel.op.type) throw Error("the bias has another type than X");
  if (bias.shape.rank != 1 || bias.shape.dims[0] != kernel.weights.N) {
    throw Error("the bias has %zu dimensions, the first of %" PRId64 ", expected [%" PRId64 "]", bias.shape.rank,
                bias.shape.rank > 0 ? bias.shape.dims[0] : 1, kernel.weights.N);
  }
  return bias.data;
}

void compute(const MatMulKernel& kernel, OrtKernelContext* context) {
  const Tensor x = input(kernel.api, context, 0);
  const Weights& weights = kernel.weights;
  if (x.type != kernel.op.type) throw Error("X has another type than the op was declared for");
  if (x.shape.rank == 0) throw Error("X is a scalar, expected [..., %" PRId64 "]", weights.K);
  Shape shape = x.shape;
  if (shape.dims[shape.rank - 1] != weights.K) {
    throw Error("X's last dimension is %" PRId64 ", expected K = %" PRId64, shape.dims[shape.rank - 1], weights.K);
  }
  const std::int64_t M = element_count(shape, 1);
  shape.dims[shape.rank - 1] = weights.N;
  const bool half = kernel.op.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  const Matrix in{x.data, M, half}, out{output(kernel.api, context, shape), M, half};
  const void* bias = kernel.op.has_bias ? read_bias(kernel, context) : nullptr;
  SessionThreads threads(kernel.api, context);
  matmul(instruction_set(), weights, kernel.compute, in, bias, out, threads);
}

}  // namespace

void make_matmul(Op& op) {
  op.first_plane = 1;
  op.GetOutputType = [](const OrtCustomOp* self, std::size_t) { return op_of(self).type; };
  op.InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) -> OrtStatusPtr {
    return infer_shape(self, context, OutputShape{0, 1, "N"});
  };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    const Op& mine = op_of(self);
    return guarded(*api, mine.name.c_str(), [&] {
      *kernel = new MatMulKernel{mine, *api, read_weights(*api, info, mine), read_compute(*api, info)};
    });
  };
  op.KernelComputeV2 = [](void* self, OrtKernelContext* context) -> OrtStatusPtr {
    const auto& kernel = *static_cast<MatMulKernel*>(self);
    return guarded(kernel.api, kernel.op.name.c_str(), [&] { compute(kernel, context); });
  };
  op.KernelDestroy = [](void* self) { delete static_cast<MatMulKernel*>(self); };
}

}  // namespace onnxquant
