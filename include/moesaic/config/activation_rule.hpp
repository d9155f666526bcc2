// What a feed-forward does with its sums of gate and up.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// h = act(g) ⊙ (u + up_offset), g = min(gate, limit), u = up clamped to ± limit, swiglu(g) = g · σ(alpha · g) (gpt-oss); h = act(up) without a
/// gate. The neutral values change no bit: +inf and −inf pass all, and x + −0 is x for every x. An activation alone is a rule.
/// Real: what sums are kept in.
template <class Real>
struct activation_rule_in {
  activation act = activation::relu;
  Real limit = std::numeric_limits<Real>::infinity(), alpha = Real(1), up_offset = -Real(0);

  constexpr activation_rule_in() = default;
  constexpr activation_rule_in(activation a) : act(a) {}
  constexpr activation_rule_in(activation a, Real most, Real steepness, Real offset) : act(a), limit(most), alpha(steepness), up_offset(offset) {}
  template <class Other>
  constexpr activation_rule_in(activation_rule_in<Other> const& r)
      : act(r.act), limit(static_cast<Real>(r.limit)), alpha(static_cast<Real>(r.alpha)), up_offset(static_cast<Real>(r.up_offset)) {}
};
using activation_rule = activation_rule_in<double>;

constexpr activation_rule activation_rule_of(expert_config const& c) {
  activation_rule const plain(c.activation);
  return {c.activation, c.limit != 0 ? c.limit : plain.limit, c.alpha, c.up_offset != 0 ? c.up_offset : plain.up_offset};
}

}  // namespace moesaic
