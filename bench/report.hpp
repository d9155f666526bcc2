// What a bench row tells besides its time: bytes and operations a second, as such and as a fraction of what this core can do in this run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "ceilings.hpp"

namespace moesaic::bench {

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

/// For one iteration's bytes and operations. Times are of the mean iteration, so read them beside the spread of repetitions.
inline void report(benchmark::State& state, double bytes, double operations, host::level level) {
  using benchmark::Counter;
  auto const rate = Counter::kIsIterationInvariantRate;
  state.counters["bytes/s"] = Counter(bytes, rate, Counter::kIs1024);
  state.counters["of_cached_read"] = Counter(bytes / cached_bandwidth(), rate);
  if (operations == 0) return;
  state.counters["flop/s"] = Counter(operations, rate);
  if (auto const peak = fp32_peak(level); peak > 0) state.counters["of_fp32_peak"] = Counter(operations / peak, rate);
}

/// "op/variant/config/tokens"
inline std::string row_name(std::string const& op, std::string const& variant, std::string const& config, long tokens) {
  return op + "/" + variant + "/" + config + "/" + std::to_string(tokens);
}

}  // namespace moesaic::bench
