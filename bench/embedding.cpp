// Rows of embedding: gathering token rows out of a packed table.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/base/random.hpp>
#include <moesaic/host/embedding.hpp>
#include <moesaic/host/memory.hpp>

#include "report.hpp"

namespace moesaic::bench {
namespace {

void run(benchmark::State& state, format stored, std::int64_t hidden, std::int64_t tokens) {
  constexpr std::int64_t vocabulary = 8192;
  host::pool pool(1);
  random_stream random(1);
  packed_matrix table{.stored = stored, .outputs = vocabulary, .inputs = hidden};
  host::buffer const memory(static_cast<std::size_t>(packed::bytes(table)));
  table.data = memory.data();
  host::pack(
      table, 0,
      [&](int, std::int64_t, float* row) {
        for (std::int64_t c = 0; c < hidden; ++c) row[c] = random.normal();
      },
      memory.data());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  std::vector<float> x(static_cast<std::size_t>(tokens * hidden));
  for (auto _ : state) {
    state.PauseTiming();
    for (auto& id : ids) id = static_cast<std::int32_t>(random.below(vocabulary));  // rows that no cache holds
    state.ResumeTiming();
    if (auto const done = host::embed<float>(pool, table, ids, view<float>(x.data(), tokens, hidden)); !done)
      return state.SkipWithError(done.what);
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(tokens * hidden) * bits(stored.type) / 8, 0, pool.level());
}

bool const added = [] {
  for (format const stored : {format(dtype::fp32), format(dtype::bf16), format(dtype::int8), format(dtype::int4)})
    for (std::int64_t const tokens : {1, 64})
      benchmark::RegisterBenchmark(row_name("embed", name(stored.type), "hidden576", tokens).c_str(),
                                   [=](benchmark::State& state) { run(state, stored, 576, tokens); });
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
