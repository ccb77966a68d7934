// Checks kernels, encoders, packers, observers, maps of codes, dynamic products, networks and how threads share them, of every usable
// instruction set, for CPUs on which no Python runs, e.g. emulated ones. CASES is a folder that tests/custom_ops/write_vectors.py wrote;
// without it, all that needs none is checked.
//
//     kernels_test [CASES [NAMES]]     NAMES: the instruction sets that must be usable, e.g. scalar,neon_dot
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "isa/float_mode.h"
#include "kernels/half.h"
#include "kernels/matmul.h"
#include "kernels/weights.h"
#include "tests/cases.h"
#include "tests/crew.h"
#include "tests/jobs.h"
#include "tests/maps.h"
#include "tests/networks.h"
#include "tests/observers.h"
#include "tests/products.h"

using namespace onnxquant;
using namespace onnxquant::tests;

namespace {

constexpr std::int64_t kRows[] = {0, 1, 2, 3, 5, 8, 13, 33};
constexpr int kNetworkShapes = 200, kProductShapes = 200;
// ---- cases ----

struct StoredPlane {
  std::vector<std::int64_t> dims;
  std::vector<std::uint8_t> bytes;
};

// The right values of a product and their error bounds; empty where this product is not tested.
struct Expected {
  std::vector<double> values, bounds;
};

struct Case {
  std::string name, format;
  std::int64_t N, K, block;
  std::map<std::string, StoredPlane> planes;
  std::vector<float> x, decoded;
  Expected int8, exact;

  explicit Case(Reader& from) {
    name = from.text();
    format = from.text();
    N = from.integer();
    K = from.integer();
    block = from.integer();
    for (std::int64_t count = from.integer(); count > 0; --count) {
      StoredPlane& plane = planes[from.text()];
      plane.dims = from.array<std::int64_t>();
      plane.bytes = from.array<std::uint8_t>();
    }
    decoded = from.array<float>();
    x = from.array<float>();
    for (Expected* expected : {&int8, &exact}) {
      expected->values = from.array<double>();
      expected->bounds = from.array<double>();
    }
  }

  Weights weights() const {
    Weights out = weights_of(find_format(format.c_str()), N, K, block);
    for (const PlaneType& type : planes_of(*out.format, planes.count("permutation") != 0)) {
      const StoredPlane& plane = planes.at(name_of(type.plane));
      bind(out, type.plane, plane.bytes.data(), Dims{plane.dims.data(), plane.dims.size()});
    }
    return out;
  }
};

// ---- checks ----

// NaN is expected where the value is NaN; a bound of zero means equality.
bool right(double actual, double expected, double bound) {
  if (std::isnan(expected)) return std::isnan(actual);
  return actual == expected || std::fabs(actual - expected) <= bound;
}

void check_decode(const Case& item, const Weights& weights) {
  std::vector<float> row(static_cast<std::size_t>(item.K));
  for (std::int64_t n = 0; n < item.N; ++n) {
    decode_row(weights, n, row.data());
    for (std::size_t k = 0; k < row.size(); ++k) {
      const float expected = item.decoded[static_cast<std::size_t>(n) * row.size() + k];
      if (row[k] == expected) continue;
      return fail("%s: [%d, %zu] is %a, not %a", item.name.c_str(), int(n), k, row[k], expected);
    }
  }
}

// All outputs, one number of rows after the other.
std::vector<float> check_product(const Case& item, const Weights& weights, const InstructionSet& set,
                                 Compute compute) {
  std::vector<float> all;
  const Expected& expected = compute == Compute::kInt8 ? item.int8 : item.exact;
  const auto most = static_cast<std::int64_t>(item.x.size()) / item.K;
  Serial serial;
  for (const std::int64_t M : kRows) {
    if (expected.values.empty() || M > most) break;
    // A value that no kernel computes shows which outputs were not written, and writes behind the end.
    std::vector<float> y(static_cast<std::size_t>(M * item.N + 1), 12345.0f);
    matmul(set, weights, compute, Matrix{const_cast<float*>(item.x.data()), M, false}, nullptr,
           Matrix{y.data(), M, false}, serial);
    if (y.back() != 12345.0f) fail("%s: %s writes behind the end", item.name.c_str(), set.name);
    for (std::size_t i = 0; i + 1 < y.size(); ++i) {
      if (right(y[i], expected.values[i], expected.bounds[i])) continue;
      fail("%s: %s, %s, M %d: output %zu is %a, expected %a within %g", item.name.c_str(), set.name,
           compute == Compute::kInt8 ? "int8" : "float32", int(M), i, y[i], expected.values[i], expected.bounds[i]);
      break;
    }
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// A conversion as products do it, where subnormals are flushed.
template <class From, class To>
void convert(void (*function)(const From*, To*, std::int64_t), const std::vector<From>& from, std::vector<To>& to) {
  const FloatMode mode;
  function(from.data(), to.data(), static_cast<std::int64_t>(from.size()));
}

// Every float16 to float32, and floats around every float16 and every tie back.
void check_halves(const InstructionSet& set) {
  std::vector<std::uint16_t> halves(1 << 16);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide(halves.size());
  convert(set.kernels->widen, halves, wide);
  std::vector<float> probes;
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const float expected = half_to_float(halves[i]);
    if (!same_bits(wide[i], expected)) fail("%s widens %04zx to %a, not %a", set.name, i, wide[i], expected);
    const float tie = expected + (half_to_float(static_cast<std::uint16_t>(i ^ 1)) - expected) / 2;
    for (const float probe : {expected, tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)}) {
      if (!std::isnan(probe)) probes.push_back(probe);
    }
  }
  std::vector<std::uint16_t> narrow(probes.size());
  convert(set.kernels->narrow, probes, narrow);
  for (std::size_t i = 0; i < probes.size(); ++i) {
    const std::uint16_t expected = float_to_half(probes[i]);
    if (narrow[i] != expected) fail("%s narrows %a to %04x, not %04x", set.name, probes[i], narrow[i], expected);
  }
}

void check_float_mode(const InstructionSet& set) {
  const volatile float subnormal = 1e-40f;
  if (subnormal * 0.5f == 0.0f) fail("%s: subnormals are flushed after a call", set.name);
}

using Sets = std::vector<const InstructionSet*>;

Sets usable_sets(const std::string& names) {
  Sets sets;
  for (std::size_t from = 0; from < names.size();) {
    const std::size_t to = std::min(names.find(',', from), names.size());
    sets.push_back(&instruction_set(names.substr(from, to - from).c_str()));
    from = to + 1;
  }
  return sets;
}

int check_products(const std::string& path, const Sets& sets) {
  int cases = 0;
  for (Reader reader(path); !reader.at_end(); ++cases) {
    const Case item(reader);
    const Weights weights = item.weights();
    check_decode(item, weights);
    std::vector<float> first;
    for (const InstructionSet* set : sets) {
      const std::vector<float> y = check_product(item, weights, *set, Compute::kInt8);
      if (set == sets.front()) first = y;
      const bool same = y.empty() || std::memcmp(y.data(), first.data(), y.size() * sizeof(float)) == 0;
      if (!same && weights.outlier_count == 0) fail("%s: %s differs from scalar", item.name.c_str(), set->name);
      check_product(item, weights, *set, Compute::kFloat);
      check_float_mode(*set);
    }
  }
  return cases;
}

int check_jobs(const std::string& path, const Sets& sets) {
  int jobs = 0;
  for (Reader reader(path); !reader.at_end(); ++jobs) {
    const Job job(reader);
    for (const InstructionSet* set : sets) check_job(job, set->name);
  }
  return jobs;
}

int run(const char* folder, const char* expected) {
  const std::string names = instruction_set_names(true);
  if (expected != nullptr && names != expected) fail("usable are %s, expected %s", names.c_str(), expected);
  const Sets sets = usable_sets(names);
  check_crews();
  for (const InstructionSet* set : sets) {
    check_halves(*set);
    check_observers(*set->observers, set->name);
    check_maps(*set);
    check_network(*set->network, set->name, kNetworkShapes);
  }
  check_dynamic_products(sets, kProductShapes);
  if (folder == nullptr) {
    std::printf("%s: %d failures\n", names.c_str(), failures);
    return failures == 0 ? 0 : 1;
  }
  const std::string path = folder;
  const int products = check_products(path + "/products", sets), jobs = check_jobs(path + "/jobs", sets);
  std::printf("%s: %d products, %d jobs, %d failures\n", names.c_str(), products, jobs, failures);
  return failures == 0 && products > 0 && jobs > 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 3) {
    std::fprintf(stderr, "usage: kernels_test [CASES [NAMES]]\n");
    return 2;
  }
  try {
    return run(count > 1 ? arguments[1] : nullptr, count == 3 ? arguments[2] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
