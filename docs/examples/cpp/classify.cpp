// Classifies a digit through ONNX Runtime's C API: classify MODEL.onnx IMAGE.pgm [libonnxquant_ops.so]
// Without the library the model runs on the bodies that it carries.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>

static const OrtApi* ort = nullptr;

// Ends the program where a call failed.
static void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  std::exit(1);
}

// The last 28 x 28 bytes of a binary PGM are its pixels.
static std::array<float, 784> read_image(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 784> pixels{};
  file.seekg(-static_cast<std::streamoff>(pixels.size()), std::ios::end);
  if (!file.read(pixels.data(), pixels.size())) {
    std::fprintf(stderr, "%s: expected a binary PGM of 28 x 28 pixels\n", path);
    std::exit(2);
  }
  std::array<float, 784> image{};
  for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(pixels[i]) / 255.0f;
  return image;
}

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s MODEL.onnx IMAGE.pgm [libonnxquant_ops.so]\n", arguments[0]);
    return 2;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == nullptr) {
    std::fprintf(stderr, "the onnxruntime found is older than the header\n");
    return 1;
  }

  OrtEnv* environment = nullptr;
  OrtSessionOptions* options = nullptr;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &environment));
  check(ort->CreateSessionOptions(&options));
  if (count > 3) check(ort->RegisterCustomOpsLibrary_V2(options, arguments[3]));  // the only line that knows of us
  OrtSession* session = nullptr;
  check(ort->CreateSession(environment, arguments[1], options, &session));

  std::array<float, 784> image = read_image(arguments[2]);
  const std::array<std::int64_t, 4> shape{1, 1, 28, 28};
  OrtMemoryInfo* memory = nullptr;
  OrtValue *input = nullptr, *output = nullptr;
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->CreateTensorWithDataAsOrtValue(memory, image.data(), sizeof image, shape.data(), shape.size(),
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
  const char *inputs[] = {"image"}, *outputs[] = {"logits"};
  check(ort->Run(session, nullptr, inputs, &input, 1, outputs, 1, &output));
  void* data = nullptr;
  check(ort->GetTensorMutableData(output, &data));

  const float* logits = static_cast<const float*>(data);
  std::printf("{\"class\": %d, \"logits\": [", static_cast<int>(std::max_element(logits, logits + 10) - logits));
  for (int i = 0; i < 10; ++i) std::printf("%s%.9g", i ? ", " : "", logits[i]);
  std::printf("]}\n");

  ort->ReleaseValue(output);
  ort->ReleaseValue(input);
  ort->ReleaseMemoryInfo(memory);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(environment);
  return 0;
}
