// Scores above a bar -> a token's experts, however many those are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// Forbids every expert for which `admits(expert)` is false; where none is left and `at_least_one`, the best of the choice stays.
/// choice [experts].
template <class T, class Group, class Admits>
MOESAIC_FN void admit(int experts, Group const& g, T* choice, bool at_least_one, Admits&& admits) {
  constexpr T never = -infinity<T>;
  T best = never;
  constexpr int none = -0x7fff'ffff;
  int some = 0, lowest = none;  // of −expert, since a group knows maxima
  for (int e = g.rank(); e < experts; e += g.size()) {
    best = choice[e] > best ? choice[e] : best;
    some |= choice[e] > never && admits(e);
  }
  best = g.max(best);
  bool const keep_best = g.max(some) == 0 && at_least_one;
  for (int e = g.rank(); e < experts && lowest == none; e += g.size())
    if (choice[e] == best) lowest = -e;
  lowest = g.max(lowest);
  g.sync();
  for (int e = g.rank(); e < experts; e += g.size())
    if (keep_best ? -e != lowest : !admits(e)) choice[e] = never;
  g.sync();
}

/// Every expert whose score exceeds its threshold, at most `top_k` of the configuration, best first (DynMoE, arXiv 2405.14297, whose scores
/// are sigmoids of cosines and whose thresholds are learned, an expert each). Where none does: the best one, or none, as the state says.
/// Saves FLOPs where tokens differ. Costs a comparison an expert. Causal; batch-invariant.
template <class Base = standard>
struct threshold : Base {
  struct state : Base::state {
    list<const float> thresholds = {};  ///< [experts], or of size 1: the same for all; in units of score
    bool at_least_one = true;
  };
  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    if (s.thresholds.size != 1 && s.thresholds.size != c.experts)
      return invalid("thresholds must have an entry an expert, or one", c.experts, s.thresholds.size);
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static void limit(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* scores, T* choice) {
    Base::limit(c, g, s, token, scores, choice);
    g.sync();
    admit(c.experts, g, choice, s.at_least_one,
          [&](int e) { return scores[e] > static_cast<T>(s.thresholds[s.thresholds.size == 1 ? 0 : e]); });
  }
};

/// Every expert whose score is above zero, at most `top_k` of the configuration: ReLU routing (ReMoE, arXiv 2412.14711), where the number of
/// experts is learned by a penalty on the scores. With score::relu the experts left out would have weighed zero, so that nothing is lost;
/// with after_top_k it is logits that must be positive. A token may get no expert. Costs a comparison an expert. Causal; batch-invariant.
template <class Base = standard>
struct positive : Base {
  template <class T, class Group>
  MOESAIC_FN static void limit(router_config const& c, Group const& g, typename Base::state const& s, std::int64_t token, T const* scores,
                               T* choice) {
    Base::limit(c, g, s, token, scores, choice);
    g.sync();
    admit(c.experts, g, choice, false, [&](int e) { return scores[e] > T(0); });
  }
};

}  // namespace moesaic::routing
