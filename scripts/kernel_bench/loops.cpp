// How close loops written by hand come to the integer peak, for docs/benchmarks.md: two formats, weights in the nearest
// caches, nothing around them. A cycle is the time of one integer product of 64 bytes.
//
//     g++ -std=c++17 -O3 -march=native scripts/kernel_bench/loops.cpp -o loops && ./loops      # AVX-512 VNNI

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

// Computed here, once, and used; loaded once, where the compiler would rather load for every use.
#define KEEP(x) asm volatile("" : "+v"(x))
#define ONCE(x) asm("" : "+v"(x))

__m512i four(const int8_t* x) {
    int value;
    std::memcpy(&value, x, sizeof value);
    return _mm512_set1_epi32(value);
}

template <class Loop>
double seconds(Loop loop) {
    double best = 1e9;
    for (int run = 0; run < 2000; ++run) {
        const auto begin = std::chrono::steady_clock::now();
        loop();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
}

// Products alone, in as many chains as hide their latency.
double cycle() {
    constexpr int kRounds = 1 << 12;
    return seconds([] {
        const __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
        __m512i a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
        for (int i = 0; i < kRounds; ++i) {
#define STEP(s) s = _mm512_dpbusd_epi32(s, x, y); KEEP(s);
            STEP(a) STEP(b) STEP(c) STEP(d) STEP(e) STEP(f) STEP(g) STEP(h)
        }
    }) / (8 * kRounds);
}

constexpr int kTile = 16;  // channels

// q4_0: blocks of 32 with a scale, 8 rows, 4 at a time with 2 tiles.
struct Q4 {
    static constexpr int kBlocks = 128, kTiles = 4, kRows = 8, kHeight = 4, kWidth = 2, kBlock = 32;
    std::vector<uint8_t> codes = std::vector<uint8_t>(kTiles * kBlocks * kBlock * kTile / 2, 0x5A);
    std::vector<uint16_t> scales = std::vector<uint16_t>(kTiles * kBlocks * kTile, 0x1C00);
    std::vector<int8_t> x = std::vector<int8_t>(kRows * (kBlocks * kBlock + 64), 3);  // rows in different sets of the cache
    std::vector<int> starts = std::vector<int>(kRows * kBlocks, 3);  // minus 8 times the sum of a block of x
    std::vector<float> x_scales = std::vector<float>(kRows * kBlocks, 1.0F), y = std::vector<float>(kRows * kTiles * kTile);

    __attribute__((noinline)) void rows_and_tiles(int row, int tile) {
        const __m512i low = _mm512_set1_epi8(15);
        const int stride = kBlocks * kBlock + 64;
        __m512 total[kWidth][kHeight] = {};
        const uint8_t* code[kWidth];
        const uint16_t* scale_at[kWidth];
        for (int v = 0; v < kWidth; ++v) {
            code[v] = codes.data() + (tile + v) * kBlocks * 256;
            scale_at[v] = scales.data() + (tile + v) * kBlocks * kTile;
        }
        const int8_t* xs = x.data() + row * stride;
        const float* of_x = x_scales.data() + row * kBlocks;
        for (int b = 0; b < kBlocks; ++b) {
            __m512i sum[kWidth][kHeight];
            for (int v = 0; v < kWidth; ++v) {
                for (int r = 0; r < kHeight; ++r) sum[v][r] = _mm512_set1_epi32(starts[(row + r) * kBlocks + b]);
            }
            for (int g = 0; g < 4; ++g) {
                __m512i packed[kWidth];
                for (int v = 0; v < kWidth; ++v) {
                    packed[v] = _mm512_loadu_si512(code[v] + g * 64);
                    ONCE(packed[v]);
                }
                for (int f = 0; f < 2; ++f) {
                    __m512i one[kWidth];
                    for (int v = 0; v < kWidth; ++v) {
                        one[v] = _mm512_and_si512(f ? _mm512_srli_epi16(packed[v], 4) : packed[v], low);
                    }
                    for (int r = 0; r < kHeight; ++r) {
                        const __m512i some = four(xs + r * stride + b * kBlock + g * 8 + f * 4);
                        for (int v = 0; v < kWidth; ++v) sum[v][r] = _mm512_dpbusd_epi32(sum[v][r], one[v], some);
                    }
                }
            }
            for (int v = 0; v < kWidth; ++v) {
                code[v] += 256;
                const void* at = scale_at[v] + b * kTile;
                const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(at)));
                for (int r = 0; r < kHeight; ++r) {
                    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[v][r]), scale);
                    const __m512 other = _mm512_set1_ps(of_x[r * kBlocks + b]);
                    total[v][r] = _mm512_add_ps(total[v][r], _mm512_mul_ps(scaled, other));
                }
            }
        }
        for (int v = 0; v < kWidth; ++v) {
            for (int r = 0; r < kHeight; ++r) _mm512_storeu_ps(&y[((row + r) * kTiles + tile + v) * kTile], total[v][r]);
        }
    }

    void operator()() {
        for (int tile = 0; tile < kTiles; tile += kWidth) {
            for (int row = 0; row < kRows; row += kHeight) rows_and_tiles(row, tile);
        }
    }
};

// i2_s: one row, blocks of 128 activations. Fields of a byte stay where they are, each with a sum of its own.
struct I2 {
    static constexpr int kBlocks = 8, kTiles = 8, kBlock = 128;
    std::vector<uint8_t> codes = std::vector<uint8_t>(kTiles * kBlocks * kBlock * kTile / 4, 0x5A);
    std::vector<int8_t> x = std::vector<int8_t>(kBlocks * kBlock, 3);
    std::vector<float> x_scales = std::vector<float>(kBlocks, 1.0F), y = std::vector<float>(kTiles * kTile);

    void tiles(int tile) {
        const __m512i masks[4] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48), _mm512_set1_epi8(-64)};
        const __m512 scale = _mm512_set1_ps(0.5F);
        __m512 total[2] = {};
        for (int b = 0; b < kBlocks; ++b) {
            __m512i sum[2][4] = {};
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) {
                __m512i xs[4];
                for (int f = 0; f < 4; ++f) xs[f] = four(&x[b * kBlock + g * 16 + f * 4]);
                for (int v = 0; v < 2; ++v) {
                    __m512i packed = _mm512_loadu_si512(&codes[(((tile + v) * kBlocks + b) * 8 + g) * 64]);
                    ONCE(packed);
                    for (int f = 0; f < 4; ++f) {
                        sum[v][f] = _mm512_dpbusd_epi32(sum[v][f], _mm512_and_si512(packed, masks[f]), xs[f]);
                    }
                }
            }
            for (int v = 0; v < 2; ++v) {
                const __m512i low = _mm512_add_epi32(sum[v][0], _mm512_srai_epi32(sum[v][1], 2));
                const __m512i high = _mm512_add_epi32(_mm512_srai_epi32(sum[v][2], 4), _mm512_srai_epi32(sum[v][3], 6));
                const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), scale);
                total[v] = _mm512_add_ps(total[v], _mm512_mul_ps(scaled, _mm512_set1_ps(x_scales[b])));
            }
        }
        for (int v = 0; v < 2; ++v) _mm512_storeu_ps(&y[(tile + v) * kTile], total[v]);
    }

    void operator()() {
        for (int tile = 0; tile < kTiles; tile += 2) tiles(tile);
    }
};

// The same masks and products on registers: no loads, no sums of sums, no scales.
double masks_and_products() {
    constexpr int kRounds = 1 << 9;
    return seconds([] {
        const __m512i x = _mm512_set1_epi8(1);
        const __m512i masks[4] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48), _mm512_set1_epi8(-64)};
        __m512i sum[2][4] = {}, packed[2] = {x, x};
        for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) {
                KEEP(packed[g % 2]);
                for (int f = 0; f < 4; ++f) {
                    __m512i& s = sum[g % 2][f];
                    s = _mm512_dpbusd_epi32(s, _mm512_and_si512(packed[g % 2], masks[f]), x);
                }
            }
        }
        for (auto& some : sum) {
            for (__m512i& s : some) KEEP(s);
        }
    }) / kRounds;
}

}  // namespace

int main() {
    const double one = cycle();
    Q4 q4;
    I2 i2;
    std::printf("%.0f G multiply-accumulates per second: a cycle is %.3f ns\n", 64e-9 / one, one * 1e9);
    std::printf("q4_0, 8 rows: %.1f cycles per block and tile, 64 of them products and 16 scales\n",
                seconds([&] { q4(); }) / one / (Q4::kBlocks * Q4::kTiles));
    std::printf("i2_s, 1 row: %.1f cycles per 128 weights and tile, 32 of them products; masks and products alone %.1f\n",
                seconds([&] { i2(); }) / one / (I2::kBlocks * I2::kTiles), masks_and_products() / one);
}
