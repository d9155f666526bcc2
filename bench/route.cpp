// Rows of routing, logits given, and of the plan of the expert GEMMs.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "report.hpp"
#include "routes.hpp"

namespace moesaic::bench {
namespace {

struct rule {
  char const* name;
  router_config config;
};
constexpr rule rules[] = {
    {"softmax_2of8", {.experts = 8, .top_k = 2, .renormalize = true}},      // Mixtral
    {"softmax_8of128", {.experts = 128, .top_k = 8, .renormalize = true}},  // Qwen3
    {"sigmoid_bias_8of256",
     {.experts = 256, .top_k = 8, .score = score::sigmoid, .renormalize = true, .score_bias = true}},  // DeepSeek-V3, no groups
};

void route(benchmark::State& state, router_config const& c, popularity p, std::int64_t tokens) {
  host::pool pool(1);
  drawn_logits logits(p, c.experts, tokens);
  std::vector<float> const bias(c.score_bias ? static_cast<std::size_t>(c.experts) : 0, 0.01f);
  routed out;
  for (auto _ : state) {
    out.route(pool, c, logits.next(), bias);
    benchmark::ClobberMemory();
  }
  // Logits are read, scores and choices written; ids and weights of the chosen are written.
  report(state, static_cast<double>(tokens * (3 * c.experts + 2 * c.top_k) * 4), 0, pool.level());
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
}

void plan(benchmark::State& state, router_config const& c, popularity p, std::int64_t tokens) {
  host::pool pool(1);
  drawn_logits logits(p, c.experts, tokens);
  std::vector<routed> batches(static_cast<std::size_t>(logits.batches()));
  for (auto& b : batches) b.route(pool, {.experts = c.experts, .top_k = c.top_k}, logits.next());
  planned out(c.experts, tokens, c.top_k);
  std::size_t turn = 0;
  for (auto _ : state) {
    host::plan(pool, view<const std::int32_t>(batches[turn++ % batches.size()].ids.data(), tokens, c.top_k), out.plan);
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(tokens * c.top_k * 4 * 4), 0, pool.level());  // ids twice, tokens and slots once
  state.counters["experts"] = distinct(out.plan.expert_offsets);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
}

bool const added = [] {
  for (auto const& r : rules)
    for (std::int64_t const tokens : {1, 64, 4096}) {
      benchmark::RegisterBenchmark(row_name("route", "fp32", r.name, tokens).c_str(),
                                   [=](benchmark::State& state) { route(state, r.config, popularity::uniform, tokens); });
      for (auto const p : {popularity::uniform, popularity::zipf})
        benchmark::RegisterBenchmark(
            row_name("plan", name(p), std::to_string(r.config.top_k) + "of" + std::to_string(r.config.experts), tokens).c_str(),
            [=](benchmark::State& state) { plan(state, r.config, p, tokens); });
    }
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
