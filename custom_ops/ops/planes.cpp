#include "ops/planes.h"

#include <cinttypes>
#include <initializer_list>
#include <limits>
#include <string>

namespace onnxquant {
namespace {

std::int64_t read_int(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
  std::int64_t value = 0;
  char doing[48];
  std::snprintf(doing, sizeof doing, "attribute %s", name);
  check(api, api.KernelInfoGetAttribute_int64(info, name, &value), doing);
  return value;
}

bool has_shape(const Shape& shape, std::initializer_list<std::int64_t> dims) {
  if (shape.rank != dims.size()) return false;
  std::size_t i = 0;
  for (const std::int64_t dim : dims) {
    if (shape.dims[i++] != dim) return false;
  }
  return true;
}

std::string text(const Shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.rank; ++i) out += (i ? ", " : "") + std::to_string(shape.dims[i]);
  return out + "]";
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

Granularity granularity_of(const Weights& weights, const Shape& shape) {
  if (has_shape(shape, {weights.tiles, weights.blocks, kTileChannels})) {
    // One block per row is both; formats that only know blocks shall accept it, and the numbers are the same.
    return weights.blocks == 1 && (weights.format->granularities & kPerBlock) == 0 ? kPerRow : kPerBlock;
  }
  if (has_shape(shape, {weights.tiles, 1, kTileChannels})) return kPerRow;
  if (has_shape(shape, {1})) return kPerTensor;
  throw Error("scales have shape %.80s, expected [%" PRId64 ", %" PRId64 " or 1, 16] or [1]", text(shape).c_str(),
              weights.tiles, weights.blocks);
}

}  // namespace

Weights read_weights(const OrtApi& api, const OrtKernelInfo* info, const Format& format, std::size_t first) {
  Weights weights = weights_of(format, read_int(api, info, "N"), read_int(api, info, "K"),
                               read_int(api, info, "block_size"));
  const Tensor codes = constant(api, info, first, "codes");
  if (codes.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) throw Error("codes are not uint8");
  if (!has_shape(codes.shape, {weights.tiles, weights.vectors, kTileChannels, 4})) {
    throw Error("codes have shape %.80s, expected [%" PRId64 ", %" PRId64 ", 16, 4] for N %" PRId64 ", K %" PRId64,
                text(codes.shape).c_str(), weights.tiles, weights.vectors, weights.N, weights.K);
  }
  const Tensor scales = constant(api, info, first + 1, "scales");
  const bool half = format.scale_type == ScaleType::kHalf;
  if (scales.type != (half ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)) {
    throw Error("scales are not %s", half ? "float16" : "float32");
  }
  weights.granularity = granularity_of(weights, scales.shape);
  check_granularity(weights, weights.granularity);
  weights.codes = static_cast<const std::uint8_t*>(codes.data);
  weights.scales = scales.data;
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

}  // namespace onnxquant
