// Rows of rules over a batch, scores given: which experts a decode step uses, on one thread.
// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include <moesaic/route/cap.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "report.hpp"
#include "routes.hpp"

namespace moesaic::bench {
namespace {

constexpr router_config config{.experts = 128, .top_k = 8, .renormalize = true};   // Qwen3

template <class Rule>
void batch_rule(benchmark::State& state, std::int64_t tokens, typename Rule::state const& values) {
  host::pool pool(1);
  drawn_logits logits(popularity::uniform, config.experts, tokens);
  std::vector<routed> batches(static_cast<std::size_t>(logits.batches()));
  for (auto& b : batches) b.route<Rule>(pool, config, logits.next(), {}, values);
  std::vector<bool> used;
  double distinct = 0;
  for (auto const& b : batches) {
    used.assign(static_cast<std::size_t>(config.experts), false);
    for (auto const e : b.ids)
      if (e >= 0) used[static_cast<std::size_t>(e)] = true;
    for (bool const u : used) distinct += u;
  }
  std::size_t turn = 0;
  for (auto _ : state) {
    auto& b = batches[turn++ % batches.size()];
    Rule::select_batch(config, host::vector_group{{}, pool.level()}, values,
                       routing_batch<float>{{b.scores.data(), tokens, config.experts}, {b.choice.data(), tokens, config.experts}},
                       routing_slots<float>{{b.ids.data(), tokens, config.top_k}, {b.weights.data(), tokens, config.top_k}, {b.count.data(), tokens}},
                       list<std::byte>{b.batch.data(), static_cast<std::int64_t>(b.batch.size())});
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(tokens * (config.experts + config.top_k) * 4), 0, pool.level());
  state.counters["experts"] = distinct / static_cast<double>(batches.size());
}

template <class Rule, class Set>
void add(const char* name, Set&& set) {
  typename Rule::state values;
  set(values);
  for (std::int64_t const tokens : {16, 64})
    benchmark::RegisterBenchmark(row_name("batch_rule", name, "softmax_8of128", tokens).c_str(),
                                 [=](benchmark::State& state) { batch_rule<Rule>(state, tokens, values); });
}

bool const added = [] {
  using namespace routing;
  add<two_phase<>>("two_phase", [](auto& s) { s.own = 3; });
  add<marginal<>>("marginal", [](auto& s) { s.price = 0.5f; });
  add<cap<>>("cap", [](auto& s) { s.experts = 48; });
  add<greedy_cap<>>("greedy_cap", [](auto& s) { s.experts = 48; });
  add<two_prices_refilled<>>("two_prices_refilled", [](auto& s) { s.read = 0.1f; });
  add<elimination<>>("elimination", [](auto& s) { s.price = 0.1f; });
  add<elimination<>>("elimination_3_rounds", [](auto& s) { s.price = 0.1f, s.rounds = 3; });
  return true;
}();

}  // namespace
}  // namespace moesaic::bench
