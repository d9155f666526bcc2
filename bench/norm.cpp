// Rows of norms: reading and writing a token's hidden state.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <type_traits>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/norm.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

template <class T>
void run(benchmark::State& state, norm_kind kind, host::level level, std::int64_t hidden, std::int64_t tokens) {
  host::pool pool(1, level);
  random_stream random(1);
  std::vector<T> x(static_cast<std::size_t>(tokens * hidden)), y(x.size());
  std::vector<float> const weight(static_cast<std::size_t>(hidden), 1.5f);
  for (auto& v : x) v = static_cast<T>(random.normal());
  for (auto _ : state) {
    host::normalize<T>(pool, {.kind = kind}, {weight, {}}, view<const T>(x.data(), tokens, hidden), view<T>(y.data(), tokens, hidden));
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(2 * x.size() * sizeof(T)), 0, level);
}

template <class T>
void add(std::string const& type) {
  for (auto const kind : {norm_kind::rms, norm_kind::layer})
    for (auto const level : {host::level::portable, host::level::avx2, host::level::avx512}) {
      if (level > host::detected_level()) continue;
      for (std::int64_t const hidden : {576, 4096})
        for (std::int64_t const tokens : {1, 64})
          benchmark::RegisterBenchmark(row_name(kind == norm_kind::rms ? "rms_norm" : "layer_norm", host::name(level),
                                                type + "_hidden" + std::to_string(hidden), tokens)
                                           .c_str(),
                                       [=](benchmark::State& state) { run<T>(state, kind, level, hidden, tokens); });
    }
}

bool const added = (add<float>("fp32"), add<bf16>("bf16"), true);

}  // namespace
}  // namespace moesaic::bench
