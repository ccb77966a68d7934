// Independent pieces of work, run by threads that the portable code knows nothing of.
#pragma once

#include <cstddef>

namespace onnxquant {

class Parallel {
 public:
  virtual ~Parallel() = default;
  // Calls piece(data, i) once for each i below count, in any order, and returns when all are done.
  virtual void run(std::size_t count, void (*piece)(void* data, std::size_t i), void* data) = 0;
};

class Serial final : public Parallel {
 public:
  void run(std::size_t count, void (*piece)(void*, std::size_t), void* data) override {
    for (std::size_t i = 0; i < count; ++i) piece(data, i);
  }
};

// The same for a callable, which must not throw.
template <class Piece>
void parallel_for(Parallel& parallel, std::size_t count, Piece piece) {
  parallel.run(count, [](void* data, std::size_t i) { (*static_cast<Piece*>(data))(i); }, &piece);
}

}  // namespace onnxquant
