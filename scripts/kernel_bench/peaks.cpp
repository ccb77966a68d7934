// What this machine can do at most, for scripts/bench_kernels.py: a command per line on stdin, an answer on stdout.
//
//   info                            -> instruction sets this program uses
//   read BYTES THREADS WARM RUNS    -> seconds of each sweep over a buffer of that size
//   int8 | blocks | avx2 | amx | fma THREADS
//                                   -> multiply-accumulates per second ("no" where the CPU has no such unit)
//
// Compile with: g++ -std=c++17 -O3 -march=native -fopenmp

#include <immintrin.h>
#include <omp.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

namespace {

// Nothing may move over this line, and what it names is used. GCC 12 believes that AMX intrinsics touch no memory.
#define KEEP(x) asm volatile("" : "+x"(x))
#define BARRIER() asm volatile("" ::: "memory")

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
    rusage use{};
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + 1e-6 * (use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

// OpenMP's workers spin for a while after a run: whoever is timed next must not pay for it.
void settle() {
    for (int i = 0; i < 100; ++i) {
        const double before = cpu_seconds();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (cpu_seconds() - before < 0.0004) return;
    }
}

#ifdef __AVX512F__
using Vector = __m512i;
Vector load(const char* p) { return _mm512_loadu_si512(p); }
Vector mix(Vector a, Vector b) { return _mm512_or_si512(a, b); }
#else
using Vector = __m256i;
Vector load(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
Vector mix(Vector a, Vector b) { return _mm256_or_si256(a, b); }
#endif
constexpr int64_t kLine = 64, kStep = 8 * kLine;

// Four accumulators, so that loads do not wait for each other; prefetching runs some lines ahead.
void sweep(const char* begin, const char* end, int64_t ahead) {
    Vector a{}, b{}, c{}, d{};
    for (const char* p = begin; p < end; p += kStep) {
        for (int64_t i = 0; i < kStep; i += kLine) _mm_prefetch(p + ahead + i, _MM_HINT_T0);
        for (int64_t i = 0; i < kStep; i += 4 * int64_t(sizeof(Vector))) {
            a = mix(a, load(p + i));
            b = mix(b, load(p + i + sizeof(Vector)));
            c = mix(c, load(p + i + 2 * sizeof(Vector)));
            d = mix(d, load(p + i + 3 * sizeof(Vector)));
        }
    }
    a = mix(mix(a, b), mix(c, d));
    KEEP(a);
}

struct Buffer {
    explicit Buffer(int64_t bytes) : data(static_cast<char*>(std::aligned_alloc(4096, bytes)), std::free) {
        std::fill_n(data.get(), bytes, 1);
    }
    std::unique_ptr<char, decltype(&std::free)> data;
};

void read(int64_t bytes, int threads, int warm, int runs, std::ostream& out) {
    static std::map<int64_t, Buffer> buffers;
    const int64_t step = kStep * threads * 8, total = (bytes + step - 1) / step * step, share = total / threads;
    const char* data = buffers.try_emplace(total, total).first->second.data.get();
    for (int i = -warm; i < runs; ++i) {
        const double begin = now();
#pragma omp parallel num_threads(threads)
        {
            const char* mine = data + omp_get_thread_num() * share;
            sweep(mine, mine + share, 2048);
        }
        if (i >= 0) out << (now() - begin) * bytes / total << ' ';
    }
}

constexpr int kChains = 12;           // independent accumulators: latency times throughput of any of these units
constexpr int64_t kRounds = 1 << 20;  // of all chains
#define CHAINS(do) do(s0) do(s1) do(s2) do(s3) do(s4) do(s5) do(s6) do(s7) do(s8) do(s9) do(s10) do(s11)

// Accumulators are variables, as the elements of an array would live in memory.
template <class Vec, class Step>
void chains(Vec start, Step step) {
#define START(s) Vec s = start; KEEP(s);
#define STEP(s) s = step(s);
#define END(s) KEEP(s);
    CHAINS(START)
    for (int64_t i = 0; i < kRounds; ++i) {
        CHAINS(STEP)
    }
    CHAINS(END)
}

// Each returns multiply-accumulates of one call.
int64_t avx2() {  // what a CPU without VNNI does: maddubs, madd, add
    const __m256i x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    __m256i y = _mm256_set1_epi8(2);
    KEEP(y);
    chains(_mm256_setzero_si256(), [&](__m256i s) {
        __m256i products = _mm256_maddubs_epi16(x, y);
        KEEP(products);
        return _mm256_add_epi32(s, _mm256_madd_epi16(products, ones));
    });
    return kRounds * kChains * 32;
}

int64_t int8() {
#if defined(__AVX512VNNI__)
    const __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
    chains(_mm512_setzero_si512(), [&](__m512i s) { return _mm512_dpbusd_epi32(s, x, y); });
    return kRounds * kChains * 64;
#elif defined(__AVXVNNI__)
    const __m256i x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2);
    chains(_mm256_setzero_si256(), [&](__m256i s) { return _mm256_dpbusd_avx_epi32(s, x, y); });
    return kRounds * kChains * 32;
#else
    return avx2();
#endif
}

// As int8, but every 32 products are scaled twice and added as floats: the multiplications take turns with the products.
int64_t blocks() {
#if defined(__AVX512VNNI__)
    constexpr int kProducts = 32 / 4;
    const __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
    const __m512 scale = _mm512_set1_ps(0.5F), other = _mm512_set1_ps(0.25F);
    chains(_mm512_setzero_ps(), [&](__m512 total) {
        __m512i sum = _mm512_setzero_si512();
        for (int i = 0; i < kProducts; ++i) {
            sum = _mm512_dpbusd_epi32(sum, x, y);
            KEEP(sum);
        }
        return _mm512_add_ps(total, _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), other));
    });
    return kRounds * kChains * 64 * kProducts;
#else
    return 0;
#endif
}

int64_t fma() {
#ifdef __AVX512F__
    const __m512 x = _mm512_set1_ps(0.5F), y = _mm512_set1_ps(0.25F);
    chains(_mm512_setzero_ps(), [&](__m512 s) { return _mm512_fmadd_ps(x, y, s); });
    return kRounds * kChains * 16;
#else
    const __m256 x = _mm256_set1_ps(0.5F), y = _mm256_set1_ps(0.25F);
    chains(_mm256_setzero_ps(), [&](__m256 s) { return _mm256_fmadd_ps(x, y, s); });
    return kRounds * kChains * 8;
#endif
}

int64_t amx() {
#ifdef __AMX_INT8__
    constexpr int kArchReqXcompPerm = 0x1023, kTileData = 18;
    if (syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) != 0) return 0;
    alignas(64) uint8_t config[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
        config[16 + 2 * tile] = 64;  // bytes of a row
        config[48 + tile] = 16;      // rows
    }
    BARRIER();
    _tile_loadconfig(config);
    BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    constexpr int64_t kProducts = 1 << 19;
    for (int64_t i = 0; i < kProducts; i += 4) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 5, 6);
        _tile_dpbusd(2, 4, 7);
        _tile_dpbusd(3, 5, 7);
        BARRIER();
    }
    _tile_release();
    return kProducts * 16 * 16 * 64;
#else
    return 0;
#endif
}

double peak(int64_t (*unit)(), int threads) {
    double best = 0;
    for (int run = 0; run < 5; ++run) {
        int64_t products = 0;
        const double begin = now();
#pragma omp parallel num_threads(threads) reduction(+ : products)
        products += unit();
        best = std::max(best, products / (now() - begin));
    }
    return best;
}

}  // namespace

int main() {
    const std::map<std::string, int64_t (*)()> units{{"int8", int8}, {"blocks", blocks}, {"avx2", avx2}, {"amx", amx}, {"fma", fma}};
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream in(line);
        std::ostringstream out;
        std::string command;
        in >> command;
        if (command == "info") {
#if defined(__AVX512VNNI__)
            out << "avx512-vnni";
#elif defined(__AVXVNNI__)
            out << "avx-vnni";
#else
            out << "avx2";
#endif
#ifdef __AMX_INT8__
            out << " amx-int8";
#endif
        } else if (command == "read") {
            int64_t bytes = 0;
            int threads = 0, warm = 0, runs = 0;
            in >> bytes >> threads >> warm >> runs;
            read(bytes, threads, warm, runs, out);
            settle();
        } else if (const auto unit = units.find(command); unit != units.end()) {
            int threads = 1;
            in >> threads;
            const double rate = peak(unit->second, threads);
            settle();
            out << (rate > 0 ? std::to_string(rate) : "no");
        } else {
            out << "no unknown command";
        }
        std::cout << out.str() << std::endl;
    }
}
