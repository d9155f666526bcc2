// What a bench row tells besides its time: bytes and operations, as such, a second, and as a fraction of what this core can do in this run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <moesaic/base/random.hpp>
#include <moesaic/host/memory.hpp>

#include "ceilings.hpp"

namespace moesaic::bench {

/// Beyond every cache of the machines at hand: so much memory is walked through before the same byte is read again.
inline constexpr std::int64_t beyond_caches = std::int64_t{288} << 20;

/// Bytes a second of a buffer of 64 KiB (L2) read over and over, measured once.
inline double cached_bandwidth() {
  static double const found = [] {
    std::vector<std::byte> data(std::size_t{1} << 16);
    return read_bandwidth(data.data(), data.size(), 2000);
  }();
  return found;
}

/// Operations a second of fp32 multiply-adds at a level, measured once a level.
inline double fp32_peak(host::level level) {
  static double found[4] = {};
  auto& peak = found[static_cast<int>(level)];
  if (peak == 0) peak = peak_operations(level, false);
  return peak;
}

/// Seconds of processor time that this thread spends in f: on a shared machine a run of some milliseconds is put aside now and then, and the
/// wall's clock goes on. For longer runs only: asking costs a good part of a microsecond.
template <class F>
double processor_seconds(F&& f) {
  auto const now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  auto const start = now();
  f();
  return now() - start;
}

/// Random bytes that no weights share a cache line with, read in turns: the read ceiling of the moment, which also empties the caches.
class foreign_memory {
 public:
  static foreign_memory& shared() {
    static foreign_memory memory;
    return memory;
  }
  /// Seconds of reading so many bytes.
  double read(std::int64_t bytes) {
    constexpr std::int64_t piece = std::int64_t{1} << 20;
    return processor_seconds([&] {
      for (; bytes > 0; bytes -= piece) {
        read_bandwidth(memory_.data() + next_, static_cast<std::size_t>(std::min(bytes, piece)), 1);
        next_ = (next_ + piece) % beyond_caches;
      }
    });
  }

 private:
  foreign_memory() : memory_(static_cast<std::size_t>(beyond_caches)) {
    random_stream random(3);
    for (std::int64_t i = 0; i < beyond_caches; i += 8) {
      auto const bits = random.next();
      std::memcpy(memory_.data() + i, &bits, 8);
    }
  }
  host::buffer memory_;
  std::int64_t next_ = 0;
};

/// For one iteration's bytes and operations, of ops whose data lie in cache. Times are of the mean iteration, so read them beside the spread
/// of repetitions.
inline void report(benchmark::State& state, double bytes, double operations, host::level level) {
  using benchmark::Counter;
  auto const rate = Counter::kIsIterationInvariantRate;
  state.counters["bytes"] = bytes;
  state.counters["GB/s"] = Counter(bytes * 1e-9, rate);
  state.counters["of_cached_read"] = Counter(bytes / cached_bandwidth(), rate);
  if (operations == 0) return;
  state.counters["flops"] = operations;
  state.counters["GFLOP/s"] = Counter(operations * 1e-9, rate);
  if (auto const peak = fp32_peak(level); peak > 0) state.counters["of_fp32_peak"] = Counter(operations / peak, rate);
}

/// What one run of a row does.
struct work {
  double bytes = 0;                    ///< of weights, keys and values
  double flops = 0;
  double tokens = 0;
  double experts = 0;                  ///< distinct ones, where there are several
};

/// Runs `run() -> work` and between runs `read(bytes)`, which answers the seconds of reading as many, and multiplies in registers: machines
/// that others use change under one's feet. Counters are of the run with the best bytes a second, against the best read and the best peak.
template <class Read, class F>
void measure(benchmark::State& state, host::level level, bool bf16_dot, Read&& read, F&& run) {
  auto best_rate = 0.0, best_read = 0.0, peak = 0.0;
  work best;
  for (auto _ : state) {
    work done;
    auto const seconds = processor_seconds([&] { done = run(); });
    state.SetIterationTime(seconds);
    if (done.bytes / seconds > best_rate) best_rate = done.bytes / seconds, best = done;
    best_read = std::max(best_read, done.bytes / read(static_cast<std::int64_t>(done.bytes)));
    peak = std::max(peak, peak_operations(level, bf16_dot, 1));
  }
  peak = std::max(peak, peak_operations(level, bf16_dot, 10));
  auto const runs_a_second = best_rate / best.bytes;
  state.counters["bytes"] = best.bytes;
  state.counters["flops"] = best.flops;
  state.counters["GB/s"] = best_rate * 1e-9;
  state.counters["GFLOP/s"] = best.flops * runs_a_second * 1e-9;
  state.counters["tokens/s"] = best.tokens * runs_a_second;
  state.counters["of_read"] = best_rate / best_read;
  if (peak > 0) state.counters["of_peak"] = best.flops * runs_a_second / peak;
  if (best.experts > 0) state.counters["experts"] = best.experts;
}
/// The same where the run's data come from memory.
template <class F>
void measure_cold(benchmark::State& state, host::level level, bool bf16_dot, F&& run) {
  measure(state, level, bf16_dot, [](std::int64_t bytes) { return foreign_memory::shared().read(bytes); }, run);
}

/// "op/variant/config/tokens"
inline std::string row_name(std::string const& op, std::string const& variant, std::string const& config, std::int64_t tokens) {
  return op + "/" + variant + "/" + config + "/" + std::to_string(tokens);
}

}  // namespace moesaic::bench
