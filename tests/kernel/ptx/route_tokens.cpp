// Routing policies that choose for each token by itself, what experts cost included.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include <moesaic/route/allowed.hpp>
#include <moesaic/route/budget.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/hash.hpp>
#include <moesaic/route/hierarchical.hpp>
#include <moesaic/route/null_experts.hpp>
#include <moesaic/route/replay.hpp>
#include <moesaic/route/sparse_mixer.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/variable_k.hpp>

#include "route.hpp"

namespace moesaic::test::ptx {
struct softmax12 {
  static constexpr router_config config{.experts = 12, .top_k = 4, .renormalize = true};
};
struct plain12 {
  static constexpr router_config config{.experts = 12, .top_k = 4};
};
struct relu12 {
  static constexpr router_config config{.experts = 12, .top_k = 4, .score = score::relu};
};
struct grouped40 {
  static constexpr router_config config{
      .experts = 40, .top_k = 6, .score = score::sigmoid, .groups = 5, .top_groups = 3, .renormalize = true, .score_bias = true};
};
struct gated40 {
  static constexpr router_config config{.experts = 40, .top_k = 6, .groups = 5, .top_groups = 3, .renormalize = true, .group_gate = true};
};

namespace {

constexpr std::int64_t tokens = 7;

/// Above 0.
list<float const> positive(memory& m, std::int64_t count, float scale = 1.0f) {
  float* const p = m.random<float>(count);
  for (std::int64_t i = 0; i < count; ++i) p[i] = scale * (1.25f + p[i]);
  return {p, count};
}
/// Of 0 .. below − 1, in no order.
list<std::int32_t const> numbers(memory& m, std::int64_t count, int below, int first = 0) {
  auto* const p = m.zeros<std::int32_t>(count);
  for (std::int64_t i = 0; i < count; ++i) p[i] = first + static_cast<std::int32_t>((7 * i + i * i / 3) % below);
  return {p, count};
}
/// Rows that allow two experts of three, the last few alone, and none.
view<std::uint8_t const> masks(memory& m, int experts) {
  view<std::uint8_t> const mask(m.zeros<std::uint8_t>(3 * std::int64_t{experts}), 3, experts);
  for (int e = 0; e < experts; ++e) mask(0, e) = e % 3 != 0, mask(1, e) = e >= experts - 3;
  return mask;
}

/// Every kind of score, position, weight and group, by one kernel that is told the configuration.
void configurations(cuda::stream_ref& where, memory& m) {
  router_config const plain{.experts = 24, .top_k = 4};
  router_config each[] = {plain, plain, plain, plain, plain};
  each[0].score = score::relu, each[0].routed_scale = 2.5;
  each[1].position = score_position::after_top_k, each[1].sum_floor = 0.5;
  each[2].groups = 4, each[2].top_groups = 2, each[2].group_worth = group_worth::max, each[2].group_mask = group_mask::zero;
  each[3].score = score::identity, each[3].weights = combine_weight::ones, each[3].score_bias = true;
  each[4].score = score::sigmoid, each[4].renormalize = true, each[4].groups = 4, each[4].top_groups = 3, each[4].routed_scale = 0.5;
  for (auto const& c : each) route<routing::standard>(where, m, c, {}, tokens);
}
/// Scores by the C library.
void library_scores(cuda::stream_ref& where, memory& m) {
  router_config c{.experts = 24, .top_k = 4, .score = score::sqrt_softplus, .renormalize = true};
  route<routing::standard>(where, m, c, {}, tokens);
  c.score = score::softmax, c.logit_softcap = 2.0;
  route<routing::standard>(where, m, c, {}, tokens);
}

void top_p(cuda::stream_ref& where, memory& m) {
  routing::top_p<>::state s;
  s.p = 0.7f;
  route<routing::top_p<>>(where, m, softmax12{}, s, tokens);
}
void threshold(cuda::stream_ref& where, memory& m) {
  routing::threshold<>::state s;
  s.thresholds = positive(m, 40, 0.4f);
  route<routing::threshold<>>(where, m, grouped40{}, s, tokens);
}
void positive_scores(cuda::stream_ref& where, memory& m) { route<routing::positive<>>(where, m, relu12{}, {}, tokens); }
void sparse_mixer(cuda::stream_ref& where, memory& m) {
  routing::sparse_mixer<>::state s;
  s.epsilon = 0.2f;
  route<routing::sparse_mixer<>>(where, m, plain12{}, s, tokens);
}
void hash(cuda::stream_ref& where, memory& m) {
  routing::hash<>::state s;
  s.token_ids = numbers(m, tokens, 7, -1);
  s.table = {numbers(m, 5 * 6, 14, -1).data, 5, 6};
  route<routing::hash<>>(where, m, softmax12{}, s, tokens);
}
void replay(cuda::stream_ref& where, memory& m) {
  routing::replay<>::state s;
  s.ids = {numbers(m, tokens * 5, 14, -1).data, tokens, 5};
  route<routing::replay<>>(where, m, softmax12{}, s, tokens);
}
void allowed(cuda::stream_ref& where, memory& m) {
  routing::allowed<>::state s;
  s.kind = numbers(m, tokens, 4, -1), s.mask = masks(m, 40);
  route<routing::allowed<>>(where, m, grouped40{}, s, tokens);
}
void hierarchical(cuda::stream_ref& where, memory& m) {
  using policy = routing::hierarchical<routing::allowed<>>;
  policy::state s;
  s.kind = numbers(m, tokens, 4, -1), s.mask = masks(m, 40);
  route<policy>(where, m, gated40{}, s, tokens);
}
void without_nulls(cuda::stream_ref& where, memory& m) {
  route<routing::without_nulls<expert_range{8, 12}>>(where, m, softmax12{}, {}, tokens);
}

void table_of_tokens(cuda::stream_ref& where, memory& m) {
  using policy = routing::cost_aware<costs::table>;
  policy::state s;
  s.cost.microseconds = {positive(m, tokens * 40).data, tokens, 40};
  s.price = 0.3f, s.protect = 2;
  route<policy>(where, m, grouped40{}, s, tokens);
}
void every_cost(cuda::stream_ref& where, memory& m) {
  using all = costs::sum<costs::flops, costs::bytes, costs::rank_distance, costs::queue, costs::energy>;
  routing::cost_aware<all>::state s;
  auto& cost = s.cost;
  auto* const at = m.zeros<tier>(12);
  for (int e = 0; e < 12; ++e) at[e] = static_cast<tier>(e % 3);
  auto const flops = positive(m, 12, 1e6f), bytes = positive(m, 12, 1e5f);
  auto const rank = numbers(m, 12, 3);
  list<float const> const waiting(m.of<float>({3, 0, 8}), 3);
  static_cast<costs::detail::term<0, costs::flops>&>(cost) = {{flops, us_per_flop(1)}, 1};
  static_cast<costs::detail::term<1, costs::bytes>&>(cost) = {{bytes, {at, 12}, {0.0f, 1e-5f, 4e-5f}}, 0.5f};
  static_cast<costs::detail::term<2, costs::rank_distance>&>(cost) = {{rank, numbers(m, tokens, 3), 0, 0.2f, 100, 1e-3f}, 1};
  static_cast<costs::detail::term<3, costs::queue>&>(cost) = {{rank, waiting, costs::queue::mean_of(waiting), 0.05f}, 1};
  static_cast<costs::detail::term<4, costs::energy>&>(cost) = {{flops, bytes, 1e-7f, 1e-6f}, 2};
  s.price = 0.1f;
  route<routing::cost_aware<all>>(where, m, softmax12{}, s, tokens);
}
void share_of_choice(cuda::stream_ref& where, memory& m) {
  using policy = routing::top_p_of_choice<routing::cost_aware<costs::table, routing::standard, priced::logit>>;
  policy::state s;
  s.cost = costs::table::of_experts(positive(m, 12));
  s.price = 0.3f, s.share = 0.8f;
  route<policy>(where, m, softmax12{}, s, tokens);
}
/// Few experts by all lists, more by greedy ones.
void budget(cuda::stream_ref& where, memory& m) {
  using policy = routing::null_expert<routing::knapsack<costs::table>>;
  for (int const experts : {8, 20}) {
    policy::state s;
    s.charge = costs::table::of_experts(positive(m, experts));
    s.budget = 2.5f, s.null_choice = 0.04f;
    route<policy>(where, m, router_config{.experts = experts, .top_k = 4, .renormalize = true}, s, tokens);
  }
}

constexpr family families[] = {
    {"route_logits", configurations, 0, "routing::standard"},
    {"route_logits", library_scores, 2, "routing::standard"},
    {"route_logits", top_p, 0, "routing::top_p"},
    {"route_logits", threshold, 0, "routing::threshold"},
    {"route_logits", positive_scores, 0, "routing::positive"},
    {"route_logits", sparse_mixer, 2, "routing::sparse_mixer"},
    {"route_logits", hash, 0, "routing::hash"},
    {"route_logits", replay, 0, "routing::replay"},
    {"route_logits", allowed, 0, "routing::allowed"},
    {"route_logits", hierarchical, 2, "routing::hierarchical"},
    {"route_logits", without_nulls, 0, "routing::without_nulls"},
    {"route_logits", table_of_tokens, 0, "routing::cost_aware costs::table"},
    {"route_logits", every_cost, 0, "routing::cost_aware costs::sum costs::flops costs::bytes costs::rank_distance costs::queue costs::energy"},
    {"route_logits", share_of_choice, 0, "routing::top_p_of_choice"},
    {"route_logits", budget, 0, "routing::null_expert routing::knapsack"},
};

MOESAIC_LEG(route_tokens, families)

}  // namespace
}  // namespace moesaic::test::ptx
