#include "isa/dispatch.h"

#include <array>
#include <atomic>
#include <cstring>

#include "isa/tables.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

// From the slowest to the fastest.
constexpr const KernelTable* kTables[] = {
    &kScalar,
#ifdef ONNXQUANT_HAS_AVX2
    &kAvx2,
#endif
#ifdef ONNXQUANT_HAS_AVXVNNI
    &kAvxVnni,
#endif
#ifdef ONNXQUANT_HAS_AVX512VNNI
    &kAvx512Vnni,
#endif
#ifdef ONNXQUANT_HAS_AMX
    &kAmx,
#endif
#ifdef ONNXQUANT_HAS_NEON_DOT
    &kNeonDot,
#endif
#ifdef ONNXQUANT_HAS_NEON_I8MM
    &kNeonI8mm,
#endif
};

constexpr std::size_t kTableCount = sizeof kTables / sizeof *kTables;

// Asked once: virtual machines trap the question, which takes longer than a small product.
bool usable(const KernelTable* table) {
  static const std::array<bool, kTableCount> answers = [] {
    std::array<bool, kTableCount> out{};
    for (std::size_t i = 0; i < kTableCount; ++i) out[i] = kTables[i]->usable();
    return out;
  }();
  for (std::size_t i = 0; i < kTableCount; ++i) {
    if (kTables[i] == table) return answers[i];
  }
  return false;
}

bool none(const char* isa) { return isa == nullptr || *isa == '\0'; }

const KernelTable* best_until(const char* cap) {
  const KernelTable* best = &kScalar;
  bool known = none(cap);
  for (const KernelTable* table : kTables) {
    if (usable(table)) best = table;
    if (!known && std::strcmp(table->name, cap) == 0) {
      known = true;
      break;
    }
  }
  if (!known) throw Error("no instruction set is called '%.40s' here", cap);
  return best;
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table{best_until(nullptr)};
  return table;
}

}  // namespace

const KernelTable& kernels() { return *current().load(std::memory_order_acquire); }

const KernelTable& kernels(const char* isa) {
  if (none(isa)) return kernels();
  for (const KernelTable* table : kTables) {
    if (std::strcmp(table->name, isa) != 0) continue;
    if (!usable(table)) throw Error("this CPU has no %s", isa);
    return *table;
  }
  throw Error("no instruction set is called '%.40s' here", isa);
}

void cap_isa(const char* isa) { current().store(best_until(isa), std::memory_order_release); }

std::string isa_names(bool only_usable) {
  std::string names;
  for (const KernelTable* table : kTables) {
    if (only_usable && !usable(table)) continue;
    if (!names.empty()) names += ',';
    names += table->name;
  }
  return names;
}

}  // namespace onnxquant
