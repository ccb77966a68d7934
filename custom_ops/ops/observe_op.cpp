// Observe(X) -> [smallest, largest]; the observer with the number `handle` sees X. Sessions of calibration have such nodes.
#include <algorithm>
#include <thread>

#include "calibration/observer.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

// Pieces of a tensor: one per thread that there may be, each large enough for its histogram to be worth merging.
std::size_t pieces_of(std::int64_t count) {
  constexpr std::int64_t kLeast = 4 * kBlock, kMost = 16;
  static const std::int64_t threads = std::min<std::int64_t>(kMost, std::max(1u, std::thread::hardware_concurrency()));
  return static_cast<std::size_t>(std::min(threads, 1 + count / kLeast));
}

struct ObserveKernel {
  const Op& op;
  const OrtApi& api;
  std::shared_ptr<Observer> observer;
};

void compute(const ObserveKernel& kernel, OrtKernelContext* context) {
  const Tensor x = input(kernel.api, context, 0);
  if (x.type != kernel.op.type) throw Error("X has another type than the op was declared for");
  SessionThreads threads(kernel.api, context);
  const std::int64_t count = element_count(x.shape);
  const auto* values = static_cast<const float*>(x.data);
  const Extremes extremes = kernel.observer->update(values, count, threads, pieces_of(count));
  Shape shape;
  shape.push(2);
  auto* out = static_cast<float*>(output(kernel.api, context, shape));
  out[0] = extremes.low;
  out[1] = extremes.high;
}

}  // namespace

void make_observe(Op& op) {
  op.GetOutputType = [](const OrtCustomOp*, std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    const Op& mine = op_of(self);
    return guarded(*api, mine.name.c_str(), [&] {
      std::int64_t handle = 0;
      check(*api, api->KernelInfoGetAttribute_int64(info, "handle", &handle), "attribute handle");
      *kernel = new ObserveKernel{mine, *api, find_observer(handle)};
    });
  };
  op.KernelComputeV2 = [](void* self, OrtKernelContext* context) -> OrtStatusPtr {
    const auto& kernel = *static_cast<ObserveKernel*>(self);
    return guarded(kernel.api, kernel.op.name.c_str(), [&] { compute(kernel, context); });
  };
  op.KernelDestroy = [](void* self) { delete static_cast<ObserveKernel*>(self); };
}

}  // namespace onnxquant
