// What this core can do at most, measured in the run itself: products in registers, and reads of a buffer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <moesaic/host/simd/simd.hpp>

namespace moesaic::bench {

/// Least seconds of `repeats` runs of f. Machines that are shared stall now and then: only the least says something, and only of short runs.
template <class F>
double best_seconds(int repeats, F&& f) {
  auto best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    auto const start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

enum class instruction { fma_128, fma_256, fma_512, dot_bf16_512, dot_int8_512 };

namespace ceiling_detail {

inline constexpr int chains = 12;   // unlike ones, or the compiler merges them; enough for latency 6 at two a cycle
inline constexpr std::int64_t rounds = 20000;

#if defined(__x86_64__)

// One instruction on registers, `chains` of them apart; asm, so that what is measured is what is named.
#define MOESAIC_BENCH_PEAK(name, features, vector, text)                                      \
  __attribute__((target(features), noinline)) inline void name() {                            \
    vector sum[chains];                                                                       \
    vector a, b;                                                                              \
    std::memset(&a, 0, sizeof a);                                                             \
    std::memset(&b, 0, sizeof b);                                                             \
    std::memset(sum, 0, sizeof sum);                                                          \
    auto &s0 = sum[0], &s1 = sum[1], &s2 = sum[2], &s3 = sum[3], &s4 = sum[4], &s5 = sum[5];  \
    auto &s6 = sum[6], &s7 = sum[7], &s8 = sum[8], &s9 = sum[9], &s10 = sum[10], &s11 = sum[11]; \
    for (std::int64_t i = 0; i < rounds; ++i) {                                               \
      asm volatile(text : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5) : "v"(a), "v"(b));   \
      asm volatile(text : "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11) : "v"(a), "v"(b)); \
    }                                                                                         \
  }
#define MOESAIC_BENCH_SIX(op)                                                                                               \
  op " %6, %7, %0\n" op " %6, %7, %1\n" op " %6, %7, %2\n" op " %6, %7, %3\n" op " %6, %7, %4\n" op " %6, %7, %5\n"

MOESAIC_BENCH_PEAK(fma_256, "avx2,fma", __m256, MOESAIC_BENCH_SIX("vfmadd231ps"))
MOESAIC_BENCH_PEAK(fma_512, "avx512f", __m512, MOESAIC_BENCH_SIX("vfmadd231ps"))
MOESAIC_BENCH_PEAK(dot_bf16_512, "avx512f,avx512bf16", __m512, MOESAIC_BENCH_SIX("vdpbf16ps"))
MOESAIC_BENCH_PEAK(dot_int8_512, "avx512f,avx512vnni", __m512i, MOESAIC_BENCH_SIX("vpdpbusd"))

#undef MOESAIC_BENCH_PEAK
#undef MOESAIC_BENCH_SIX

__attribute__((target("avx512f"), noinline)) inline void read_512(const std::byte* data, std::size_t bytes) {
  for (std::size_t i = 0; i + 512 <= bytes; i += 512)
    asm volatile("vmovups (%0), %%zmm16\n vmovups 64(%0), %%zmm17\n vmovups 128(%0), %%zmm18\n vmovups 192(%0), %%zmm19\n"
                 "vmovups 256(%0), %%zmm20\n vmovups 320(%0), %%zmm21\n vmovups 384(%0), %%zmm22\n vmovups 448(%0), %%zmm23\n"
                 :
                 : "r"(data + i)
                 : "memory");
}
__attribute__((target("avx2"), noinline)) inline void read_256(const std::byte* data, std::size_t bytes) {
  for (std::size_t i = 0; i + 256 <= bytes; i += 256)
    asm volatile("vmovups (%0), %%ymm8\n vmovups 32(%0), %%ymm9\n vmovups 64(%0), %%ymm10\n vmovups 96(%0), %%ymm11\n"
                 "vmovups 128(%0), %%ymm12\n vmovups 160(%0), %%ymm13\n vmovups 192(%0), %%ymm14\n vmovups 224(%0), %%ymm15\n"
                 :
                 : "r"(data + i)
                 : "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory");
}

#endif

inline void read_words(const std::byte* data, std::size_t bytes) {
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i + 64 <= bytes; i += 64) {
    std::uint64_t word[8];
    std::memcpy(word, data + i, 64);
    for (int w = 0; w < 8; ++w) sum[w] ^= word[w];
  }
  asm volatile("" ::"r"(sum) : "memory");
}

}  // namespace ceiling_detail

/// Operations a second, a multiply-add counting two; zero where the processor lacks the instruction.
inline double peak_operations([[maybe_unused]] host::level level, [[maybe_unused]] bool bf16_dot, [[maybe_unused]] int repeats = 50) {
#if defined(__x86_64__)
  using namespace ceiling_detail;
  constexpr double instructions = static_cast<double>(rounds) * chains;
  if (level > host::detected_level() || level == host::level::portable) return 0;
  if (level == host::level::avx2) return instructions * 16 / best_seconds(repeats, fma_256);
  if (level == host::level::avx512_bf16 && bf16_dot) return instructions * 64 / best_seconds(repeats, dot_bf16_512);
  return instructions * 32 / best_seconds(repeats, fma_512);
#else
  return 0;
#endif
}

/// Bytes a second of one pass over `data`, best of `repeats`. A pass over memory is cut into pieces of 256 KiB and the best tenth taken.
inline double read_bandwidth(const std::byte* data, std::size_t bytes, int repeats = 20) {
  using namespace ceiling_detail;
  auto const read = [&](const std::byte* from, std::size_t count) {
#if defined(__x86_64__)
    if (host::detected_level() >= host::level::avx512) return read_512(from, count);
    if (host::detected_level() >= host::level::avx2) return read_256(from, count);
#endif
    read_words(from, count);
  };
  return static_cast<double>(bytes) / best_seconds(repeats, [&] { read(data, bytes); });
}

}  // namespace moesaic::bench
