// Preloaded by allocation_failures.py: counts the allocations of one library, and lets one of them fail.
//
// One thread at a time may call the library. An allocation is the library's when it is the first caller, the C++ runtime left out: operator new, containers and
// thrown exceptions all end in malloc. What the loader needs for thread_local memory is not counted, because nobody
// could report its failure.
#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
}

namespace {

struct Range {
  std::uintptr_t first = 0, last = 0;
  bool holds(const void* address) const {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    return at >= first && at < last;
  }
};

constexpr int kMostFrames = 12;
Range library, own;
Range runtime[2];  // libstdc++, libgcc
long seen = 0, failing = 0;
volatile bool armed = false;
__attribute__((tls_model("initial-exec"))) thread_local bool inside = false;

struct Sought {
  const char* name;
  Range* range;
};

int find(dl_phdr_info* info, std::size_t, void* data) {
  const Sought& sought = *static_cast<Sought*>(data);
  if (std::strstr(info->dlpi_name, sought.name) == nullptr) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0) continue;
    sought.range->first = info->dlpi_addr + header.p_vaddr;
    sought.range->last = sought.range->first + header.p_memsz;
  }
  return 1;
}

bool is_ours() {
  void* frames[kMostFrames];
  const int count = backtrace(frames, kMostFrames);
  for (int i = 0; i < count; ++i) {
    if (own.holds(frames[i]) || runtime[0].holds(frames[i]) || runtime[1].holds(frames[i])) continue;
    return library.holds(frames[i]);
  }
  return false;
}

bool fails() {
  if (!armed || inside) return false;
  inside = true;  // backtrace may allocate
  const bool failed = is_ours() && ++seen == failing;
  inside = false;
  if (failed) errno = ENOMEM;
  return failed;
}

}  // namespace

extern "C" {

void* malloc(std::size_t size) { return fails() ? nullptr : __libc_malloc(size); }
void* calloc(std::size_t count, std::size_t size) { return fails() ? nullptr : __libc_calloc(count, size); }
void* realloc(void* old, std::size_t size) { return fails() ? nullptr : __libc_realloc(old, size); }
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return fails() ? nullptr : __libc_memalign(alignment, size);
}
void* memalign(std::size_t alignment, std::size_t size) { return fails() ? nullptr : __libc_memalign(alignment, size); }
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  void* memory = fails() ? nullptr : __libc_memalign(alignment, size);
  if (memory == nullptr) return ENOMEM;
  *out = memory;
  return 0;
}

// From now on allocation number k of the library whose path holds `name` fails; 0: none does.
void fail_allocation(const char* name, long k) {
  inside = true;
  Dl_info self{};
  dladdr(reinterpret_cast<void*>(fail_allocation), &self);
  for (Sought sought : {Sought{name, &library}, Sought{self.dli_fname, &own},
                                    Sought{"libstdc++", &runtime[0]}, Sought{"libgcc_s", &runtime[1]}}) {
    dl_iterate_phdr(find, &sought);
  }
  void* frames[1];
  backtrace(frames, 1);  // loads libgcc the first time
  inside = false;
  seen = 0;
  failing = k;
  armed = true;
}

// How many allocations there were since then.
long stop_failing() {
  armed = false;
  return seen;
}
}
