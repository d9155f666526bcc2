// Two levels of gates, over groups and over the experts of each -> the best groups, and as many experts of every one of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

/// The hierarchical mixture of experts (Shazeer et al., arXiv 1701.06538): `router.group_gate` gives the router `groups` more rows, after
/// those of the experts. An outer softmax is over the groups' logits, an inner one over the logits of each group's experts, and an expert's
/// score is the product: G_i · G_ij. A token takes its top_groups best groups, and of each the top_k / top_groups best experts.
/// Weights are the products; with `renormalize` each level is a softmax over its chosen alone, so that they sum to one.
/// With one group, or groups of one expert, this is the flat router, bit for bit; with all groups and experts chosen a flat softmax of
/// product weights. It is not the group limit of DeepSeek, which has one score vector and no gate of its own for groups.
/// A bias or price moves the choice inside a group, never between groups. A group without an open expert, or whose share is 0, is left out.
/// Helps where groups are devices: a token meets top_groups of them. Costs a softmax more. Causal; batch-invariant.
template <class Base = standard>
struct hierarchical : Base {
  template <router_config c>
  static auto check() {
    static_assert(c.group_gate, "hierarchical needs router.group_gate, because its outer level has a router row a group");
    Base::template check<flat(c)>();
  }

  /// logits [experts + groups] -> scores [experts], another memory.
  template <class T, class Group>
  MOESAIC_FN static void score(router_config const& c, Group const& g, [[maybe_unused]] auto const& s, [[maybe_unused]] std::int64_t token,
                               T const* logits, T* scores) {
    T gate[standard::most_groups];
    int const width = c.experts / c.groups;
    bool const capped = c.logit_softcap != 0.0;
    auto const cap = [&](T z) { return capped ? standard::soft_cap(static_cast<T>(c.logit_softcap), z) : z; };
    for (int i = 0; i < c.groups; ++i) gate[i] = cap(logits[c.experts + i]);
    if (g.size() == 1) standard::softmax(g, c.groups, gate, gate);   // NaN if a logit is: then all scores are, and nobody is chosen
    else standard::softmax(serial_group{}, c.groups, gate, gate);    // everyone has the whole of it
    auto const may = [&]([[maybe_unused]] int e) {
      if constexpr (requires { Base::may_use(s, token, e); }) return Base::may_use(s, token, e);
      else return true;
    };
    for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = may(e) ? cap(logits[e]) : -infinity<T>;
    g.sync();
    for (int i = 0; i < c.groups; ++i) {
      T* const inner = scores + i * width;
      bool open = false;
      for (int e = 0; e < width; ++e) open = open || inner[e] > -infinity<T>;
      g.sync();                                                      // all have read it before any of it becomes a share
      if (open) standard::softmax(g, width, inner, inner);
      for (int e = g.rank(); e < width; e += g.size()) inner[e] = open ? inner[e] * gate[i] : T(0);
    }
    g.sync();
  }

  template <class T, class Group>
  MOESAIC_FN static void limit(router_config const& c, Group const& g, typename Base::state const& s, std::int64_t token, T const* scores,
                               T* choice) {
    constexpr T never = -infinity<T>;
    Base::limit(flat(c), g, s, token, scores, choice);
    g.sync();
    int const width = c.experts / c.groups, each = c.top_k / c.top_groups;
    T share[standard::most_groups], least[standard::most_groups];
    int last[standard::most_groups];                                 // of each group the worst expert that stays: its choice and index
    for (int i = 0; i < c.groups; ++i) {
      share[i] = share_of(scores + i * width, width);
      bool open = false;
      for (int e = i * width; e < (i + 1) * width; ++e) open = open || choice[e] > never;
      if (!open || !(share[i] > T(0))) share[i] = never;
      least[i] = infinity<T>, last[i] = -1;
      for (int k = 0; k < each; ++k) {                               // the next after the last one, by choice descending, then index
        int next = -1;
        for (int e = i * width; e < (i + 1) * width; ++e)
          if ((choice[e] < least[i] || (choice[e] == least[i] && e > last[i])) && (next < 0 || choice[e] > choice[next])) next = e;
        least[i] = choice[next], last[i] = next;
      }
    }
    g.sync();
    for (int i = 0; i < c.groups; ++i) {
      int better = 0;
      for (int other = 0; other < c.groups; ++other) better += share[other] > share[i] || (share[other] == share[i] && other < i);
      bool const chosen = better < c.top_groups && share[i] > never;
      for (int e = i * width + g.rank(); e < (i + 1) * width; e += g.size())
        if (!chosen || choice[e] < least[i] || (choice[e] == least[i] && e > last[i])) choice[e] = never;
    }
    g.sync();
  }

  template <class T, class Group>
  MOESAIC_FN static void weigh(router_config const& c, Group const& g, auto const& /*state*/, std::int64_t /*token*/, T const* scores,
                               std::int32_t const* ids, int count, T* weights) {
    int const width = c.experts / c.groups;
    T inner[standard::most_groups], share[standard::most_groups], outer = T(0);    // of the chosen: sums inside groups, and over groups
    for (int i = 0; i < c.groups; ++i) inner[i] = T(-1);
    for (int i = 0; c.renormalize && i < count; ++i) {
      int const group = ids[i] / width;
      if (inner[group] < T(0)) {
        inner[group] = T(0);
        outer += share[group] = share_of(scores + group * width, width);
      }
      inner[group] += scores[ids[i]];
    }
    for (int i = g.rank(); i < count; i += g.size()) {
      T w = scores[ids[i]];
      if (c.renormalize) {
        int const group = ids[i] / width;
        w = inner[group] > T(0) ? w / inner[group] * (share[group] / outer) : T(0);
      }
      weights[i] = c.weights == combine_weight::ones ? T(1) : c.routed_scale != 1.0 ? w * static_cast<T>(c.routed_scale) : w;
    }
  }

 private:
  MOESAIC_FN static constexpr router_config flat(router_config c) {
    c.groups = c.top_groups = 1;
    c.group_gate = false;
    return c;
  }
  /// What the outer softmax gave a group: the sum of its experts' scores.
  template <class T>
  MOESAIC_FN static T share_of(T const* scores, int width) {
    T sum = T(0);
    for (int e = 0; e < width; ++e) sum += scores[e];
    return sum;
  }
};

}  // namespace moesaic::routing
