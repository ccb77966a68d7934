// Errors of the functions of the C ABI: a return value, and a text for onnxquant_last_error().
#pragma once

#include <cstdio>
#include <exception>

#ifdef _WIN32
#define ONNXQUANT_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNXQUANT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnxquant {

inline thread_local char last_error[400] = "";

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

// The same for a text; null when there is none.
template <class Make>
const char* guarded_text(Make make) noexcept {
  const char* text = nullptr;
  guarded_call([&] { text = make(); });
  return text;
}

}  // namespace onnxquant
