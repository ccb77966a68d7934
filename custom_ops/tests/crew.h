// Phases that threads share: each unit once, and none before the phase before is done, whoever comes, and when.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "network/crew.h"
#include "tests/cases.h"

namespace onnxquant::tests {

// Some threads, of which all but the first come late; one of them has no thread but is run by the first at the end.
class LateThreads final : public Parallel {
 public:
  explicit LateThreads(std::size_t threads, int microseconds) : threads_(threads), microseconds_(microseconds) {}

  void run(std::size_t count, void (*piece)(void*, std::size_t), void* data) override {
    std::vector<std::thread> others;
    for (std::size_t i = 1; i < count && i < threads_; ++i) {
      others.emplace_back([=] {
        std::this_thread::sleep_for(std::chrono::microseconds(microseconds_ * static_cast<int>(i)));
        piece(data, i);
      });
    }
    piece(data, 0);
    for (std::size_t i = threads_; i < count; ++i) piece(data, i);
    for (std::thread& thread : others) thread.join();
  }

 private:
  std::size_t threads_;
  int microseconds_;
};

inline void check_crew(std::size_t threads, int late) {
  const std::int64_t units[] = {1, 7, 64, 3, 500, 1, 40};
  std::vector<Phase> phases;
  for (int i = 0; i < 40; ++i) phases.push_back({units[i % 7], i % 3 == 0 ? 1e3 : 2e6});
  Crew crew(phases, 4);
  LateThreads parallel(threads, late);
  for (int call = 0; call < 20; ++call) {
    std::vector<std::vector<std::atomic<int>>> done;
    for (const Phase& phase : phases) done.emplace_back(static_cast<std::size_t>(phase.units));
    std::vector<std::atomic<std::int64_t>> counts(phases.size());
    std::atomic<bool> in_order{true};
    crew.run(parallel, [&](std::size_t phase, std::int64_t begin, std::int64_t end) {
      if (phase > 0 && counts[phase - 1] != phases[phase - 1].units) in_order = false;
      for (std::int64_t i = begin; i < end; ++i) ++done[phase][static_cast<std::size_t>(i)];
      counts[phase] += end - begin;
    });
    if (!in_order) return fail("a phase begins before the last one ends, %d threads", int(threads));
    for (std::size_t phase = 0; phase < phases.size(); ++phase) {
      for (const std::atomic<int>& times : done[phase]) {
        if (times != 1) return fail("a unit of phase %d is done %d times, %d threads", int(phase), times.load(), int(threads));
      }
    }
  }
}

inline void check_crews() {
  for (const std::size_t threads : {1, 2, 4}) {
    for (const int late : {0, 50, 2000}) check_crew(threads, late);
  }
}

}  // namespace onnxquant::tests
