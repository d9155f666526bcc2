// Rows of rotary embedding: queries and keys of a layer in one call.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>
#include <string>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/rotary.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

template <class T>
void run(benchmark::State& state, rope_layout layout, int heads, int head_dim, std::int64_t tokens) {
  host::pool pool(1);
  random_stream random(1);
  std::vector<T> x(static_cast<std::size_t>(tokens * heads * head_dim));
  for (auto& v : x) v = static_cast<T>(random.normal());
  std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 1000);
  auto const table = host::make_rope_table<accumulator<T>>({.layout = layout}, head_dim);
  for (auto _ : state) {
    host::rotate<T>(pool, table, positions, view<T>(x.data(), tokens, std::int64_t{heads} * head_dim), heads);
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(2 * x.size() * sizeof(T)), 0, pool.level());
}

template <class T>
void add(std::string const& type) {
  struct shape {
    int heads, head_dim;
  };
  for (auto const layout : {rope_layout::half_split, rope_layout::interleaved})
    for (auto const s : {shape{12, 64}, {40, 128}})
      for (std::int64_t const tokens : {1, 64})
        benchmark::RegisterBenchmark(row_name("rotate", layout == rope_layout::half_split ? "half_split" : "interleaved",
                                              type + "_" + std::to_string(s.heads) + "x" + std::to_string(s.head_dim), tokens)
                                         .c_str(),
                                     [=](benchmark::State& state) { run<T>(state, layout, s.heads, s.head_dim, tokens); });
}

bool const added = (add<float>("fp32"), add<bf16>("bf16"), true);

}  // namespace
}  // namespace moesaic::bench
