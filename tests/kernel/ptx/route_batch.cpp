// Rules over a whole batch: by a price of experts, by a cap, by capacity; each for scores before top-k and after.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/cap.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "route.hpp"

namespace moesaic::test::ptx {
namespace {

constexpr int experts = 20;
constexpr std::int64_t tokens = 11;
constexpr router_config plain{.experts = experts, .top_k = 4, .renormalize = true};
constexpr auto before = score_position::before_top_k, after = score_position::after_top_k;

list<float const> cost_of_each(memory& m) {
  float* const p = m.random<float>(experts);
  for (int e = 0; e < experts; ++e) p[e] += 1.25f;
  return {p, experts};
}

/// Scores before top-k, one step of all tokens; or after it, steps of some with padding between. In each a token that is not finite.
template <class Policy, score_position position>
void rule(cuda::stream_ref& where, memory& m, typename Policy::state state) {
  auto* const padding = m.zeros<std::uint8_t>(tokens);
  padding[0] = padding[6] = 1;
  if constexpr (position == score_position::after_top_k) state.padding = {padding, tokens}, state.together = 8;
  auto c = plain;
  c.position = position;
  route<Policy>(where, m, c, state, tokens);
}

template <score_position p>
void two_phase(cuda::stream_ref& where, memory& m) {
  routing::two_phase<>::state s;
  s.own = 2;
  rule<routing::two_phase<>, p>(where, m, s);
}
template <score_position p>
void marginal(cuda::stream_ref& where, memory& m) {
  routing::marginal<>::state s;
  s.price = 0.7f, s.protect = 2, s.cost = cost_of_each(m);
  rule<routing::marginal<>, p>(where, m, s);
}
template <score_position p>
void cap(cuda::stream_ref& where, memory& m) {
  routing::cap<>::state s;
  s.where.ranks = 2, s.experts = 4;
  rule<routing::cap<>, p>(where, m, s);
}
template <score_position p>
void greedy_cap(cuda::stream_ref& where, memory& m) {
  routing::greedy_cap<>::state s;
  s.where.ranks = 2, s.experts = 4, s.cost = cost_of_each(m), s.budget = 8;
  rule<routing::greedy_cap<>, p>(where, m, s);
}
template <score_position p>
void two_prices(cuda::stream_ref& where, memory& m) {
  routing::two_prices<>::state s;
  s.compute = 0.02f, s.read = 0.1f, s.size = cost_of_each(m);
  rule<routing::two_prices<>, p>(where, m, s);
}
template <score_position p>
void two_prices_refilled(cuda::stream_ref& where, memory& m) {
  routing::two_prices_refilled<>::state s;
  s.read = 0.4f, s.size = cost_of_each(m);
  rule<routing::two_prices_refilled<>, p>(where, m, s);
}
template <score_position p>
void elimination(cuda::stream_ref& where, memory& m) {
  using policy = routing::elimination<routing::top_p<routing::cost_aware<costs::table>>>;
  policy::state s;
  static_cast<routing::cost_aware<costs::table>::state&>(s).cost = costs::table::of_experts(cost_of_each(m));
  static_cast<routing::cost_aware<costs::table>::state&>(s).price = 0.01f;
  s.p = 0.8f, s.price = 0.3f;
  for (int const rounds : {0, 5}) s.rounds = rounds, rule<policy, p>(where, m, s);
}
/// Rounds by position and by weight, over a second choice that must be worth it.
void capacity(cuda::stream_ref& where, memory& m) {
  using policy = routing::capacity<routing::second_above<>>;
  policy::state s;
  s.second_threshold = 0.2, s.dropped = {m.zeros<std::int32_t>(experts), experts};
  for (auto const order : {routing::drop_order::first_choices, routing::drop_order::tokens, routing::drop_order::weights}) {
    s.capacity = routing::absolute_capacity(2, 7);
    s.capacity.order = order;
    route<policy>(where, m, plain, s, tokens);
  }
}
/// Both hooks of a batch in one launch.
void chosen_and_settled(cuda::stream_ref& where, memory& m) {
  using policy = routing::capacity<routing::elimination<>>;
  policy::state s;
  s.price = 0.3f, s.rounds = 3, s.capacity = routing::megatron_capacity(0.8);
  route<policy>(where, m, plain, s, tokens);
}

constexpr family families[] = {
    {"route_logits", two_phase<before>, 0, "routing::two_phase"},
    {"route_logits", two_phase<after>, 0, "routing::two_phase"},
    {"route_logits", marginal<before>, 0, "routing::marginal"},
    {"route_logits", marginal<after>, 0, "routing::marginal"},
    {"route_logits", cap<before>, 0, "routing::cap"},
    {"route_logits", cap<after>, 0, "routing::cap"},
    {"route_logits", greedy_cap<before>, 0, "routing::greedy_cap"},
    {"route_logits", greedy_cap<after>, 0, "routing::greedy_cap"},
    {"route_logits", two_prices<before>, 0, "routing::two_prices"},
    {"route_logits", two_prices<after>, 0, "routing::two_prices"},
    {"route_logits", two_prices_refilled<before>, 0, "routing::two_prices_refilled"},
    {"route_logits", two_prices_refilled<after>, 0, "routing::two_prices_refilled"},
    {"route_logits", elimination<before>, 0, "routing::elimination routing::top_p"},
    {"route_logits", elimination<after>, 0, "routing::elimination routing::top_p"},
    {"route_logits", capacity, 0, "routing::capacity routing::second_above"},
    {"route_logits", chosen_and_settled, 0, "routing::capacity routing::elimination"},
};

MOESAIC_LEG(route_batch, families)

}  // namespace
}  // namespace moesaic::test::ptx
