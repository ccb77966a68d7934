// The two faces of the library: RegisterCustomOps for ONNX Runtime, and a small C ABI for everyone else.
#include <cinttypes>
#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "all_formats.h"
#include "isa/dispatch.h"
#include "kernels/matmul.h"
#include "ops/registry.h"

#ifdef _WIN32
#define ONNXQUANT_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNXQUANT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnxquant {
namespace {

// Changes with any incompatible change of the C ABI or of a plane's layout; native.py checks it.
constexpr int kAbiVersion = 1;

thread_local char last_error[400] = "";

// Runs a body; 0, or 1 with the reason in last_error.
template <class Body>
int guarded_call(Body body) noexcept {
  last_error[0] = '\0';
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(last_error, sizeof last_error, "%s", error.what());
  } catch (...) {
    std::snprintf(last_error, sizeof last_error, "unknown error");
  }
  return 1;
}

// The weight of the C ABI, whose planes are as large as N, K and block_size say: the caller sees to that.
Weights make_weights(const char* format, const std::uint8_t* codes, const void* scales, std::int64_t count,
                     std::int64_t N, std::int64_t K, std::int64_t block) {
  Weights weights = weights_of(find_format(format), N, K, block);
  if (codes == nullptr || scales == nullptr) throw Error("a plane is missing");
  const unsigned allowed = weights.format->granularities;
  for (const Granularity granularity : {kPerBlock, kPerRow, kPerTensor}) {
    if ((allowed & granularity) == 0 || count != scale_count(weights, granularity)) continue;
    weights.granularity = granularity;
    weights.codes = codes;
    weights.scales = scales;
    return weights;
  }
  throw Error("%" PRId64 " scales fit no granularity of %s", count, weights.format->name);
}

std::string format_names() {
  std::string names;
  for (const Format* format : kFormats) names += (names.empty() ? "" : ",") + std::string(format->name);
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

}  // namespace
}  // namespace onnxquant

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

ONNXQUANT_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    const OrtApi* old = base->GetApi(1);  // CreateStatus has been there from the start
    return old->CreateStatus(ORT_NOT_IMPLEMENTED, "onnxquant needs onnxruntime 1.17 or later");
  }
  return guarded(*api, "RegisterCustomOps",
                 [&] { check(*api, api->AddCustomOpDomain(options, domain_of(*api)), "adding the domain"); });
}

ONNXQUANT_EXPORT int onnxquant_abi_version() { return kAbiVersion; }

ONNXQUANT_EXPORT const char* onnxquant_last_error() { return last_error; }

ONNXQUANT_EXPORT const char* onnxquant_formats() {
  static const std::string names = format_names();
  return names.c_str();
}

ONNXQUANT_EXPORT int onnxquant_describe(const char* format, std::int64_t* out) {
  return guarded_call([&] {
    const Format& found = find_format(format);
    const std::int64_t values[] = {found.bits, found.scale_type == ScaleType::kHalf ? 2 : 4, found.granularities,
                                   found.min_block, found.max_block};
    for (const std::int64_t value : values) *out++ = value;
  });
}

ONNXQUANT_EXPORT const char* onnxquant_isas() {
  static const std::string names = isa_names(true);
  return names.c_str();
}

ONNXQUANT_EXPORT const char* onnxquant_compiled_isas() {
  static const std::string names = isa_names(false);
  return names.c_str();
}

ONNXQUANT_EXPORT int onnxquant_set_isa(const char* isa) {
  return guarded_call([&] { cap_isa(isa); });
}

ONNXQUANT_EXPORT int onnxquant_decode(const char* format, const std::uint8_t* codes, const void* scales,
                                      std::int64_t scale_count, std::int64_t N, std::int64_t K,
                                      std::int64_t block_size, float* out) {
  return guarded_call([&] {
    const Weights weights = make_weights(format, codes, scales, scale_count, N, K, block_size);
    for (std::int64_t n = 0; n < N; ++n) decode_row(weights, n, out + n * K);
  });
}

ONNXQUANT_EXPORT int onnxquant_matmul(const char* format, const char* compute, const char* isa, const float* X,
                                      std::int64_t M, const std::uint8_t* codes, const void* scales,
                                      std::int64_t scale_count, std::int64_t N, std::int64_t K,
                                      std::int64_t block_size, float* Y) {
  return guarded_call([&] {
    const Weights weights = make_weights(format, codes, scales, scale_count, N, K, block_size);
    if (M < 0 || (M > 0 && (X == nullptr || Y == nullptr))) throw Error("X or Y is missing");
    Serial serial;
    matmul(kernels(isa), weights, parse_compute(compute), Matrix{const_cast<float*>(X), M, false},
           Matrix{Y, M, false}, serial);
  });
}
