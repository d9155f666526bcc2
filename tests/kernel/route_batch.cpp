// Rules over a whole batch on a model of a device: every one is the host's, by one block after all tokens are scored, its source unchanged.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/cap.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr int experts = 40;

struct softmax40 {
  static constexpr router_config config{.experts = experts, .top_k = 6, .renormalize = true};
};
constexpr router_config after40{.experts = experts, .top_k = 4, .position = score_position::after_top_k};
constexpr router_config grouped40{.experts = experts, .top_k = 6, .score = score::sigmoid, .groups = 5, .top_groups = 3, .renormalize = true, .score_bias = true};

std::vector<float> cost_of_each() {
  random_stream random(seed);
  std::vector<float> cost;
  for (int e = 0; e < experts; ++e) cost.push_back(0.25f + random.uniform());
  return cost;
}

/// One token, a decode batch, and a prompt of several steps with padding and a token that is not finite.
template <class Policy>
void check_rule(typename Policy::state state) {
  for (auto const& config : {softmax40::config, after40, grouped40})
    for (std::int64_t const tokens : {1, 24, 70}) {
      CAPTURE(static_cast<int>(config.score));
      CAPTURE(static_cast<int>(config.position));
      CAPTURE(tokens);
      auto b = draw_batch(config, tokens, seed + static_cast<std::uint64_t>(tokens));
      std::vector<std::uint8_t> padding(static_cast<std::size_t>(tokens), 0);
      if (tokens == 70) {
        b.logits(9, 3) = std::nanf("");
        padding[0] = padding[33] = padding[69] = 1;
        state.padding = padding;
        state.together = 32;
      }
      check_on_model<Policy>(config, state, b);
      if (config == softmax40::config && tokens == 24) check_on_model<Policy>(softmax40{}, state, b);
      state.padding = {}, state.together = 0;
    }
}

}  // namespace

TEST_CASE("two_phase") {
  routing::two_phase<>::state s;
  for (int const own : {1, 3, 6}) s.own = own, check_rule<routing::two_phase<>>(s);
}

TEST_CASE("marginal") {
  auto const cost = cost_of_each();
  routing::marginal<>::state s;
  for (float const price : {0.0f, 0.7f}) s.price = price, check_rule<routing::marginal<>>(s);
  s.cost = cost, s.protect = 2;
  check_rule<routing::marginal<>>(s);
}

TEST_CASE("cap and greedy_cap, of all experts and of each rank") {
  auto const cost = cost_of_each();
  routing::cap<>::state s;
  routing::greedy_cap<>::state g;
  for (int const ranks : {1, 4}) {
    s.where.ranks = g.where.ranks = ranks;
    s.experts = g.experts = 20 / ranks;
    check_rule<routing::cap<>>(s);
    check_rule<routing::greedy_cap<>>(g);
  }
  g.cost = cost, g.budget = 9;
  check_rule<routing::greedy_cap<>>(g);
}

TEST_CASE("two_prices, and the same for k slots") {
  auto const cost = cost_of_each();
  routing::two_prices<>::state s;
  check_rule<routing::two_prices<>>(s);
  s.compute = 0.02f, s.read = 0.1f, s.size = cost;
  check_rule<routing::two_prices<>>(s);
  routing::two_prices_refilled<>::state r;
  r.read = 0.4f, r.size = cost;
  check_rule<routing::two_prices_refilled<>>(r);
}

TEST_CASE("elimination, one expert at a time and in rounds") {
  auto const cost = cost_of_each();
  routing::elimination<>::state s;
  for (int const rounds : {0, 3, 5}) {
    CAPTURE(rounds);
    s.rounds = rounds, s.price = 0.3f, s.cost = rounds == 3 ? list<const float>() : list<const float>(cost);
    check_rule<routing::elimination<>>(s);
  }
}

TEST_CASE("elimination of experts that are priced, of tokens that take a variable number") {
  using policy = routing::elimination<routing::top_p<routing::cost_aware<costs::table>>>;
  auto const cost = cost_of_each();
  policy::state s;
  static_cast<routing::cost_aware<costs::table>::state&>(s).cost = costs::table::of_experts(cost);
  static_cast<routing::cost_aware<costs::table>::state&>(s).price = 0.01f;
  s.p = 0.7f, s.price = 0.3f, s.rounds = 3;
  check_on_model<policy>(softmax40{}, s, draw_batch(softmax40::config, 24, seed));
}
