#include "network/crew.h"

#include <algorithm>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace onnxquant {
namespace {

// In nanoseconds: what is worth a thread's share of a phase, what it takes at a time, and what is worth waking a thread.
constexpr double kShare = 1.5e3, kAtOnce = 150e3, kWaking = 30e3;
// Looks at the next phase before other programs are let in.
constexpr int kLooks = 200;
// A thread that takes longer than another one, which did as much, by so many times and this does not go on.
constexpr int kTimes = 4;
constexpr std::chrono::microseconds kLonger{100};
constexpr int kMostAlone = 64;

constexpr std::uint64_t packed(std::uint64_t phase, std::uint64_t low) { return phase << 32 | low; }
constexpr std::uint64_t phase_of(std::uint64_t both) { return both >> 32; }
constexpr std::uint64_t low_of(std::uint64_t both) { return both & 0xffffffffu; }

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

std::int64_t begin_of(std::int64_t units, std::size_t share, std::size_t shares) {
  return units * static_cast<std::int64_t>(share) / static_cast<std::int64_t>(shares);
}

}  // namespace

Crew::Crew(const std::vector<Phase>& phases, std::size_t threads) {
  double all = 0;
  for (const Phase& phase : phases) {
    all += phase.duration;
    const double units = static_cast<double>(phase.units), parts = std::max(1.0, phase.duration / kAtOnce);
    const double shares = std::clamp(phase.duration / kShare, 1.0, std::min(units, static_cast<double>(threads)));
    plans_.push_back({phase.units, std::max(std::int64_t{1}, static_cast<std::int64_t>(units / parts)), static_cast<std::size_t>(shares)});
  }
  threads_ = static_cast<std::size_t>(std::clamp(all / kWaking, 1.0, static_cast<double>(threads)));
  shares_ = std::make_unique<Share[]>(threads_);
}

void Crew::run_alone(Call call, void* data) const {
  for (std::size_t phase = 0; phase < plans_.size(); ++phase) call(data, phase, 0, plans_[phase].units);
}

void Crew::run(Parallel& parallel, Call call, void* data) {
  if (threads_ == 1) return run_alone(call, data);
  if (alone_ > 0) {
    --alone_;
    return run_alone(call, data);
  }
  call_ = call;
  data_ = data;
  joined_.store(0, std::memory_order_relaxed);
  waited_.store(false, std::memory_order_relaxed);
  open(0);
  parallel_for(parallel, threads_, [this](std::size_t) { join(); });
  if (waited_.load(std::memory_order_relaxed)) {
    alone_ = more_alone_;
    more_alone_ = std::min(2 * more_alone_, kMostAlone);
  } else {
    more_alone_ = std::max(more_alone_ - 1, 1);
  }
}

void Crew::open(std::size_t phase) {
  std::size_t shares = 0;
  if (phase < plans_.size()) {
    const Plan& plan = plans_[phase];
    shares = std::clamp(joined_.load(std::memory_order_relaxed), std::size_t{1}, std::min(threads_, plan.most_shares));
    left_.store(plan.units, std::memory_order_relaxed);
    for (std::size_t i = 0; i < shares; ++i) {
      const auto begin = static_cast<std::uint64_t>(begin_of(plan.units, i, shares));
      shares_[i].next.store(packed(phase, begin), std::memory_order_relaxed);
    }
  }
  opened_.store(packed(phase, shares), std::memory_order_release);
}

Crew::Units Crew::take(std::size_t share, std::size_t phase, std::size_t shares) {
  const Plan& plan = plans_[phase];
  const std::int64_t last = begin_of(plan.units, share + 1, shares);
  std::atomic<std::uint64_t>& next = shares_[share].next;
  std::uint64_t before = next.load(std::memory_order_relaxed);
  for (;;) {
    const auto begin = static_cast<std::int64_t>(low_of(before));
    if (phase_of(before) != phase || begin >= last) return {0, 0};
    const std::int64_t end = std::min(last, begin + plan.at_once);
    const std::uint64_t after = packed(phase, static_cast<std::uint64_t>(end));
    if (next.compare_exchange_weak(before, after, std::memory_order_relaxed)) return {begin, end};
  }
}

void Crew::join() {
  const std::size_t me = joined_.fetch_add(1, std::memory_order_relaxed);
  for (std::uint64_t opened = opened_.load(std::memory_order_acquire); phase_of(opened) < plans_.size();) {
    const std::size_t phase = phase_of(opened), shares = low_of(opened);
    const Clock::time_point begin = Clock::now();
    for (std::size_t i = 0; i < shares; ++i) {
      for (Units units; (units = take((me + i) % shares, phase, shares)).count() > 0;) {
        call_(data_, phase, units.begin, units.end);
        if (left_.fetch_sub(units.count(), std::memory_order_acq_rel) == units.count()) open(phase + 1);
      }
    }
    opened = wait(opened, shares > 1 ? Clock::now() - begin : Clock::duration::max() / (2 * kTimes));
  }
}

std::uint64_t Crew::wait(std::uint64_t opened, Clock::duration spent) {
  const Clock::time_point begin = Clock::now();
  for (int looks = 0;; ++looks) {
    const std::uint64_t now = opened_.load(std::memory_order_acquire);
    if (now != opened) return now;
    if (looks < kLooks) {
      pause();
      continue;
    }
    std::this_thread::yield();
    if (Clock::now() - begin > kTimes * spent + kLonger) waited_.store(true, std::memory_order_relaxed);
  }
}

}  // namespace onnxquant
