// Gather<Format>(planes..., indices) -> rows of the decoded weight
#include <cinttypes>

#include "kernels/matmul.h"
#include "kernels/scratch.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

struct GatherKernel {
  const Op& op;
  const OrtApi& api;
  Weights weights;
};

// Every index is checked before the output exists: a bad one leaves nothing half written.
template <class Index>
void compute_as(const GatherKernel& kernel, OrtKernelContext* context) {
  const Tensor indices = input(kernel.api, context, kernel.op.planes.count);
  if (indices.type != kernel.op.type) throw Error("indices have another type than the op was declared for");
  const Weights& weights = kernel.weights;
  const std::int64_t count = element_count(indices.shape);
  const auto* from = static_cast<const Index*>(indices.data);
  Scratch scratch(Scratch::size_of<std::int64_t>(static_cast<std::size_t>(count)));
  auto* rows = scratch.take<std::int64_t>(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::int64_t>(from[i]);
    if (index < -weights.N || index >= weights.N) {
      throw Error("index %" PRId64 " is out of range, expected [%" PRId64 ", %" PRId64 ")", index, -weights.N,
                  weights.N);
    }
    rows[i] = index < 0 ? index + weights.N : index;
  }
  Shape shape = indices.shape;
  shape.push(weights.K);
  auto* out = static_cast<float*>(output(kernel.api, context, shape));
  SessionThreads threads(kernel.api, context);
  gather(weights, rows, count, out, threads);
}

void compute(const GatherKernel& kernel, OrtKernelContext* context) {
  if (kernel.op.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32) {
    compute_as<std::int32_t>(kernel, context);
  } else {
    compute_as<std::int64_t>(kernel, context);
  }
}

}  // namespace

void make_gather(Op& op) {
  op.first_plane = 0;
  op.GetOutputType = [](const OrtCustomOp*, std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) -> OrtStatusPtr {
    return infer_shape(self, context, OutputShape{op_of(self).planes.count, 0, "K"});
  };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    const Op& mine = op_of(self);
    return guarded(*api, mine.name.c_str(),
                   [&] { *kernel = new GatherKernel{mine, *api, read_weights(*api, info, mine)}; });
  };
  op.KernelComputeV2 = [](void* self, OrtKernelContext* context) -> OrtStatusPtr {
    const auto& kernel = *static_cast<GatherKernel*>(self);
    return guarded(kernel.api, kernel.op.name.c_str(), [&] { compute(kernel, context); });
  };
  op.KernelDestroy = [](void* self) { delete static_cast<GatherKernel*>(self); };
}

}  // namespace onnxquant
