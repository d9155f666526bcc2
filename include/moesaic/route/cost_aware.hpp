// Routing by a policy of any kind with costs taken off: u = a + b − λ ρ c. Weights are those of the plain scores a.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/route/cost.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic {

/// What a price is taken off: an expert's score, or its logit (after a soft cap), as Cache-Prior has it. A logit is the scale on which a price
/// means the same for a sure token and an unsure one; a softmax score is nearly 0 for most experts, so a price soon outweighs all but the best.
enum class priced : std::uint8_t { score, logit };

namespace detail {

/// ids [count] in the order of falling key(id), of equals the lower id first; keys are no NaN.
template <class T, class Key>
MOESAIC_FN void list_best_first(Key const& key, int count, std::int32_t* ids) {
  constexpr int few = 8;
  if (count <= few) {                                      // counts who comes before: the branches of a sort would be coin tosses
    T value[few];
    std::int32_t id[few];
    for (int i = 0; i < few; ++i) {
      id[i] = i < count ? ids[i] : 0x7fff'ffff;
      value[i] = i < count ? static_cast<T>(key(id[i])) : -infinity<T>;
    }
    for (int i = 0; i < count; ++i) {
      int before = 0;
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#pragma GCC unroll 1                                       // g++ at -O3 would unroll before it looks for vectors
#endif
      for (int j = 0; j < few; ++j) before += (value[j] > value[i]) | ((value[j] == value[i]) & (id[j] < id[i]));
      ids[before] = id[i];
    }
    return;
  }
  for (int i = 1; i < count; ++i) {
    auto const id = ids[i];
    auto const mine = static_cast<T>(key(id));
    int at = i;
    for (; at > 0 && (mine > key(ids[at - 1]) || (mine == key(ids[at - 1]) && id < ids[at - 1])); --at) ids[at] = ids[at - 1];
    ids[at] = id;
  }
}

/// Of the experts that may be chosen, the first in the order of falling key(id) after `last` (−1 = from the start), of equals the lower id
/// first; −1 if there is none. open(id) says which may.
template <class Key, class Open>
MOESAIC_FN constexpr std::int32_t next_best(int experts, Key const& key, Open const& open, std::int32_t last) {
  std::int32_t best = -1;
  auto const bound = key(last < 0 ? 0 : last);
  auto top = bound;
  for (std::int32_t e = 0; e < experts; ++e) {
    auto const mine = key(e);
    if ((best >= 0 && !(mine > top)) || !open(e)) continue;
    if (last >= 0 && !(mine < bound || (mine == bound && e > last))) continue;
    best = e;
    top = mine;
  }
  return best;
}

/// ids [found], best first by choice, and room for `slots`: the `best` experts of largest score that may be chosen join, in place of the
/// last where there is no room. Answers how many there are.
template <class T>
MOESAIC_FN int join_best(int experts, T const* scores, T const* choice, int best, int found, int slots, std::int32_t* ids) {
  auto const score = [&](std::int32_t e) { return scores[e]; };
  auto const open = [&](std::int32_t e) { return choice[e] > -infinity<T>; };
  std::int32_t last = -1;
  for (int kept = 0; kept < best && kept < slots; ++kept) {
    last = next_best(experts, score, open, last);
    if (last < 0) break;
    int at = kept;                                         // ids[0 .. kept) are the ones that joined
    while (at < found && ids[at] != last) ++at;
    if (at == found && found++ == slots) at = --found - 1;
    for (; at > kept; --at) ids[at] = ids[at - 1];
    ids[kept] = last;
  }
  list_best_first<T>([&](std::int32_t e) { return choice[e]; }, found, ids);
  return found;
}

}  // namespace detail

namespace routing {

/// Base with costs (spec: u = a + b − λ ρ c; choice is by u, weights from a alone): `price` is λ, score per microsecond; Cost a cost source
/// (route/cost.hpp), or any type of one's own of that form. At a price of 0 it is Base bit for bit, and reads no cost.
///
/// Costs one multiplication and one addition an expert with a table of costs, and with `protect` that many passes over the experts. Helps where
/// experts cost different amounts: some in slower memory, on other ranks, of other widths. Causal, batch-invariant and trainable as Base is,
/// since costs are fixed before the call; in training raise the price from 0, or all tokens collapse onto the cheap experts.
///
/// A token's experts are listed by what Base would list them by, so its output depends on who is chosen and not on the price, to the bit.
/// (With a score bias the listing is by u + λ ρ c, which is a + b but for its rounding.) Group limits choose groups by u as well. An expert
/// whose cost is infinite is forbidden; if all are, the token gets none. A price so large that a is lost in the rounding of λ ρ c leaves
/// experts of equal cost to the lower index. Over replay or hash, who is chosen and in what order is for the list to say.
template <class Cost, class Base = standard, priced Of = priced::score>
struct cost_aware : Base {
  static_assert(cost_source<Cost>,
                "a cost source needs a `state` and `static T cost(state const&, moesaic::routing_site)`, because that is what an expert is "
                "priced by");
  using source = detail::source_or_none<Cost>;
  static constexpr bool listed = [] {
    if constexpr (requires { Base::listed; }) return Base::listed;
    else return false;
  }();

  struct state : Base::state {
    typename source::state cost = {};
    float price = 0;                     ///< λ: score, or logit, that a microsecond must be worth; 0 = no costs
    float range = 1;                     ///< ρ: running_range::mean makes one price serve layers whose logits differ in size
    int protect = 0;                     ///< so many experts of largest score are kept whatever they cost, unless forbidden (by a group
                                         ///< limit too); 0 over a rule of the whole batch, under which it works

    MOESAIC_FN constexpr bool active() const { return price != 0 && range != 0; }
    template <class T>
    MOESAIC_FN constexpr T rate() const { return static_cast<T>(price) * static_cast<T>(range); }
  };

  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    if (auto fits = s.active() ? source_fits<source>(s.cost, c.experts, tokens) : status{}; !fits) return fits;
    auto const rate = s.template rate<float>();
    if (s.active() && !(rate - rate == 0)) return invalid("the price of costs and its range must be finite", 0, 0);
    if (Base::coupled && s.active() && s.protect > 0)
      return invalid("protect needs a base by which each token chooses for itself: put cost_aware under the rule over the batch", 0, s.protect);
    return Base::fits(c, s, tokens);
  }

  /// What rules over the batch ask: whether the choice is made of logits whatever the scores are, whether the best are protected, and what
  /// selects where they are not.
  MOESAIC_FN static constexpr bool prices_logits(state const& s) {
    if constexpr (requires { Base::prices_logits(s); })
      if (Base::prices_logits(s)) return true;
    return Of == priced::logit && s.active();
  }
  MOESAIC_FN static constexpr bool protects(state const& s) {
    if constexpr (requires { Base::protects(s); })
      if (Base::protects(s)) return true;
    return s.protect > 0 && s.active();
  }
  using protecting = cost_aware;
  using unprotected = Base;

  /// a − λ ρ c. The rows of a table go through the group at once.
  template <class T, class Group>
  MOESAIC_FN static T const* worth(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* logits, T const* scores,
                                   T* memory) {
    T const* from = worth_of<Base>(c, g, s, token, logits, scores, memory);
    if (!s.active()) return from;
    if constexpr (Of == priced::logit) {
      from = logits;
      if (c.logit_softcap != 0.0) {
        for (int e = g.rank(); e < c.experts; e += g.size()) memory[e] = Base::soft_cap(static_cast<T>(c.logit_softcap), logits[e]);
        from = memory;
      }
    }
    T const rate = s.template rate<T>();
    if constexpr (requires { g.less(c.experts, from, rate, source::row(s.cost, token), memory); })
      g.less(c.experts, from, rate, source::row(s.cost, token), memory);
    else
      for (int e = g.rank(); e < c.experts; e += g.size()) memory[e] = from[e] - rate * cost_at<source, T>(s.cost, {token, e});
    return memory;
  }

  template <class T, class Group>
  MOESAIC_FN static int select(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* scores, T const* choice,
                               int slots, std::int32_t* ids) {
    int found = Base::select(c, g, s, token, scores, choice, slots, ids);
    if (listed || s.protect <= 0 || !s.active()) return found;
    g.sync();
    if (g.rank() == 0) found = moesaic::detail::join_best(c.experts, scores, choice, s.protect, found, slots, ids);
    g.sync();
    return g.max(found);
  }

  template <class T, class Group>
  MOESAIC_FN static void arrange(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* scores, T const* choice,
                                 int count, std::int32_t* ids) {
    if (listed || !s.active()) return arrange_by<Base>(c, g, s, token, scores, choice, count, ids);
    g.sync();
    if (g.rank() == 0) {
      T const rate = s.template rate<T>();
      if (c.score_bias && Of == priced::score)
        moesaic::detail::list_best_first<T>([&](std::int32_t e) { return choice[e] + rate * cost_at<source, T>(s.cost, {token, e}); }, count, ids);
      else
        moesaic::detail::list_best_first<T>([&](std::int32_t e) { return scores[e]; }, count, ids);
    }
    g.sync();
  }
};

/// The running mean of how far a token's logits spread, max − min: ρ of Cache-Prior (arXiv 2412.00099). One a layer; read it before a call,
/// observe after.
struct running_range {
  double mean = 0;
  std::int64_t tokens = 0;

  /// logits [tokens, experts]. −inf is a mask, not a logit; tokens whose logits are not finite, or fewer than two, are left out.
  template <class T>
  constexpr void observe(view<const T> logits) {
    for (std::int64_t t = 0; t < logits.rows; ++t) {
      T least = infinity<T>, most = -infinity<T>;
      bool finite = true;
      for (std::int64_t e = 0; e < logits.columns; ++e) {
        T const z = logits(t, e);
        finite = finite && z < infinity<T>;
        if (z > -infinity<T> && z < least) least = z;
        if (z > most) most = z;
      }
      if (finite && least < most) mean += (static_cast<double>(most - least) - mean) / static_cast<double>(++tokens);
    }
  }
};

}  // namespace routing
}  // namespace moesaic
