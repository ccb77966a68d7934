// MapCodes<number>(X: uint8 | int8, ...) -> Y of X's type and shape: every code by a table. What else the node reads is for its body.
#include <cinttypes>
#include <cstring>
#include <vector>

#include "codes/code_map.h"
#include "isa/dispatch.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

struct MapCodesKernel {
  const Op& op;
  const OrtApi& api;
  std::vector<std::uint8_t> tables;
  std::int64_t channels;
  std::int64_t axis;  // of channels, from the end: -1 is the last one
};

// Attribute `tables` [256] or [channels, 256] of X's type.
std::vector<std::uint8_t> read_tables(const OrtApi& api, const OrtKernelInfo* info, const Op& op, std::int64_t& channels) {
  OrtAllocator* allocator = nullptr;
  check(api, api.GetAllocatorWithDefaultOptions(&allocator), "attribute tables");
  OrtValue* raw = nullptr;
  check(api, api.KernelInfoGetAttribute_tensor(info, "tables", allocator, &raw), "attribute tables");
  const std::unique_ptr<OrtValue, void (*)(OrtValue*)> value(raw, api.ReleaseValue);
  const Tensor tensor = tensor_of(api, raw);
  if (tensor.type != op.type) throw Error("attribute tables has another type than X");
  const Shape& shape = tensor.shape;
  if (shape.rank < 1 || shape.rank > 2 || shape.dims[shape.rank - 1] != kTableBytes || shape.dims[0] < 1) {
    throw Error("attribute tables has %zu dimensions, the first of %" PRId64 ", expected [256] or [channels, 256]", shape.rank,
                shape.rank > 0 ? shape.dims[0] : 0);
  }
  channels = shape.rank == 2 ? shape.dims[0] : 1;
  const auto* bytes = static_cast<const std::uint8_t*>(tensor.data);
  return {bytes, bytes + element_count(shape)};
}

// Elements behind the axis of channels. Throws Error where X has no such axis, or one of another length.
std::int64_t inner_of(const MapCodesKernel& kernel, const Shape& shape) {
  if (kernel.channels == 1) return 1;
  const auto place = static_cast<std::int64_t>(shape.rank) + kernel.axis;
  if (kernel.axis >= 0 || place < 0) throw Error("axis %" PRId64 ", expected [-%zu, -1]", kernel.axis, shape.rank);
  const auto channel = static_cast<std::size_t>(place);
  if (shape.dims[channel] != kernel.channels) {
    throw Error("X has %" PRId64 " channels, its tables %" PRId64, shape.dims[channel], kernel.channels);
  }
  std::int64_t inner = 1;
  for (std::size_t i = channel + 1; i < shape.rank; ++i) inner *= shape.dims[i];
  return inner;
}

void compute(const MapCodesKernel& kernel, OrtKernelContext* context) {
  const Tensor x = input(kernel.api, context, 0);
  if (x.type != kernel.op.type) throw Error("X has another type than the op was declared for");
  const std::int64_t count = element_count(x.shape);
  const CodeMap map{kernel.tables.data(), kernel.channels, inner_of(kernel, x.shape)};
  auto* out = static_cast<std::uint8_t*>(output(kernel.api, context, x.shape));
  SessionThreads threads(kernel.api, context);
  map_codes(instruction_set(), map, static_cast<const std::uint8_t*>(x.data), count, out, threads);
}

}  // namespace

void make_map_codes(Op& op) {
  op.GetOutputType = [](const OrtCustomOp* self, std::size_t) { return op_of(self).type; };
  read_one_and_others(op);
  op.InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) -> OrtStatusPtr {
    return infer_shape(self, context, OutputShape{0, 0, nullptr});
  };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    const Op& mine = op_of(self);
    return guarded(*api, mine.name.c_str(), [&] {
      std::int64_t channels = 1, axis = -1;
      std::vector<std::uint8_t> tables = read_tables(*api, info, mine, channels);
      if (channels > 1) check(*api, api->KernelInfoGetAttribute_int64(info, "axis", &axis), "attribute axis");
      *kernel = new MapCodesKernel{mine, *api, std::move(tables), channels, axis};
    });
  };
  op.KernelComputeV2 = [](void* self, OrtKernelContext* context) -> OrtStatusPtr {
    const auto& kernel = *static_cast<MapCodesKernel*>(self);
    return guarded(kernel.api, kernel.op.name.c_str(), [&] { compute(kernel, context); });
  };
  op.KernelDestroy = [](void* self) { delete static_cast<MapCodesKernel*>(self); };
}

}  // namespace onnxquant
