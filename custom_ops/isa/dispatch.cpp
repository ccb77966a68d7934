#include "isa/dispatch.h"

#include <array>
#include <atomic>
#include <cstring>

#include "instruction_sets.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

constexpr std::size_t kCount = sizeof kInstructionSets / sizeof *kInstructionSets;

// Asked once: virtual machines trap the question, which takes longer than a small product.
bool usable(const InstructionSet& set) {
  static const std::array<bool, kCount> answers = [] {
    std::array<bool, kCount> out{};
    for (std::size_t i = 0; i < kCount; ++i) out[i] = kInstructionSets[i].usable();
    return out;
  }();
  return answers[static_cast<std::size_t>(&set - kInstructionSets)];
}

bool none(const char* name) { return name == nullptr || *name == '\0'; }

const InstructionSet* best_until(const char* cap) {
  const InstructionSet* best = kInstructionSets;
  bool known = none(cap);
  for (const InstructionSet& set : kInstructionSets) {
    if (usable(set)) best = &set;
    if (!known && std::strcmp(set.name, cap) == 0) {
      known = true;
      break;
    }
  }
  if (!known) throw Error("no instruction set is called '%.40s' here", cap);
  return best;
}

std::atomic<const InstructionSet*>& current() {
  static std::atomic<const InstructionSet*> set{best_until(nullptr)};
  return set;
}

}  // namespace

const InstructionSet& instruction_set() { return *current().load(std::memory_order_acquire); }

const InstructionSet& best_instruction_set() { return *best_until(nullptr); }

const InstructionSet& instruction_set(const char* name) {
  if (none(name)) return instruction_set();
  for (const InstructionSet& set : kInstructionSets) {
    if (std::strcmp(set.name, name) != 0) continue;
    if (!usable(set)) throw Error("this CPU has no %s", name);
    return set;
  }
  throw Error("no instruction set is called '%.40s' here", name);
}

void cap_instruction_set(const char* name) { current().store(best_until(name), std::memory_order_release); }

std::string instruction_set_names(bool only_usable) {
  std::string names;
  for (const InstructionSet& set : kInstructionSets) {
    if (only_usable && !usable(set)) continue;
    if (!names.empty()) names += ',';
    names += set.name;
  }
  return names;
}

}  // namespace onnxquant
