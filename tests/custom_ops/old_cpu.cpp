// Run on an emulated CPU without AVX: loads the library, prints its instruction sets, and multiplies by each.
//
//     old_cpu libonnxquant_ops.so
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <vector>

struct Plane {
  const void* data;
  const std::int64_t* dims;
  std::int64_t rank;
};

template <class Function>
Function* find(void* library, const char* name, Function*) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

const char* names();
int multiply(const char* format, std::int64_t N, std::int64_t K, std::int64_t block, const Plane* planes,
             std::int64_t count, const char* compute, const char* isa, const float* X, std::int64_t M,
             const float* bias, float* Y);

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) return std::printf("%s\n", dlerror()), 1;
  auto* isas = find(library, "onnxquant_isas", static_cast<decltype(names)*>(nullptr));
  auto* matmul = find(library, "onnxquant_matmul", static_cast<decltype(multiply)*>(nullptr));
  std::printf("%s", isas());
  // Every weight is (9 - 8) * 1, every activation 1, so that every output is K.
  constexpr std::int64_t kN = 33, kK = 100, kRows = 9;
  const std::vector<std::uint8_t> codes(3 * 16 * 64, 0x99);
  const std::vector<std::uint16_t> scales(3 * 4 * 16, 0x3c00);
  const std::int64_t code_dims[] = {3, 16, 16, 4}, scale_dims[] = {3, 4, 16};
  const Plane planes[] = {{codes.data(), code_dims, 4}, {scales.data(), scale_dims, 3}};
  const std::vector<float> x(kRows * kK, 1.0f);
  for (const char* compute : {"int8", "float32"}) {
    std::vector<float> y(kRows * kN);
    if (matmul("q4_0", kN, kK, 32, planes, 2, compute, "", x.data(), kRows, nullptr, y.data()) != 0) return 1;
    bool right = true;
    for (const float value : y) right = right && value > kK - 0.01f && value < kK + 0.01f;
    std::printf(" %s %s", compute, right ? "right" : "wrong");
  }
  std::printf("\n");
}
