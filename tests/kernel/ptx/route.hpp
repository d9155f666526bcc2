// A batch for the router's cases: logits and what a routing call writes, as buffers of a run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/cuda/route.hpp>
#include <moesaic/route/policy.hpp>

#include "leg.hpp"

namespace moesaic::test::ptx {

/// What a routing call writes.
template <class Policy>
struct route_results {
  view<float> scores, choice;
  routing_slots<float> slots;
  list<std::byte> batch_memory;
  std::int32_t* not_finite;
  cuda::route_counters* counters;
  dispatch_plan plan;

  route_results(memory& m, router_config const& c, std::int64_t tokens) {
    auto const width = Policy::slots(c);
    scores = m.result_rows<float>(tokens, c.experts), choice = m.result_rows<float>(tokens, c.experts);
    slots = {m.result_rows<std::int32_t>(tokens, width), m.result_rows<float>(tokens, width), {m.result<std::int32_t>(tokens), tokens}};
    auto const bytes = static_cast<std::int64_t>(batch_bytes_of<Policy>(c, tokens));
    batch_memory = {m.scratch(bytes + 1), bytes};
    not_finite = m.zeros<std::int32_t>(1);
    counters = m.zeros<cuda::route_counters>(1);
    plan = {{m.result<std::int32_t>(c.experts + 1), c.experts + 1},
            {m.result<std::int32_t>(tokens * width), tokens * width},
            m.result_rows<std::int32_t>(tokens, width)};
  }
};

/// Logits of a batch with a token that is not finite and one that has an expert forbidden, where there are so many.
inline view<float const> drawn_logits(memory& m, router_config const& c, std::int64_t tokens) {
  auto const logits = m.random_rows<float>(tokens, c.experts + (c.group_gate ? c.groups : 0), 3.0f);
  if (tokens > 4) logits(2, 1) = not_a_number<float>, logits(4, 3) = -infinity<float>;
  return logits;
}

/// Config: a router_config, or a type that holds one.
template <class Policy, class Config>
void route(cuda::stream_ref& where, memory& m, Config const& config, typename Policy::state const& state, std::int64_t tokens) {
  router_config c;
  if constexpr (cuda::constant_router<Config>) c = Config::config;
  else c = config;
  route_results<Policy> const r(m, c, tokens);
  auto const logits = drawn_logits(m, c, tokens);
  list<float const> const bias(c.score_bias ? m.random<float>(c.experts, 0.1f) : nullptr, c.score_bias ? c.experts : 0);
  cuda::route_and_plan<Policy>(where, config, state, logits, bias, r.scores, r.choice, r.slots, r.batch_memory, r.not_finite, r.counters, r.plan);
}

}  // namespace moesaic::test::ptx
