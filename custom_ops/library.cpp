// The two faces of the library: RegisterCustomOps for ONNX Runtime, and a small C ABI for everyone else.
#include <cinttypes>
#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "all_formats.h"
#include "guarded_call.h"
#include "isa/dispatch.h"
#include "kernels/matmul.h"
#include "ops/registry.h"

namespace onnxquant {
namespace {

// Changes with any incompatible change of the C ABI or of a plane's layout; onnxquant/native/library.py checks it.
constexpr int kAbiVersion = 2;

// One plane of a weight given through the C ABI.
struct PlaneArgument {
  const void* data;
  const std::int64_t* dims;
  std::int64_t rank;
};

// The weight of the C ABI: planes in the order of planes_of, the permutation perhaps left out. Their shapes are checked,
// their memory is the caller's word.
Weights make_weights(const char* format, std::int64_t N, std::int64_t K, std::int64_t block, const PlaneArgument* planes,
                     std::int64_t count) {
  Weights weights = weights_of(find_format(format), N, K, block);
  const PlaneTypes types = planes_of(*weights.format, true);
  const auto most = static_cast<std::int64_t>(types.count);
  if (count != most && count != most - 1) {
    throw Error("%" PRId64 " planes, expected %" PRId64 " or %" PRId64 " for %s", count, most - 1, most, format);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const Plane plane = types.at[static_cast<std::size_t>(i)].plane;
    if (planes[i].data == nullptr || planes[i].rank < 0 || planes[i].rank > 16) throw Error("%s are missing", name_of(plane));
    bind(weights, plane, planes[i].data, Dims{planes[i].dims, static_cast<std::size_t>(planes[i].rank)});
  }
  return weights;
}

std::string format_names() {
  std::string names;
  for (const Family& family : kFamilies) {
    for (const Format& format : family) names += (names.empty() ? "" : ",") + std::string(format.name);
  }
  return names;
}

// The ops and the domain that holds them, made once and never destroyed: sessions point into them.
struct Domain {
  const OrtApi* api;
  OrtCustomOpDomain* handle;
  std::vector<Op> ops;
};

Domain make_domain(const OrtApi& api) {
  Domain domain{&api, nullptr, all_ops(api)};
  check(api, api.CreateCustomOpDomain("onnxquant", &domain.handle), "making the domain");
  for (Op& op : domain.ops) check(api, api.CustomOpDomain_Add(domain.handle, &op), op.name.c_str());
  return domain;
}

OrtCustomOpDomain* domain_of(const OrtApi& api) {
  static std::mutex mutex;
  // One per ONNX Runtime in the process, which is nearly always one.
  static auto& domains = *new std::vector<Domain>;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Domain& domain : domains) {
    if (domain.api == &api) return domain.handle;
  }
  domains.push_back(make_domain(api));  // moves the ops' array, not the ops
  return domains.back().handle;
}

// The entry of session options that hold the domain already: ONNX Runtime takes a domain only once in a session.
constexpr const char* kRegistered = "onnxquant.registered";

// Adds the domain to session options, unless this library or another build of it has done so.
void register_once(const OrtApi& api, OrtSessionOptions* options) {
  int is_registered = 0;
  check(api, api.HasSessionConfigEntry(options, kRegistered, &is_registered), "reading session options");
  if (is_registered != 0) return;
  check(api, api.AddCustomOpDomain(options, domain_of(api)), "adding the domain");
  check(api, api.AddSessionConfigEntry(options, kRegistered, "1"), "writing session options");
}

}  // namespace
}  // namespace onnxquant

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

ONNXQUANT_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    const OrtApi* old = base->GetApi(1);  // CreateStatus has been there from the start
    return old->CreateStatus(ORT_NOT_IMPLEMENTED, "onnxquant needs onnxruntime 1.17 or later");
  }
  return guarded(*api, "RegisterCustomOps", [&] { register_once(*api, options); });
}

ONNXQUANT_EXPORT int onnxquant_abi_version() { return kAbiVersion; }

ONNXQUANT_EXPORT const char* onnxquant_last_error() { return last_error; }

ONNXQUANT_EXPORT const char* onnxquant_formats() {
  return guarded_text([] {
    static const std::string names = format_names();
    return names.c_str();
  });
}

ONNXQUANT_EXPORT int onnxquant_describe(const char* format, std::int64_t* out) {
  return guarded_call([&] {
    const Format& entry = find_format(format);
    const PlaneTypes planes = planes_of(entry, true);
    *out++ = entry.bits;
    *out++ = entry.granularities;
    *out++ = entry.min_block;
    *out++ = entry.max_block;
    *out++ = entry.has_int8();
    *out++ = static_cast<std::int64_t>(planes.count);
    for (const PlaneType& plane : planes) {
      *out++ = static_cast<std::int64_t>(plane.plane);
      *out++ = static_cast<std::int64_t>(plane.type);
    }
  });
}

ONNXQUANT_EXPORT const char* onnxquant_suffix(const char* format) {
  return guarded_text([&] { return find_format(format).suffix; });
}

ONNXQUANT_EXPORT const char* onnxquant_plane(std::int64_t plane) { return name_of(static_cast<Plane>(plane)); }

ONNXQUANT_EXPORT const char* onnxquant_isas() {
  return guarded_text([] {
    static const std::string names = instruction_set_names(true);
    return names.c_str();
  });
}

ONNXQUANT_EXPORT const char* onnxquant_compiled_isas() {
  return guarded_text([] {
    static const std::string names = instruction_set_names(false);
    return names.c_str();
  });
}

ONNXQUANT_EXPORT int onnxquant_set_isa(const char* isa) {
  return guarded_call([&] { cap_instruction_set(isa); });
}

ONNXQUANT_EXPORT int onnxquant_decode(const char* format, std::int64_t N, std::int64_t K, std::int64_t block_size,
                                      const PlaneArgument* planes, std::int64_t count, float* out) {
  return guarded_call([&] {
    const Weights weights = make_weights(format, N, K, block_size, planes, count);
    for (std::int64_t n = 0; n < N; ++n) decode_row(weights, n, out + n * K);
  });
}

ONNXQUANT_EXPORT int onnxquant_matmul(const char* format, std::int64_t N, std::int64_t K, std::int64_t block_size,
                                      const PlaneArgument* planes, std::int64_t count, const char* compute,
                                      const char* isa, const float* X, std::int64_t M, const float* bias, float* Y) {
  return guarded_call([&] {
    const Weights weights = make_weights(format, N, K, block_size, planes, count);
    if (M < 0 || (M > 0 && (X == nullptr || Y == nullptr))) throw Error("X or Y is missing");
    Serial serial;
    matmul(instruction_set(isa), weights, parse_compute(compute), Matrix{const_cast<float*>(X), M, false}, bias,
           Matrix{Y, M, false}, serial);
  });
}
