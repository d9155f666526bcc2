// Routing rules of a carved model, written outside the library: a price for compute, what two prices are compared with, scores from elsewhere.
// SPDX-License-Identifier: Apache-2.0
//
// The router's logits (identity score) are predicted log energies: exp(logit) is what an expert adds to the stream. All rules weigh every
// chosen expert by one. A fixed k needs no rule of its own; these want top_k = experts, so that none is cut off before it is asked.
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/route/policy.hpp>
#include <moesaic/route/two_prices.hpp>

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

/// The same where experts differ in width: exp(logit) > price · width. Best first is what exceeds its price most.
struct priced_by_width : moesaic::routing::standard {
  struct state {
    float price = 0;                   ///< of an expert of width 1, in energy
    moesaic::list<const float> width;  ///< [experts]
  };
  template <class T>
  MOESAIC_FN static T price(moesaic::router_config const&, state const& s, moesaic::routing_site at, T) {
    return std::log(static_cast<T>(s.price) * static_cast<T>(s.width[at.expert]));
  }
  template <class T>
  MOESAIC_FN static int cut(moesaic::router_config const&, state const&, std::int64_t, T const*, T const* choice, std::int32_t const* ids, int found) {
    int count = 0;
    while (count < found && choice[ids[count]] > T(0)) ++count;
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

/// What an expert adds, by its logit.
struct predicted_energy : moesaic::routing::standard {
  template <class T>
  MOESAIC_FN static T gain(moesaic::router_config const&, auto const&, moesaic::routing_site, T logit) { return std::exp(logit); }
};

/// Two prices, in energy: one for every (token, expert) that computes, one for every expert that a step of `together` tokens has to read.
using two_prices = moesaic::routing::two_prices<predicted_energy>;
inline two_prices::state prices_of(float compute, float read, std::int64_t together = 0) {
  two_prices::state s;
  s.compute = compute, s.read = read, s.together = together;
  return s;
}

}  // namespace demo
