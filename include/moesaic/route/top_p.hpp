// Scores that sum to one -> as many experts a token as it takes to gather a share p of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// Top-p (MoE-Dynamic, arXiv 2403.07652): of a token's list, best first, the shortest beginning whose scores sum to at least p, the one that
/// crosses included. At least one expert, at most `top_k` of the configuration (experts: no other limit); p ≤ 0: one, p ≥ 1: all of the list.
/// A token whose scores say little gets many experts, a sure one few: it saves FLOPs where tokens differ, and bytes where a batch is small.
/// Where Base masks experts, what those hold of the softmax is never gathered, so more of the others are taken.
/// Costs a sum over the chosen. Causal; batch-invariant; trained with an entropy loss, since equal scores would buy everything.
template <class Base = standard>
struct top_p : Base {
  struct state : Base::state {
    float p = 1;                       ///< share of the scores to gather
  };
  template <router_config c>
  static auto check() {
    static_assert(c.score == score::softmax && c.position == score_position::before_top_k,
                  "top_p needs softmax scores before top-k, because it gathers a share of scores that sum to one");
    Base::template check<c>();
  }

  template <class T>
  MOESAIC_FN static int cut(router_config const& c, state const& s, std::int64_t token, T const* scores, T const* choice,
                            std::int32_t const* ids, int found) {
    int const most = Base::cut(c, s, token, scores, choice, ids, found);
    if (s.p >= 1 || most == 0) return most;
    T gathered = T(0);
    int count = 0;
    do gathered += scores[ids[count++]];
    while (count < most && !(gathered >= static_cast<T>(s.p)));
    return count;
  }
};

}  // namespace moesaic::routing
