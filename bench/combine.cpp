// Rows of combine: the weighted sum of a token's expert outputs, with residual.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/host/combine.hpp>

#include "report.hpp"
#include "routes.hpp"

namespace moesaic::bench {
namespace {

struct shape {
  char const* name;
  std::int64_t hidden;
  int experts, top_k;
};
constexpr shape shapes[] = {{"2of8_hidden4096", 4096, 8, 2}, {"8of128_hidden2048", 2048, 128, 8}};

template <class T>
void run(benchmark::State& state, shape s, std::int64_t tokens) {
  host::pool pool(1);
  drawn_logits logits(popularity::uniform, s.experts, tokens);
  routed chosen;
  chosen.route(pool, {.experts = s.experts, .top_k = s.top_k}, logits.next());
  planned slots(s.experts, tokens, s.top_k);
  host::plan(pool, view<const std::int32_t>(chosen.ids.data(), tokens, s.top_k), slots.plan);
  random_stream random(1);
  auto const fill = [&](std::int64_t rows) {
    std::vector<T> x(static_cast<std::size_t>(rows * s.hidden));
    for (auto& v : x) v = static_cast<T>(random.uniform() - 0.5f);
    return x;
  };
  auto const expert_out = fill(tokens * s.top_k), residual = fill(tokens);
  std::vector<T> y(residual.size());
  for (auto _ : state) {
    host::combine<T>(pool, view<const T>(expert_out.data(), tokens * s.top_k, s.hidden), slots.plan.slot_of_choice,
                     view<const float>(chosen.weights.data(), tokens, s.top_k), view<const T>{}, list<const float>{},
                     view<const T>(residual.data(), tokens, s.hidden), view<T>(y.data(), tokens, s.hidden));
    benchmark::ClobberMemory();
  }
  auto const elements = tokens * s.hidden;
  report(state, static_cast<double>(elements * (s.top_k + 2)) * sizeof(T), static_cast<double>(elements * (2 * s.top_k + 1)), pool.level());
}

template <class T>
void add(std::string const& type) {
  for (auto const& s : shapes)
    for (std::int64_t const tokens : {1, 64, 512})
      benchmark::RegisterBenchmark(row_name("combine", type, s.name, tokens).c_str(),
                                   [=](benchmark::State& state) { run<T>(state, s, tokens); });
}

bool const added = (add<float>("fp32"), add<bf16>("bf16"), true);

}  // namespace
}  // namespace moesaic::bench
