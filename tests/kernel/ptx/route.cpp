// The router: tokens by themselves, rules over a batch, logits in the same launch, and plans.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <moesaic/route/elimination.hpp>
#include <moesaic/route/expert_choice.hpp>

#include "route.hpp"

namespace moesaic::test::ptx {
// Named outside of the nameless namespace, whose name is each compiler's own.
struct softmax20 {
  static constexpr router_config config{.experts = 20, .top_k = 4, .renormalize = true, .bias = true};
};
struct biased21 {
  static constexpr router_config config{.experts = 21, .top_k = 4, .score = score::sigmoid, .renormalize = true, .score_bias = true};
};

namespace {

void tokens(cuda::stream_ref& where, memory& m) { route<routing::standard>(where, m, biased21{}, {}, 37); }
void batch(cuda::stream_ref& where, memory& m) {
  routing::elimination<>::state s;
  s.price = 0.3f, s.rounds = 3;
  route<routing::elimination<>>(where, m, softmax20{}, s, 13);
}
void by_expert(cuda::stream_ref& where, memory& m) {
  routing::expert_choice<>::state s;
  s.factor = 2;
  route<routing::expert_choice<>>(where, m, softmax20{}, s, 13);
}
void fused(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t rows = 5, hidden = 320;
  constexpr auto c = softmax20::config;
  route_results<routing::standard> const r(m, c, rows);
  auto const weight = random_weights(m, {.stored = dtype::fp32, .outputs = c.experts, .inputs = hidden});
  view<bf16 const> const x = m.random_rows<bf16>(rows, hidden);
  cuda::linear_route_and_plan<routing::standard>(where, softmax20{}, {}, weight, x, {m.random<float>(c.experts), c.experts},
                                                 m.result_rows<float>(rows, c.experts), {}, r.scores, r.choice, r.slots, r.batch_memory,
                                                 r.not_finite, r.counters, r.plan);
}
void plans(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t rows = 70, width = 3;
  constexpr std::int32_t experts = 9;
  auto* const ids = m.zeros<std::int32_t>(rows * width);
  for (std::int32_t i = 0; i < rows * width; ++i) ids[i] = i * 7 % 11 - 1 < experts - 1 ? i * 7 % 11 - 1 : -1;   // none takes the last
  cuda::plan(where, {ids, rows, width},
             {{m.result<std::int32_t>(experts + 1), experts + 1},
              {m.result<std::int32_t>(rows * width), rows * width},
              m.result_rows<std::int32_t>(rows, width)});
  cuda::plan_whole(where, 12, {m.result<std::int32_t>(2), 2});
}
void large_plan(cuda::stream_ref& where, memory& m) {
  constexpr std::int64_t rows = 90, width = 3, choices = rows * width;
  constexpr std::uint32_t experts = 9;
  auto* const ids = m.zeros<std::int32_t>(choices);
  for (std::int32_t i = 0; i < choices; ++i) ids[i] = i * 7 % 10 - 1;
  auto *const key = m.result<std::uint32_t>(choices), *const choice = m.result<std::uint32_t>(choices);
  cuda::start<cuda::list_choices>(where, {.x = 2, .early = true}, {{ids, rows, width}, experts, key, choice});
  // What a device's radix sort does between the two.
  std::stable_sort(choice, choice + choices, [&](std::uint32_t a, std::uint32_t b) { return key[a] < key[b]; });
  std::stable_sort(key, key + choices);
  cuda::start<cuda::place_choices>(where, {.x = 2, .early = true},
                                   {key,
                                    choice,
                                    {{m.result<std::int32_t>(experts + 1), experts + 1},
                                     {m.result<std::int32_t>(choices), choices},
                                     m.result_rows<std::int32_t>(rows, width)}});
}

constexpr family families[] = {
    {"route_logits", tokens, 0, "routing::standard"},
    {"route_logits", batch, 0, "routing::elimination"},
    {"route_logits", by_expert, 0, "routing::expert_choice"},
    {"route_fused", fused},
    {"plan_choices plan_of_all", plans},
    {"list_choices place_choices", large_plan},
};

MOESAIC_LEG(route, families)

}  // namespace
}  // namespace moesaic::test::ptx
