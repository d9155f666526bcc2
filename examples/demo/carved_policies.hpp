// Routing rules of a carved model, written outside the library: a price for compute, two prices for a batch, and scores from elsewhere.
// SPDX-License-Identifier: Apache-2.0
//
// The router's logits (identity score) are predicted log energies: exp(logit) is what an expert adds to the stream. All rules weigh every
// chosen expert by one. A fixed k needs no rule of its own; these want top_k = experts, so that none is cut off before it is asked.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include <moesaic/route/policy.hpp>

namespace demo {

/// Every expert whose predicted energy is worth more than it costs, none if none is: exp(logit) > price.
struct priced : moesaic::routing::standard {
  struct state {
    float price = 0;                   ///< of one expert, in energy: λ · width / 64
  };
  template <class T>
  MOESAIC_FN static int cut(moesaic::router_config const&, state const& s, std::int64_t, T const*, T const* choice, std::int32_t const* ids, int found) {
    auto const limit = std::log(static_cast<T>(s.price));
    int count = 0;
    while (count < found && choice[ids[count]] > limit) ++count;
    return count;
  }
};

/// Scores that somebody else has computed: the same for all tokens (stride 0, calibration's mean energies: static pruning), or the true
/// energies of each (what a perfect router would know).
struct supplied_scores : moesaic::routing::standard {
  struct state {
    moesaic::view<const float> scores; ///< [tokens, experts]
  };
  template <class T, class Group>
  MOESAIC_FN static void score(moesaic::router_config const& c, Group const& g, state const& s, std::int64_t token, T const*, T* scores) {
    for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = static_cast<T>(s.scores(token, e));
  }
};

/// The same, by price.
struct supplied_and_priced : supplied_scores {
  struct state : supplied_scores::state {
    float price = 0;
  };
  template <class T>
  MOESAIC_FN static int cut(moesaic::router_config const& c, state const& s, std::int64_t token, T const* scores, T const* choice, std::int32_t const* ids,
                            int found) {
    return priced::cut(c, priced::state{s.price}, token, scores, choice, ids, found);
  }
};

/// Two prices: one for every (token, expert) that computes, one for every expert that a step has to read. What a step gains,
///   Σ over chosen (token, expert) of (exp(logit) − compute)  −  Σ over experts in use of read,
/// separates over experts, so its exact maximum needs no search: an expert is read if its tokens' gains together exceed `read`, and then
/// each token with a gain uses it.
struct two_prices : moesaic::routing::standard {
  struct state {
    float compute = 0, read = 0;       ///< of one expert, in energy
    std::int64_t together = 0;         ///< tokens of one step
  };
  static constexpr bool coupled = true;
  template <class T>
  static void select_batch(moesaic::router_config const& c, moesaic::serial_group const&, state const& s, moesaic::routing_batch<T> const& batch,
                           moesaic::routing_slots<T> const& slots, moesaic::list<std::byte>) {
    auto const tokens = batch.choice.rows;
    for (std::int64_t t = 0; t < tokens; ++t) slots.count[t] = 0;
    for (std::int32_t e = 0; e < c.experts; ++e) {
      auto const gain = [&](std::int64_t t) {
        auto const g = std::exp(batch.choice(t, e)) - static_cast<T>(s.compute);
        return g > T(0) ? g : T(0);                        // a token without scores (NaN) gains nothing
      };
      T worth = T(0);
      for (std::int64_t t = 0; t < tokens; ++t) worth += gain(t);
      if (!(worth > static_cast<T>(s.read))) continue;
      for (std::int64_t t = 0; t < tokens; ++t)
        if (gain(t) > T(0)) insert(batch.choice.row(t), slots.ids.row(t), slots.count[t], e);
    }
  }

 private:
  // Keeps ids by falling choice; e is larger than all of them, so among equals it comes last.
  template <class T>
  static void insert(T const* choice, std::int32_t* ids, std::int32_t& count, std::int32_t e) {
    auto at = count++;
    for (; at > 0 && choice[e] > choice[ids[at - 1]]; --at) ids[at] = ids[at - 1];
    ids[at] = e;
  }
};

}  // namespace demo
