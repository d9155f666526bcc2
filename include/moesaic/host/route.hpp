// Router logits -> expert ids and weights of every token, by any routing policy; and the plan of the expert GEMMs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <moesaic/host/pool.hpp>
#include <moesaic/route/plan.hpp>
#include <moesaic/route/select.hpp>

namespace moesaic::host {

/// logits, scores, choice [tokens, experts], three memories; score_bias [experts] or empty; batch_memory: batch_bytes_of<Policy> bytes.
/// A token whose logits are not finite gets no expert and sets `*not_finite` to 1.
template <class Policy, class T>
void route(pool& where, router_config const& c, typename Policy::state const& state, view<const T> logits, list<const float> score_bias,
           view<T> scores, view<T> choice, routing_slots<T> const& slots, list<std::byte> batch_memory, std::int32_t* not_finite) {
  constexpr std::int64_t tokens_a_task = 16;
  auto const tokens = logits.rows;
  auto const width = static_cast<int>(slots.ids.columns);
  auto const tasks = (tokens + tokens_a_task - 1) / tokens_a_task;
  auto const each_token = [&](auto&& f) {
    where.for_each(tasks, [&](std::int64_t task) {
      auto const end = std::min(tokens, (task + 1) * tokens_a_task);
      for (auto t = task * tokens_a_task; t < end; ++t) f(t);
    });
  };
  auto const score = [&](std::int64_t t) {
    bool const finite = score_token<Policy>(c, serial_group{}, state, score_bias, t, logits.row(t), scores.row(t), choice.row(t));
    if (!finite) std::atomic_ref<std::int32_t>(*not_finite).store(1, std::memory_order_relaxed);
  };
  auto const finish = [&](std::int64_t t, int found) {
    slots.count[t] = finish_token<Policy>(c, serial_group{}, state, t, static_cast<T const*>(scores.row(t)), static_cast<T const*>(choice.row(t)), found,
                                          width, slots.ids.row(t), slots.weights.row(t));
  };
  if constexpr (Policy::coupled) {
    each_token(score);
    Policy::select_batch(c, serial_group{}, state, routing_batch<T>{scores, choice}, slots, batch_memory);
    each_token([&](std::int64_t t) { finish(t, slots.count[t]); });
  } else {
    each_token([&](std::int64_t t) {
      score(t);
      finish(t, top_k(static_cast<T const*>(choice.row(t)), c.experts, width, slots.ids.row(t)));
    });
  }
}

/// ids [tokens, slots] -> expert_offsets, token_of_slot, slot_of_choice.
inline void plan(pool&, view<const std::int32_t> ids, dispatch_plan const& out) { make_plan(ids, out); }

/// The plan of a feed-forward that every token uses: offsets = {0, tokens}.
inline void plan_whole(pool&, std::int64_t tokens, list<std::int32_t> offsets) {
  offsets[0] = 0;
  offsets[1] = static_cast<std::int32_t>(tokens);
}

}  // namespace moesaic::host
