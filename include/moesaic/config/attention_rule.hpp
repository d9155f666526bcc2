// What attention does with scores besides softmax(q Kᵀ · scale) V: what a token sees, and what else enters the softmax.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/macros.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/shapes.hpp>

namespace moesaic {

/// Of one layer. Ops take it by value; the sinks lie where the call runs.
struct attention_rule {
  double scale = 1.0;                  ///< of q · k
  double softcap = 0.0;                ///< cap · tanh(score / cap), before the mask; 0 = none
  int window = 0, chunk = 0;           ///< positions that a token sees back to (attention_config); 0 = all
  bool tiled_kv = false;               ///< query head h reads kv head h mod kv_heads
  list<const float> sinks = {};        ///< [heads] logits that join each softmax and weigh nothing, or empty

  /// Of kv heads, the one that a query head reads.
  MOESAIC_FN constexpr std::int64_t kv_head(std::int64_t head, std::int64_t heads, std::int64_t kv_heads) const {
    return tiled_kv ? head % kv_heads : head / (heads / kv_heads);
  }
  /// The first position that a token at `position` sees; the last is its own.
  MOESAIC_FN constexpr std::int64_t first_seen(std::int64_t position) const {
    auto const by_window = window != 0 && position >= window ? position - window + 1 : 0;
    auto const by_chunk = chunk != 0 ? position - position % chunk : 0;
    return by_window > by_chunk ? by_window : by_chunk;
  }
};

/// Whether a layer attends by scale alone, so that a backend may compile the rest away.
constexpr bool plain_attention(attention_config const& c) {
  return c.softcap == 0 && c.window == 0 && c.chunk == 0 && !c.tiled_kv && !c.sinks;
}

constexpr attention_rule attention_rule_of(attention_config const& c, double scale, list<const float> sinks) {
  return {scale, c.softcap, c.window, c.chunk, c.tiled_kv, sinks};
}

/// What queries at a position are multiplied by.
template <class Sum>
MOESAIC_FN Sum temperature_at(query_temperature const& c, std::int32_t position) {
  auto const periods = (position + 1ll) / c.floor;
  return Sum(1) + static_cast<Sum>(c.scale) * std::log(static_cast<Sum>(1 + periods));
}

}  // namespace moesaic
