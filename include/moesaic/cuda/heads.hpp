// Projections before attention and heads' outputs after it, in place: clipped, scaled by position, gated.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/attention_rule.hpp>
#include <moesaic/cuda/kernel/heads.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

namespace heads_detail {
template <head_change Change, class T>
void start_change(stream& where, view<T> x, view<const T> gate, std::int32_t const* position, query_temperature const& temperature, double limit) {
  auto const go = [&]<int Count>() {
    start<change_heads<T, Count, Change>>(where, {.x = blocks_for(x.rows), .early = true}, {x, gate, position, temperature, static_cast<float>(limit)});
  };
  if (is_wide(x) && (Change != head_change::gate || is_wide(gate))) go.template operator()<wide<T>>();
  else go.template operator()<1>();
}
}  // namespace heads_detail

/// x [tokens, width]: each element to the nearest within ± limit; NaN stays.
template <class T, class Tuning>
void clip(basic_stream_ref<Tuning>& where, double limit, view<T> x) {
  heads_detail::start_change<head_change::clip, T>(where, x, {}, nullptr, {}, limit);
}

/// q [tokens, width]: each row times its position's factor (temperature_at); position [tokens].
template <class T, class Tuning>
void scale_queries(basic_stream_ref<Tuning>& where, query_temperature const& temperature, list<const std::int32_t> position, view<T> q) {
  heads_detail::start_change<head_change::scale, T>(where, q, {}, position.data, temperature, 0.0);
}

/// heads [tokens, width] times sigmoid(gate), gate alike; rounded to T once.
template <class T, class Tuning>
void gate_heads(basic_stream_ref<Tuning>& where, view<const T> gate, view<T> heads) {
  heads_detail::start_change<head_change::gate, T>(where, heads, gate, nullptr, {}, 0.0);
}

}  // namespace moesaic::cuda
