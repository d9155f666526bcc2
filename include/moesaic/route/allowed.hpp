// A table of what each kind of token may use -> choices with everything else forbidden.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// Modality-isolated routing (VLMo, ERNIE-4.5-VL), or any mask: a token sees the experts that its kind may use, and the others as if their
/// logits were −inf: they take no part in a softmax, are worth nothing to their group and are never chosen. A token that may use none gets
/// no expert, silently. Costs a byte an expert. Causal; batch-invariant.
template <class Base = standard>
struct allowed : Base {
  struct state : Base::state {
    list<const std::int32_t> kind = {};     ///< [tokens] row of `mask`, −1 = all experts, past its end none; empty: each token its own row
    view<const std::uint8_t> mask = {};     ///< [kinds, experts] 1 = may use
  };
  template <router_config c>
  static auto check() {
    static_assert(!c.group_gate, "a mask and router.group_gate need hierarchical<allowed<...>>, not allowed<hierarchical<...>>, because a mask hands "
                                 "on the logits of experts alone");
    Base::template check<c>();
  }
  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    if (s.mask.columns != c.experts) return invalid("a mask must have a column an expert", c.experts, s.mask.columns);
    if (s.kind.empty() && s.mask.rows != tokens) return invalid("a mask without kinds must have a row a token", tokens, s.mask.rows);
    if (!s.kind.empty() && s.kind.size != tokens) return invalid("kind must have an entry a token, or none", tokens, s.kind.size);
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static void score(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* logits, T* scores) {
    int open = 0;
    for (int e = g.rank(); e < c.experts; e += g.size()) {
      bool const may = may_use(s, token, e) && logits[e] > -infinity<T>;
      scores[e] = may ? logits[e] : -infinity<T>;
      open |= may;
    }
    open = g.max(open);
    g.sync();
    if (open != 0) return Base::score(c, g, s, token, scores, scores);
    for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = T(0);     // a softmax of nothing would be NaN
  }

  template <class T, class Group>
  MOESAIC_FN static void limit(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* scores, T* choice) {
    for (int e = g.rank(); e < c.experts; e += g.size())
      if (!may_use(s, token, e)) choice[e] = -infinity<T>;
    g.sync();
    Base::limit(c, g, s, token, scores, choice);
  }

  /// For policies above that have a softmax of their own.
  MOESAIC_FN static bool may_use(state const& s, std::int64_t token, int e) {
    if constexpr (requires { Base::may_use(s, token, e); })
      if (!Base::may_use(s, token, e)) return false;
    auto const row = s.kind.empty() ? token : static_cast<std::int64_t>(s.kind[token]);
    return row < 0 || (row < s.mask.rows && s.mask(row, e) != 0);
  }
};

}  // namespace moesaic::routing
