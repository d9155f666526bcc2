// Rows of the ceilings themselves, to be held against what is known of a processor: products in registers, reads of caches and memory.
// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

namespace moesaic::bench {
namespace {

void multiply(benchmark::State& state, host::level level, bool bf16_dot) {
  auto best = 0.0;
  for (auto _ : state) best = std::max(best, peak_operations(level, bf16_dot, 1));
  state.counters["GFLOP/s"] = best * 1e-9;
}

void read_again(benchmark::State& state, std::int64_t bytes) {
  host::buffer const memory(static_cast<std::size_t>(bytes));
  auto best = 0.0;
  for (auto _ : state) best = std::max(best, read_bandwidth(memory.data(), memory.size(), 1));
  state.counters["GB/s"] = best * 1e-9;
}

/// 8 MiB at a time, never the same before 288 MiB have gone by.
void read_memory(benchmark::State& state) {
  constexpr std::int64_t bytes = std::int64_t{8} << 20;
  auto best = 0.0;
  for (auto _ : state) best = std::max(best, bytes / foreign_memory::shared().read(bytes));
  state.counters["GB/s"] = best * 1e-9;
}

bool const added = [] {
  for (auto const level : {host::level::avx2, host::level::avx512})
    if (level <= host::detected_level())
      benchmark::RegisterBenchmark((std::string("ceiling/") + host::name(level) + "/fma_fp32/0").c_str(),
                                   [=](benchmark::State& state) { multiply(state, level, false); });
  if (host::detected_level() == host::level::avx512_bf16)
    benchmark::RegisterBenchmark("ceiling/avx512_bf16/dot_bf16/0",
                                 [](benchmark::State& state) { multiply(state, host::level::avx512_bf16, true); });
  for (std::int64_t const kib : {16, 512, 16384})
    benchmark::RegisterBenchmark(("ceiling/read/" + std::to_string(kib) + "KiB/0").c_str(),
                                 [=](benchmark::State& state) { read_again(state, kib << 10); });
  benchmark::RegisterBenchmark("ceiling/read/memory/0", read_memory);
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
