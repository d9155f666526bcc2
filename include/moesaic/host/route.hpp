// Router logits -> expert ids and weights of every token, by any routing policy; and the plan of the expert GEMMs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/route.hpp>
#include <moesaic/route/plan.hpp>
#include <moesaic/route/select.hpp>

namespace moesaic::host {

namespace detail {
template <class T, class From>
view<T> rows_of(view<From> all, std::int64_t first, std::int64_t n) {
  return {all.row(first), n, all.columns, all.stride};
}
}  // namespace detail

/// logits, scores, choice [tokens, experts], three memories; score_bias [experts] or empty; batch_memory: batch_bytes_of<Policy> bytes.
/// A token whose logits are not finite gets no expert and sets `*not_finite` to 1; padding gets none and is silent.
template <class Policy, class T>
void route(pool& where, router_config const& c, typename Policy::state const& state, view<const T> logits, list<const float> score_bias,
           view<T> scores, view<T> choice, routing_slots<T> const& slots, list<std::byte> batch_memory, std::int32_t* not_finite) {
  constexpr std::int64_t tokens_a_task = 16;
  auto const tokens = logits.rows;
  auto const width = static_cast<int>(slots.ids.columns);
  auto const tasks = (tokens + tokens_a_task - 1) / tokens_a_task;
  vector_group const group{{}, where.level()};
  auto const each_token = [&](auto&& f) {
    where.for_each(tasks, [&](std::int64_t task) {
      auto const end = std::min(tokens, (task + 1) * tokens_a_task);
      for (auto t = task * tokens_a_task; t < end; ++t) f(t);
    });
  };
  auto const leave_out = [&](std::int64_t t) {
    for (int e = 0; e < c.experts; ++e) scores(t, e) = choice(t, e) = std::numeric_limits<T>::quiet_NaN();
  };
  auto const score = [&](std::int64_t t) {
    if (is_padding(state, t)) return leave_out(t);
    bool const finite = score_token<Policy>(c, group, state, score_bias, t, logits.row(t), scores.row(t), choice.row(t));
    if (!finite) std::atomic_ref<std::int32_t>(*not_finite).store(1, std::memory_order_relaxed);
  };
  auto const finish = [&](std::int64_t t, int found) {
    slots.count[t] = finish_token<Policy>(c, group, state, t, static_cast<T const*>(scores.row(t)), static_cast<T const*>(choice.row(t)), found,
                                          width, slots.ids.row(t), slots.weights.row(t));
  };
  auto const each_step = [&](auto&& f) {
    auto const together = step_of(state, tokens);
    for (std::int64_t first = 0; first < tokens; first += together) {
      auto const n = std::min(together, tokens - first);
      f(routing_batch<T>{detail::rows_of<const T>(scores, first, n), detail::rows_of<const T>(choice, first, n), first},
        routing_slots<T>{detail::rows_of<std::int32_t>(slots.ids, first, n), detail::rows_of<T>(slots.weights, first, n), {slots.count.data + first, n}});
    }
  };
  if constexpr (Policy::coupled) {
    each_token(score);
    each_step([&](auto const& batch, auto const& chosen) { Policy::select_batch(c, group, state, batch, chosen, batch_memory); });
    each_token([&](std::int64_t t) { finish(t, slots.count[t]); });
  } else {
    each_token([&](std::int64_t t) {
      score(t);
      finish(t, select_token<Policy>(c, group, state, t, static_cast<T const*>(scores.row(t)), static_cast<T const*>(choice.row(t)), width,
                                     slots.ids.row(t)));
    });
  }
  if constexpr (Policy::settles)
    each_step([&](auto const& batch, auto const& chosen) { Policy::settle_batch(c, group, state, batch, chosen, batch_memory); });
}

/// ids [tokens, slots] -> expert_offsets, token_of_slot, slot_of_choice.
inline void plan(pool&, view<const std::int32_t> ids, dispatch_plan const& out) { make_plan(ids, out); }

/// The plan of a feed-forward that every token uses: offsets = {0, tokens}.
inline void plan_whole(pool&, std::int64_t tokens, list<std::int32_t> offsets) {
  offsets[0] = 0;
  offsets[1] = static_cast<std::int32_t>(tokens);
}

}  // namespace moesaic::host
