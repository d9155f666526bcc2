// One token through the hooks: logits [experts] -> expert ids and weights [slots]. Host and device alike; no memory of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic {

/// Scores and choice of one token. logits, scores, choice [experts], three memories; score_bias [experts] or empty. An expert whose logit
/// is −inf is never chosen. False if a logit is NaN or +inf, or all are −inf, or a bias or price makes a choice NaN: then scores and choice
/// hold NaN, so that no later step can choose by accident.
template <class Policy, class T, class Group>
MOESAIC_FN bool score_token(router_config const& c, Group const& g, typename Policy::state const& state, list<const float> score_bias,
                            std::int64_t token, T const* logits, T* scores, T* choice) {
  int bad = 0, open = 0;
  for (int e = g.rank(); e < c.experts; e += g.size()) {
    bad |= !(logits[e] < infinity<T>);
    open |= logits[e] > -infinity<T>;
  }
  bool finite = g.max(bad) == 0 && g.max(open) != 0;
  if (finite) {
    Policy::score(c, g, state, token, logits, scores);
    g.sync();
    T const* const worth = worth_of<Policy>(c, g, state, token, logits, static_cast<T const*>(scores), choice);
    for (int e = g.rank(); e < c.experts; e += g.size()) {
      T value = worth[e];
      if (!score_bias.empty()) value += static_cast<T>(score_bias[e]);
      value -= static_cast<T>(Policy::price(c, state, routing_site{token, e}, scores[e]));
      bad |= value != value;
      choice[e] = logits[e] > -infinity<T> ? value : logits[e];
    }
    finite = g.max(bad) == 0;
  }
  if (finite) {
    g.sync();
    Policy::limit(c, g, state, token, static_cast<T const*>(scores), choice);
  } else {
    for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = choice[e] = not_a_number<T>;
  }
  g.sync();
  return finite;
}

/// The experts of one token: ids [slots], best first, the rest −1; answers how many. A token without scores (NaN) gets none.
template <class Policy, class T, class Group>
MOESAIC_FN int select_token(router_config const& c, Group const& g, typename Policy::state const& state, std::int64_t token, T const* scores,
                            T const* choice, int slots, std::int32_t* ids) {
  if (c.experts > 0 && choice[0] == choice[0]) return Policy::select(c, g, state, token, scores, choice, slots, ids);
  for (int i = g.rank(); i < slots; i += g.size()) ids[i] = -1;
  return 0;
}

/// Cuts a token's list where the policy says, and weighs what is left. ids, weights [slots]; answers the count.
template <class Policy, class T, class Group>
MOESAIC_FN int finish_token(router_config const& c, Group const& g, typename Policy::state const& state, std::int64_t token, T const* scores,
                            T const* choice, int found, int slots, std::int32_t* ids, T* weights) {
  int const count = found > 0 ? Policy::cut(c, state, token, scores, choice, static_cast<std::int32_t const*>(ids), found) : 0;
  g.sync();                                                // all have read the ids before any of them goes
  for (int i = count + g.rank(); i < slots; i += g.size()) {
    ids[i] = -1;
    weights[i] = T(0);
  }
  if (count > 0) arrange_by<Policy>(c, g, state, token, scores, choice, count, ids);
  if (count > 0) Policy::weigh(c, g, state, token, scores, static_cast<std::int32_t const*>(ids), count, weights);
  return count;
}

}  // namespace moesaic
