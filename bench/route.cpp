// Rows of routing, logits given, and of the plan of the expert GEMMs.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/route/cost_aware.hpp>

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
    {"sigmoid_groups_8of256",                                               // DeepSeek-V3
     {.experts = 256, .top_k = 8, .score = score::sigmoid, .groups = 8, .top_groups = 4, .renormalize = true, .routed_scale = 2.5, .score_bias = true}},
};

/// A policy's way from logits to the runs of the expert GEMMs; without the plan, to ids and weights.
template <class Policy = routing::standard>
void route(benchmark::State& state, router_config const& c, popularity p, std::int64_t tokens, bool with_plan,
           typename Policy::state const& values = {}) {
  host::pool pool(1);
  drawn_logits logits(p, c.experts, tokens);
  std::vector<float> const bias(c.score_bias ? static_cast<std::size_t>(c.experts) : 0, 0.01f);
  routed out;
  planned runs(c.experts, tokens, c.top_k);
  for (auto _ : state) {
    out.route<Policy>(pool, c, logits.next(), bias, values);
    if (with_plan) host::plan(pool, view<const std::int32_t>(out.ids.data(), tokens, c.top_k), runs.plan);
    benchmark::ClobberMemory();
  }
  // Logits are read, scores and choices written; ids and weights of the chosen are written.
  report(state, static_cast<double>(tokens * (3 * c.experts + 2 * c.top_k) * 4), 0, pool.level());
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["s/token"] =
      benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

/// With costs taken off, from a table of one row: what a price adds to the row of the same rule without.
void route_priced(benchmark::State& state, router_config const& c, std::int64_t tokens) {
  std::vector<float> cost(static_cast<std::size_t>(c.experts));
  for (std::size_t e = 0; e < cost.size(); ++e) cost[e] = static_cast<float>(e * 7 % 16);
  routing::cost_aware<costs::table>::state values;
  values.cost = costs::table::of_experts(cost);
  values.price = 0.005f;
  route<routing::cost_aware<costs::table>>(state, c, popularity::uniform, tokens, false, values);
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
      for (bool const with_plan : {false, true})
        benchmark::RegisterBenchmark(row_name(with_plan ? "route_and_plan" : "route", "fp32", r.name, tokens).c_str(),
                                     [=](benchmark::State& state) { route(state, r.config, popularity::uniform, tokens, with_plan); });
      benchmark::RegisterBenchmark(row_name("route_priced", "fp32", r.name, tokens).c_str(),
                                   [=](benchmark::State& state) { route_priced(state, r.config, tokens); });
      for (auto const p : {popularity::uniform, popularity::zipf})
        benchmark::RegisterBenchmark(
            row_name("plan", name(p), std::to_string(r.config.top_k) + "of" + std::to_string(r.config.experts), tokens).c_str(),
            [=](benchmark::State& state) { plan(state, r.config, p, tokens); });
    }
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
