// Who keeps a budget: prices that follow the mean cost, and rules for one token's own (a sum that may not be passed, a worth to be reached).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/route/cost_aware.hpp>

namespace moesaic {

/// A fixed price is a keeper that learns nothing.
struct fixed_price {
  double price = 0;
  constexpr status observe(double /*mean*/) { return {}; }
};

/// A mean budget by dual steps: λ ← [λ + η (c̄ − C̄)]₊ after every call, c̄ what its tokens cost in the mean. For separable costs the mean
/// cost falls with λ, so the price settles where the budget is met, or at 0 where the plain router stays below it. With `proportional` the
/// price is [λ + K (c̄ − C̄)]₊: it answers sooner and swings less.
/// λ (`dual`) is score per microsecond; a step that is too long makes it swing by about η times the noise of c̄.
struct mean_budget {
  double target = 0;                     ///< C̄, microseconds a token and layer
  double step = 0.05;                    ///< η, score per microsecond for each microsecond of excess
  double proportional = 0;               ///< K, the same
  double most = 1e6;                     ///< no price is higher
  double dual = 0;
  double price = 0;                      ///< for the next call

  /// `mean`: of the last call. `cheapest`: what the cheapest choice would cost in the mean (cheapest_cost), −infinity if unknown.
  /// Errors: a mean that is NaN, and the price stays; a budget that no price meets, known by `cheapest`, or by the dual at `most`. The price
  /// is then `most`, the best that can be done, and a later call may find the budget met.
  constexpr status observe(double mean, double cheapest = -infinity<double>) {
    if (mean != mean) return invalid("the mean cost must be a number", 0, 0);
    auto const excess = mean - target;
    auto const within = [&](double x) { return x > most ? most : x > 0 ? x : 0; };
    dual = within(dual + step * excess);
    price = within(dual + proportional * excess);
    if (!(cheapest > target) && !(dual >= most && excess > 0)) return {};
    price = dual = most;
    return invalid("the mean budget must be at least what the cheapest experts cost (nanoseconds)", nanoseconds(cheapest > target ? cheapest : mean),
                   nanoseconds(target));
  }

 private:
  static constexpr std::int64_t nanoseconds(double us) { return us < 9e15 && us > -9e15 ? static_cast<std::int64_t>(us * 1e3) : 0; }
};

/// The mean over tokens of what the k cheapest of costs [tokens, experts] sum to (a stride of 0: one row for all): no budget below it can
/// be met.
template <class T>
constexpr double cheapest_cost(view<const T> costs, int k) {
  auto const experts = static_cast<int>(costs.columns);
  auto const rows = costs.stride == 0 && costs.rows > 0 ? 1 : costs.rows;
  double sum = 0;
  for (std::int64_t t = 0; t < rows; ++t) {
    auto const all = [](std::int32_t) { return true; };
    auto const cheap = [&](std::int32_t e) { return -costs(t, e); };
    std::int32_t last = -1;
    for (int i = 0; i < k && i < experts; ++i)
      if (last = moesaic::detail::next_best(experts, cheap, all, last); last >= 0) sum += static_cast<double>(costs(t, last));
  }
  return rows == 0 ? 0 : sum / static_cast<double>(rows);
}

/// The least price in [0, most], but for 2^−steps of it, whose mean cost is within the target: mean_cost_at(λ) -> microseconds, which must
/// not rise with λ. Bisection over recorded logits, and the oracle of mean_budget; `most` where none is.
template <class F>
constexpr double price_for_budget(F&& mean_cost_at, double target, double most, int steps = 50) {
  if (mean_cost_at(0.0) <= target) return 0;
  double low = 0, high = most;
  for (int i = 0; i < steps; ++i) {
    auto const middle = (low + high) / 2;
    (mean_cost_at(middle) <= target ? high : low) = middle;
  }
  return high;
}

namespace routing {

/// A hard budget a token: at most `slots` experts whose charges (a cost source, in microseconds) sum to at most `budget`. Base's own list
/// stands if it keeps the budget, so an infinite one is Base bit for bit. Otherwise the experts are chosen anew, not empty and of the largest
/// sum of choice that fits (what Base protects included: a hard budget comes first); a token for which nothing fits gets none. Up to
/// `exact_experts` experts by looking at all lists, of equal ones the fewer, then the lower experts; beyond, the better of two greedy lists,
/// by choice and by choice per charge, which may lie below the best.
///
/// Costs nothing but the sum for tokens within budget; for others Σ_j C(experts, j), or 4 · slots passes over the experts. Helps where a token
/// has a deadline of its own: real time, not means. Meant for choices that are positive, as scores are. Causal and batch-invariant as Base.
template <class Charge, class Base = standard>
struct knapsack : Base {
  static_assert(cost_source<Charge>,
                "a charge must be a cost source, with a `state` and `static T cost(state const&, moesaic::routing_site)`, because the budget "
                "is a sum of them");
  static_assert(!Base::coupled, "knapsack needs a separable base, because with a coupled one no token chooses by itself");
  using source = detail::source_or_none<Charge>;
  static constexpr int exact_experts = 16;

  struct state : Base::state {
    typename source::state charge = {};
    float budget = infinity<float>;   ///< microseconds a token
  };
  static constexpr status fits(router_config const& c, state const& s, std::int64_t tokens) {
    bool const unbounded = s.budget == infinity<float>;
    if (auto fits = unbounded ? status{} : source_fits<source>(s.charge, c.experts, tokens); !fits) return fits;
    return Base::fits(c, s, tokens);
  }

  template <class T, class Group>
  MOESAIC_FN static int select(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* scores, T const* choice,
                               int slots, std::int32_t* ids) {
    int found = Base::select(c, g, s, token, scores, choice, slots, ids);
    if (s.budget == infinity<float>) return found;
    T const budget = static_cast<T>(s.budget);
    auto const charge = [&](std::int32_t e) { return cost_at<source, T>(s.charge, {token, e}); };
    T sum = T(0);
    for (int i = 0; i < found; ++i) sum += charge(ids[i]);
    if (sum <= budget) return found;                       // false for NaN, so what is not a number fits nothing

    g.sync();
    found = 0;
    if (g.rank() == 0) {
      if (c.experts <= exact_experts) {
        found = best_list(c.experts, choice, charge, budget, slots, ids);
      } else {
        auto const worth = [&](std::int32_t e) { return choice[e]; };
        auto const ratio = [&](std::int32_t e) {
          T const x = charge(e);
          return x > T(0) ? choice[e] / x : choice[e] > T(0) ? infinity<T> : choice[e];
        };
        T by_worth = T(0), by_ratio = T(0);
        greedy(c.experts, choice, charge, budget, worth, slots, static_cast<std::int32_t*>(nullptr), by_worth);
        greedy(c.experts, choice, charge, budget, ratio, slots, static_cast<std::int32_t*>(nullptr), by_ratio);
        found = by_ratio > by_worth ? greedy(c.experts, choice, charge, budget, ratio, slots, ids, by_ratio)
                                    : greedy(c.experts, choice, charge, budget, worth, slots, ids, by_worth);
      }
      for (int i = found; i < slots; ++i) ids[i] = -1;
      moesaic::detail::list_best_first<T>([&](std::int32_t e) { return choice[e]; }, found, ids);
    }
    g.sync();
    return g.max(found);
  }

 private:
  template <class T, class Charges>
  MOESAIC_FN static int best_list(int experts, T const* choice, Charges const& charge, T budget, int slots, std::int32_t* ids) {
    std::uint32_t best = 0;
    T largest = -infinity<T>;
    for (int n = 1; n <= slots && n <= experts; ++n)
      for (std::uint32_t set = (1u << n) - 1; set < (1u << experts);) {
        T worth = T(0), sum = T(0);
        for (int e = 0; e < experts; ++e)
          if ((set >> e & 1u) != 0) worth += choice[e], sum += charge(e);
        if (sum <= budget && worth > largest) best = set, largest = worth;
        auto const low = set & (~set + 1), carried = set + low;          // the next set of n experts in ascending order
        set = (((carried ^ set) >> 2) / low) | carried;
      }
    int found = 0;
    for (std::int32_t e = 0; e < experts; ++e)
      if ((best >> e & 1u) != 0) ids[found++] = e;
    return found;
  }

  /// Takes by falling key whoever still fits, after the first only what is worth something.
  template <class T, class Charges, class Key>
  MOESAIC_FN static int greedy(int experts, T const* choice, Charges const& charge, T budget, Key const& key, int slots, std::int32_t* ids, T& worth) {
    int found = 0;
    T left = budget;
    worth = T(0);
    auto const fits = [&](std::int32_t e) {
      return choice[e] > (found == 0 ? -infinity<T> : T(0)) && charge(e) <= left;
    };
    for (std::int32_t last = -1; found < slots; ++found) {
      last = moesaic::detail::next_best(experts, key, fits, last);
      if (last < 0) break;
      if (ids != nullptr) ids[found] = last;
      worth += choice[last];
      left -= charge(last);
    }
    return found;
  }
};

/// Variable k: an expert is used only if its choice is above that of a null expert, which costs nothing and does nothing (AdaMoE, arXiv
/// 2406.13233, has such experts as weights). Over cost_aware that is u > θ: who is not worth its price is left out. Never of more than
/// `slots` experts; with −infinity, the default, it is Base bit for bit. A token may get none, protected ones included.
/// Costs nothing. Helps where tokens differ in how many experts they need. Causal and batch-invariant as Base.
template <class Base = standard>
struct null_expert : Base {
  struct state : Base::state {
    float null_choice = -infinity<float>;   ///< θ, in units of choice
  };
  template <class T>
  MOESAIC_FN static int cut(router_config const& c, state const& s, std::int64_t token, T const* scores, T const* choice, std::int32_t const* ids,
                            int found) {
    found = Base::cut(c, s, token, scores, choice, ids, found);
    if (s.null_choice == -infinity<float>) return found;
    int count = 0;
    while (count < found && choice[ids[count]] > static_cast<T>(s.null_choice)) ++count;
    return count;
  }
};

/// Variable k: the fewest experts, best first, that hold the share p of the softmax of the choice, with the one that crosses it (top-p, arXiv
/// 2403.07652, on a penalised distribution). For a choice made of logits: cost_aware<..., priced::logit>, or scores after top-k. Never of
/// more than `slots` experts; at 1, the default, it is Base bit for bit; at 0 a token gets one expert.
/// Costs an exponential an expert. Helps where some tokens are sure of few experts. Causal and batch-invariant as Base.
template <class Base = standard>
struct top_p_of_choice : Base {
  struct state : Base::state {
    float share = 1;                     ///< p
  };
  template <class T>
  MOESAIC_FN static int cut(router_config const& c, state const& s, std::int64_t token, T const* scores, T const* choice, std::int32_t const* ids,
                            int found) {
    found = Base::cut(c, s, token, scores, choice, ids, found);
    if (s.share >= 1 || found == 0) return found;
    T const top = choice[ids[0]];
    T sum = T(0), held = T(0);
    for (int e = 0; e < c.experts; ++e) sum += std::exp(choice[e] - top);
    int count = 0;
    do held += std::exp(choice[ids[count++]] - top);
    while (count < found && held < static_cast<T>(s.share) * sum);
    return count;
  }
};

}  // namespace routing
}  // namespace moesaic
