// Reads what tests/custom_ops/write_vectors.py wrote.
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace onnxquant::tests {

class Reader {
 public:
  explicit Reader(const std::string& path) : file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error("cannot open " + path);
  }
  bool at_end() { return file_.peek() == std::ifstream::traits_type::eof(); }
  std::int64_t integer() { return array<std::int64_t>(1)[0]; }
  std::string text() {
    const std::vector<char> characters = array<char>(integer());
    return {characters.begin(), characters.end()};
  }
  template <class T>
  std::vector<T> array() {
    return array<T>(integer());
  }

 private:
  template <class T>
  std::vector<T> array(std::int64_t count) {
    std::vector<T> out(static_cast<std::size_t>(count));
    const auto bytes = static_cast<std::streamsize>(out.size() * sizeof(T));
    if (!file_.read(reinterpret_cast<char*>(out.data()), bytes)) throw std::runtime_error("the cases end early");
    return out;
  }
  std::ifstream file_;
};

inline int failures = 0;

template <class... Values>
void fail(const char* format, Values... values) {
  constexpr int kShown = 20;
  if (++failures > kShown) return;
  std::printf(format, values...);
  std::printf("\n");
}

}  // namespace onnxquant::tests
