// Work in phases, one after the other, that threads share inside of one parallel section: waking them for each phase takes longer
// than many phases do.
//
// A thread takes a share of each phase, the same part every time, so that it finds in its cache what it wrote before; then what is
// left of the others' shares. Whoever ends a phase opens the next one. Nobody waits for a thread that has not begun: one alone does
// all of the work, and those that come later join in the next phase. Where another program took a thread's processor away, all others
// had to wait for it: after that some calls are left to one thread, more of them each time it happens again.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/parallel.h"

namespace onnxquant {

struct Phase {
  std::int64_t units;  // that may be computed apart from each other, in any order; below 2^32
  double duration;     // of all of them on one thread, about, in nanoseconds
};

class Crew {
 public:
  // `threads` work on it at most.
  Crew(const std::vector<Phase>& phases, std::size_t threads);
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Calls work(phase, begin, end) for all units of each phase, those of one when all before are done. `work` must not throw. One call
  // at a time.
  template <class Work>
  void run(Parallel& parallel, Work work) {
    const Call call = [](void* data, std::size_t phase, std::int64_t begin, std::int64_t end) {
      (*static_cast<Work*>(data))(phase, begin, end);
    };
    run(parallel, call, &work);
  }

 private:
  using Call = void (*)(void* data, std::size_t phase, std::int64_t begin, std::int64_t end);

  struct Plan {
    std::int64_t units, at_once;  // units that a thread takes at a time
    std::size_t most_shares;
  };
  // The first unit of a share that nobody took, below the number of its phase: one that is late takes nothing of a later phase.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> next{0};
  };
  struct Units {
    std::int64_t begin, end;
    std::int64_t count() const { return end - begin; }
  };

  using Clock = std::chrono::steady_clock;

  void run(Parallel&, Call, void* data);
  void run_alone(Call, void* data) const;
  void join();
  void open(std::size_t phase);
  Units take(std::size_t share, std::size_t phase, std::size_t shares);
  // Until another phase is opened. `spent`: on this one.
  std::uint64_t wait(std::uint64_t opened, Clock::duration spent);

  std::vector<Plan> plans_;
  std::size_t threads_;
  std::unique_ptr<Share[]> shares_;
  Call call_ = nullptr;
  void* data_ = nullptr;
  int alone_ = 0, more_alone_ = 1;  // calls that one thread makes from now on, and after the next time that it had to wait
  alignas(64) std::atomic<std::uint64_t> opened_{0};  // the phase, below it the number of shares
  alignas(64) std::atomic<std::int64_t> left_{0};     // units of the phase that are not done
  alignas(64) std::atomic<std::size_t> joined_{0};
  std::atomic<bool> waited_{false};  // for a thread that did not go on
};

}  // namespace onnxquant
