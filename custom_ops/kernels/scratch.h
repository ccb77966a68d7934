// Memory for a call, kept by the calling thread for its next call.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace onnxquant {

// At most one lease per thread gets the spare memory; another one alive at the same time brings its own.
class Scratch {
 public:
  // Throws std::bad_alloc.
  explicit Scratch(std::size_t bytes) : memory_(std::move(spare())) {
    if (memory_.size < bytes) {
      memory_ = Memory{};
      memory_.bytes.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlignment})));
      memory_.size = bytes;
    }
  }
  ~Scratch() {
    if (memory_.size <= kMostSpare && memory_.size > spare().size) spare() = std::move(memory_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The next `count` objects; the caller asked for enough bytes, each array rounded up by size_of().
  template <class T>
  T* take(std::size_t count) {
    T* array = reinterpret_cast<T*>(memory_.bytes.get() + used_);
    used_ += size_of<T>(count);
    return array;
  }
  template <class T>
  static constexpr std::size_t size_of(std::size_t count) {
    return (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  static constexpr std::size_t kAlignment = 64, kMostSpare = std::size_t{16} << 20;

  struct Free {
    void operator()(std::byte* bytes) const { ::operator delete(bytes, std::align_val_t{kAlignment}); }
  };
  struct Memory {
    Memory() = default;
    Memory(Memory&& other) noexcept : bytes(std::move(other.bytes)), size(std::exchange(other.size, 0)) {}
    Memory& operator=(Memory&& other) noexcept {
      bytes = std::move(other.bytes);
      size = std::exchange(other.size, 0);
      return *this;
    }
    std::unique_ptr<std::byte, Free> bytes;
    std::size_t size = 0;
  };
  static Memory& spare() {
    thread_local Memory memory;
    return memory;
  }

  Memory memory_;
  std::size_t used_ = 0;
};

}  // namespace onnxquant
