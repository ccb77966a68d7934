// The one exception of this library; it never crosses the C boundary.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <exception>

namespace onnxquant {

// Holds its text in place, so that reporting an error needs no memory.
class Error : public std::exception {
 public:
#if defined(__GNUC__)
  __attribute__((format(printf, 2, 3)))
#endif
  explicit Error(const char* format, ...) noexcept {
    std::va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text_, sizeof text_, format, arguments);
    va_end(arguments);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[320];
};

}  // namespace onnxquant
