// What rules over a whole batch share: the plain choice of every token, what it is worth, and a second choice inside the experts that are kept.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/bits.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::routing {

namespace selection {
/// Whether two policies have one select, whose state is State.
template <class T, class A, class B, class State>
constexpr bool same_select() {
  using hook = int (*)(router_config const&, serial_group const&, State const&, std::int64_t, T const*, T const*, int, std::int32_t*);
  if constexpr (requires {
                  static_cast<hook>(&A::template select<T, serial_group>);
                  static_cast<hook>(&B::template select<T, serial_group>);
                })
    return static_cast<hook>(&A::template select<T, serial_group>) == static_cast<hook>(&B::template select<T, serial_group>);
  return false;
}
template <class T, class Policy, class State>
constexpr bool selects_largest() {
  if constexpr (same_select<T, Policy, standard, State>()) return true;
  else if constexpr (requires { typename Policy::protecting; }) {
    using protecting = typename Policy::protecting;
    return same_select<T, Policy, protecting, typename protecting::state>() && selects_largest<T, typename protecting::unprotected, State>();
  } else return false;
}
}  // namespace selection

/// A rule over the batch on top of Base, whose scores, price, limit, select, cut and weights it keeps: two_phase, marginal, cap, two_prices
/// and elimination derive from it. The rule only decides which experts a step uses; inside them every token chooses as Base does, as many as
/// Base would give it, and where a token loses nothing its plain choice stands to the bit. A token that may use none of them (a mask, a limit
/// on groups) uses its best one all the same.
///
/// All of these are for inference: what a token uses depends on the other tokens of its step (not batch-invariant), in a prompt on later
/// tokens too (not causal). Decode is where they pay: there a step's time is the bytes of the distinct experts that it reads.
/// Sums over tokens are of multiples of 2⁻⁴⁰, so that they depend neither on the order of tokens nor on threads while they stay below 8192: of
/// so many tokens where gains are at most 1.
///
/// Base may say what using an expert is worth, gain(config, state, site, score) -> T ≥ 0; otherwise it is the combine weight before
/// renormalisation and scale, 0 for a negative one, or the score where weights are ones. With `static constexpr bool logit_scores = true` it
/// says that its scores are logits whatever the configuration calls them: then gains are their softmax. prices_logits(state) -> bool says that
/// its choice is made of logits though its scores are none.
template <class Base>
struct batch_rule : Base {
  static_assert(!Base::coupled,
                "a rule over a batch needs a separable policy below it, because two rules would each choose for the whole batch: name one of them");
  struct state : state_with_steps<state_with_padding<typename Base::state>> {};
  static constexpr bool coupled = true, batch_invariant = false, causal = false, trainable = false;

  template <router_config c>
  static auto check() {
    static_assert(!follows_a_list,
                  "a rule over a batch needs a policy below it that chooses by what experts are worth, because experts that a list names, as for "
                  "replay and hash, stay who they are whatever the step keeps");
    if constexpr (requires { Base::template check<c>(); }) Base::template check<c>();
  }

  /// select_batch has cut as Base does already: once more could be too much.
  template <class T>
  MOESAIC_FN static constexpr int cut(router_config const&, auto const& /*state*/, std::int64_t, T const*, T const*, std::int32_t const*,
                                      int found) {
    return found;
  }

 protected:
  static constexpr bool follows_a_list = [] {
    if constexpr (requires { Base::listed; }) return Base::listed;
    else return false;
  }();
  /// Whether Base chooses as `standard` does, so that a list in order of choice is its choice: by itself, or where it protects nobody.
  template <class T>
  static constexpr bool selects_largest = selection::selects_largest<T, Base, state>();
  /// Whether Base has a cut of its own.
  template <class T>
  static constexpr bool cuts = [] {
    using hook = int (*)(router_config const&, state const&, std::int64_t, T const*, T const*, std::int32_t const*, int);
    if constexpr (requires { static_cast<hook>(&Base::template cut<T>); })
      return static_cast<hook>(&Base::template cut<T>) != static_cast<hook>(&standard::template cut<T>);
    else return true;
  }();

  /// Whether the choice is made of logits: a price comes off these, and off the logarithm of any other.
  MOESAIC_FN static constexpr bool chooses_by_logit(router_config const& c, auto const& s) {
    if constexpr (requires { Base::prices_logits(s); })
      if (Base::prices_logits(s)) return true;
    return scores_are_logits(c);
  }

  /// What turns scores of one token into gains: (gain of score − shift) / whole.
  template <class T>
  struct measure {
    T shift = T(0), whole = T(1);
  };

  MOESAIC_FN static constexpr bool softmax_comes_after(router_config const& c) {
    return scores_are_logits(c) && c.score == moesaic::score::softmax;
  }

  /// What token t gains by expert e, 0 where it is forbidden.
  template <class T>
  MOESAIC_FN static T gain_of(router_config const& c, auto const& s, routing_batch<T> const& batch, std::int64_t t, std::int32_t e,
                              measure<T> const& m) {
    if (!(batch.choice(t, e) > -infinity<T>)) return T(0);
    T const score = batch.scores(t, e) - m.shift;
    if constexpr (requires { Base::gain(c, s, routing_site{}, score); }) return Base::gain(c, s, routing_site{batch.first + t, e}, score) / m.whole;
    else if (softmax_comes_after(c)) return std::exp(score) / m.whole;
    T const weight = c.position == score_position::after_top_k ? Base::score_of(c.score, score) : score;
    return weight > T(0) ? weight / m.whole : T(0);
  }

  /// Gains as scores: of a softmax that comes after top-k, its probability among all experts.
  template <class T>
  MOESAIC_FN static measure<T> plain_measure(router_config const& c, auto const& s, routing_batch<T> const& batch, std::int64_t t) {
    measure<T> m;
    if (!softmax_comes_after(c)) return m;
    m.shift = largest_score(c, batch, t);
    T sum = T(0);
    for (std::int32_t e = 0; e < c.experts; ++e) sum += gain_of(c, s, batch, t, e, m);
    m.whole = sum > T(0) ? sum : T(1);
    return m;
  }

  /// Gains as shares of what the token gains by its plain choice, the `count` experts `ids`.
  template <class T>
  MOESAIC_FN static measure<T> share_measure(router_config const& c, auto const& s, routing_batch<T> const& batch, std::int64_t t,
                                             std::int32_t const* ids, int count) {
    measure<T> m;
    if (softmax_comes_after(c)) m.shift = largest_score(c, batch, t);
    T sum = T(0);
    for (int i = 0; i < count; ++i) sum += gain_of(c, s, batch, t, ids[i], m);
    m.whole = sum > T(0) ? sum : T(1);
    return m;
  }

  /// What a rule needs that keeps experts by a sum over tokens.
  template <class T>
  struct sums {
    list<std::uint8_t> kept;               // [experts]
    list<double> sum;                      // [experts]
    list<measure<T>> measures;             // [tokens]
    view<T> rows;                          // [tokens, experts]
  };
  template <class T>
  MOESAIC_FN static constexpr sums<T> carve_sums(arena& memory, router_config const& c, std::int64_t tokens) {
    return {memory.take<std::uint8_t>(c.experts), memory.take<double>(c.experts), memory.take<measure<T>>(tokens), memory.take<T>(tokens, c.experts)};
  }

  /// As a term of a sum over tokens.
  MOESAIC_FN static constexpr double term(double x, std::int64_t tokens) {
    double const grid = tokens > 1 ? 0x1.8p12 : 0;         // one token: nothing to add, and its smallest scores still differ
    return (x + grid) - grid;
  }

  /// A list a state may have: empty, or an entry an expert.
  static constexpr status fits_experts(router_config const& c, std::int64_t size, const char* what) {
    return size == 0 || size == c.experts ? status{} : invalid(what, c.experts, size);
  }

  /// A price or a count: not negative, and no NaN. A status has whole numbers only, so what was found is told as −1.
  static constexpr status fits_from_zero(double x, const char* what) { return x >= 0 ? status{} : invalid(what, 0, -1); }

  MOESAIC_FN static constexpr float cost_of(list<const float> cost, std::int32_t e) { return cost.empty() ? 1.0f : cost[e]; }

  /// Every token's choice as Base has it.
  template <class T, class Group>
  MOESAIC_FN static void choose_plain(router_config const& c, Group const& g, auto const& s, routing_batch<T> const& batch,
                                      routing_slots<T> const& slots) {
    auto const width = static_cast<int>(slots.ids.columns);
    for (std::int64_t t = g.rank(); t < batch.choice.rows; t += g.size()) {
      int found = 0;
      if (batch.counts(t)) {
        auto* const ids = slots.ids.row(t);
        found = Base::select(c, alone_of(g), s, batch.first + t, batch.scores.row(t), batch.choice.row(t), width, ids);
        found = cut_as_base(c, s, batch, t, ids, found);
      }
      slots.count[t] = found;
    }
    g.sync();
  }

  /// Every token's choice inside the experts kept [experts], as many as `slots` holds now; rows [tokens, experts] is memory.
  template <class T, class Group>
  MOESAIC_FN static void choose_inside(router_config const& c, Group const& g, auto const& s, routing_batch<T> const& batch,
                                       routing_slots<T> const& slots, list<const std::uint8_t> kept, view<T> rows) {
    for (std::int64_t t = g.rank(); t < batch.choice.rows; t += g.size())
      choose_token_inside(c, g, s, batch, slots, t, rows.row(t), [&](std::int32_t e) { return kept[e] != 0; });
    g.sync();
  }
  template <class T, class Group, class Kept>
  MOESAIC_FN static void choose_token_inside(router_config const& c, Group const& g, auto const& s, routing_batch<T> const& batch,
                                             routing_slots<T> const& slots, std::int64_t t, T* row, Kept&& kept) {
    auto* const ids = slots.ids.row(t);
    int const plain = slots.count[t], width = static_cast<int>(slots.ids.columns);
    bool stands = true;
    for (int i = 0; i < plain; ++i) stands = stands && kept(ids[i]);
    if (stands) return;
    auto const best = ids[0];
    int found = select_inside(c, g, s, batch, t, cuts<T> ? width : plain, row, ids, kept);
    if (found == 0) ids[0] = best, found = 1;
    else found = cut_as_base(c, s, batch, t, ids, found);
    slots.count[t] = found < plain ? found : plain;
  }
  template <class T>
  MOESAIC_FN static int cut_as_base(router_config const& c, auto const& s, routing_batch<T> const& batch, std::int64_t t,
                                    std::int32_t const* ids, int found) {
    return found > 0 ? Base::cut(c, s, batch.first + t, batch.scores.row(t), batch.choice.row(t), ids, found) : 0;
  }
  template <class T, class Group, class Kept>
  MOESAIC_FN static int select_inside(router_config const& c, Group const& g, auto const& s, routing_batch<T> const& batch, std::int64_t t, int most,
                                      T* row, std::int32_t* ids, Kept&& kept) {
    auto const* const choice = batch.choice.row(t);
    for (std::int32_t e = 0; e < c.experts; ++e) row[e] = kept(e) ? choice[e] : -infinity<T>;
    return Base::select(c, alone_of(g), s, batch.first + t, batch.scores.row(t), static_cast<T const*>(row), most, ids);
  }

  /// Calls f(t, e) for the first `most` choices of every token, each expert's by one member of the group, so that it may add without atomics.
  template <class T, class Group, class F>
  MOESAIC_FN static void each_choice(Group const& g, routing_slots<T> const& slots, int most, F&& f) {
    for (std::int64_t t = 0; t < slots.ids.rows; ++t) {
      int const n = slots.count[t] < most ? slots.count[t] : most;
      for (int i = 0; i < n; ++i) {
        auto const e = slots.ids(t, i);
        if (e % g.size() == g.rank()) f(t, e);
      }
    }
  }

  template <class Group>
  MOESAIC_FN static void clear(Group const& g, auto const& values) {
    for (std::int64_t i = g.rank(); i < values.size; i += g.size()) values[i] = {};
    g.sync();
  }

  /// Bytes of the memory that Carve(arena, config, tokens) takes, or Base's if that is more: the two are never in use together.
  template <class Carve>
  static constexpr std::int64_t bytes_of(router_config const& c, std::int64_t tokens, Carve&& carve) {
    arena counted;
    carve(counted, c, tokens);
    auto const own = static_cast<std::int64_t>(counted.used() + arena::alignment);
    auto const below = batch_bytes_of<Base>(c, tokens);
    return own > below ? own : below;
  }

 private:
  MOESAIC_FN static constexpr bool scores_are_logits(router_config const& c) {
    if constexpr (requires { Base::logit_scores; })
      if (Base::logit_scores) return true;
    return c.position == score_position::after_top_k || c.score == moesaic::score::identity;
  }
  /// Of the experts that the token may have: one that it may not, far above, would leave them all nothing.
  template <class T>
  MOESAIC_FN static T largest_score(router_config const& c, routing_batch<T> const& batch, std::int64_t t) {
    T largest = -infinity<T>;
    for (std::int32_t e = 0; e < c.experts; ++e)
      if (batch.choice(t, e) > -infinity<T> && batch.scores(t, e) > largest) largest = batch.scores(t, e);
    return largest;
  }
};

}  // namespace moesaic::routing
