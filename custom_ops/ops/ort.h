// The few calls into ONNX Runtime's C API, with errors as exceptions and handles that release themselves.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/error.h"
#include "kernels/parallel.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace onnxquant {

// The lowest version that has shape inference and ParallelFor for custom ops; every later ONNX Runtime serves it.
constexpr std::uint32_t kApiVersion = 17;
static_assert(ORT_API_VERSION >= kApiVersion, "onnxruntime_c_api.h is older than 1.17");

// Throws Error with the status' message, prefixed, if there is one; releases it.
void check(const OrtApi& api, OrtStatus* status, const char* doing);

// Shape and symbolic names; rank above kMostDims is refused, which saves an allocation per call.
struct Shape {
  static constexpr std::size_t kMostDims = 16;
  std::array<std::int64_t, kMostDims> dims{};
  std::array<const char*, kMostDims> names{};
  std::size_t rank = 0;

  void push(std::int64_t dim) {
    if (rank == kMostDims) throw Error("more than %zu dimensions", kMostDims);
    names[rank] = "";
    dims[rank++] = dim;
  }
};

// The shape that an info describes; the caller keeps the info.
Shape shape_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info, bool with_names);
ONNXTensorElementDataType type_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);

class TypeAndShape {
 public:
  TypeAndShape(const OrtApi& api, OrtTensorTypeAndShapeInfo* info) : api_(api), info_(info) {}
  ~TypeAndShape() { api_.ReleaseTensorTypeAndShapeInfo(info_); }
  TypeAndShape(const TypeAndShape&) = delete;
  TypeAndShape& operator=(const TypeAndShape&) = delete;

  Shape shape(bool with_names) const { return shape_of(api_, info_, with_names); }
  ONNXTensorElementDataType type() const { return type_of(api_, info_); }
  const OrtTensorTypeAndShapeInfo* get() const { return info_; }

 private:
  const OrtApi& api_;
  OrtTensorTypeAndShapeInfo* info_;
};

struct Tensor {
  void* data;
  Shape shape;
  ONNXTensorElementDataType type;
};

// An attribute that is a list of whole numbers.
std::vector<std::int64_t> read_ints(const OrtApi& api, const OrtKernelInfo* info, const char* name);
Tensor tensor_of(const OrtApi& api, const OrtValue* value);
Tensor input(const OrtApi& api, const OrtKernelContext* context, std::size_t index);
void* output(const OrtApi& api, OrtKernelContext* context, const Shape& shape, std::size_t index = 0);

// The session's own threads.
class SessionThreads final : public Parallel {
 public:
  SessionThreads(const OrtApi& api, const OrtKernelContext* context) : api_(api), context_(context) {}
  void run(std::size_t count, void (*piece)(void*, std::size_t), void* data) override {
#ifdef __SANITIZE_THREAD__
    // ThreadSanitizer does not see how threads that were not built with it hand work over: what ParallelFor promises,
    // that pieces begin after the call and it returns after them, is said here. Pieces among themselves stay checked.
    Handover handover{piece, data, 0, 0};
    __tsan_release(&handover.begun);
    check(api_, api_.KernelContext_ParallelFor(context_, run_piece, count, 0, &handover), "running in parallel");
    __tsan_acquire(&handover.done);
#else
    check(api_, api_.KernelContext_ParallelFor(context_, piece, count, 0, data), "running in parallel");
#endif
  }

 private:
#ifdef __SANITIZE_THREAD__
  struct Handover {
    void (*piece)(void*, std::size_t);
    void* data;
    char begun, done;
  };
  static void run_piece(void* data, std::size_t index) {
    auto& handover = *static_cast<Handover*>(data);
    __tsan_acquire(&handover.begun);
    handover.piece(handover.data, index);
    __tsan_release(&handover.done);
  }
#endif
  const OrtApi& api_;
  const OrtKernelContext* context_;
};

// Runs a body and turns what it throws into a status; the only way out of this library into ONNX Runtime.
template <class Body>
OrtStatus* guarded(const OrtApi& api, const char* op, Body body) noexcept {
  char text[400];
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    std::snprintf(text, sizeof text, "onnxquant::%s: %s", op, error.what());
  } catch (...) {
    std::snprintf(text, sizeof text, "onnxquant::%s: unknown error", op);
  }
  return api.CreateStatus(ORT_INVALID_ARGUMENT, text);
}

}  // namespace onnxquant
