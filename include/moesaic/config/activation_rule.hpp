// What a feed-forward does with its sums of gate and up.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// h = act(g) ⊙ (u + up_offset), g = min(gate, limit), u = up clamped to ± limit, swiglu(g) = g · σ(alpha · g) (gpt-oss); h = act(up) without a
/// gate. The neutral values change no bit: +inf and −inf pass all, and x + −0 is x for every x. An activation alone is a rule.
struct activation_rule {
  activation act = activation::relu;
  float limit = std::numeric_limits<float>::infinity(), alpha = 1.0f, up_offset = -0.0f;

  constexpr activation_rule() = default;
  constexpr activation_rule(activation a) : act(a) {}
  constexpr activation_rule(activation a, float most, float steepness, float offset) : act(a), limit(most), alpha(steepness), up_offset(offset) {}
};

constexpr activation_rule activation_rule_of(expert_config const& c) {
  activation_rule const plain(c.activation);
  return {c.activation, c.limit != 0 ? static_cast<float>(c.limit) : plain.limit, static_cast<float>(c.alpha),
          c.up_offset != 0 ? static_cast<float>(c.up_offset) : plain.up_offset};
}

}  // namespace moesaic
