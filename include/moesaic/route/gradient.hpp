// Gradient by the combine weights -> gradient by the router's logits, for every rule that a router_config describes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic {
namespace routing {

/// d score / d logit of the scores that take one logit each; 1 for the others. Of relu 0 at 0.
template <class T>
MOESAIC_FN T score_slope(score kind, T z) {
  switch (kind) {
    case score::sigmoid: return sigmoid(z) * sigmoid(-z);                                     // 1 − σ(z) would lose its digits
    case score::sqrt_softplus: {
      T const root = standard::score_of(kind, z);
      return root > T(0) ? sigmoid(z) / (T(2) * root) : T(0);
    }
    case score::relu: return z > T(0) ? T(1) : T(0);
    default: return T(1);
  }
}

/// The derivative of `standard::weigh` after `standard::score`, one token: adds d loss / d logits to logit_gradient [experts]. logits
/// [experts]; ids, weight_gradient [slots]: who was weighed, −1 = unused, and d loss / d weight = ⟨d loss / d out, out of that expert⟩.
/// The choice itself has no gradient, so the logits of other experts get one only through a softmax over all that is not renormalised.
/// sum_epsilon is taken to be small beside the sum. A chosen logit must be finite.
/// Softmax kept as it is: Switch (arXiv 2101.03961), OLMoE, DeepSeek-V2; renormalised, or after top-k: Mixtral, Qwen3, gpt-oss; sigmoid
/// renormalised and scaled: DeepSeek-V3; sigmoid alone: Llama 4, where it scales an expert's input x and d loss / d weight is ⟨x, d loss /
/// d input⟩; sqrt-softplus: DeepSeek-V4; ReLU: ReMoE (arXiv 2412.14711).
template <class T, class Group>
MOESAIC_FN void weigh_gradient(router_config const& c, Group const& g, T const* logits, std::int32_t const* ids, int slots,
                               T const* weight_gradient, T* logit_gradient) {
  if (c.weights == combine_weight::ones) return;
  T const scale = static_cast<T>(c.routed_scale), cap = static_cast<T>(c.logit_softcap);
  bool const of_all = c.position == score_position::before_top_k, softmax = c.score == score::softmax;
  auto const logit = [&](int e) { return c.logit_softcap != 0.0 ? standard::soft_cap(cap, logits[e]) : logits[e]; };
  auto const add = [&](int e, T by_logit) {
    if (c.logit_softcap != 0.0 && by_logit != T(0)) {                  // a logit of −inf stays out
      T const bend = logit(e) / cap;
      by_logit *= T(1) - bend * bend;
    }
    logit_gradient[e] += by_logit;
  };

  T top = T(0), all = T(1);                                            // of a softmax; other scores take their logit alone
  if (softmax) {
    top = -infinity<T>, all = T(0);
    int const n = of_all ? c.experts : slots;
    auto const member = [&](int i) { return of_all ? i : ids[i]; };
    for (int i = g.rank(); i < n; i += g.size())
      if (member(i) >= 0 && logit(member(i)) > top) top = logit(member(i));
    top = g.max(top);
    for (int i = g.rank(); i < n; i += g.size())
      if (member(i) >= 0) all += std::exp(logit(member(i)) - top);
    all = g.sum(all);
  }
  auto const score = [&](int e) { return softmax ? std::exp(logit(e) - top) / all : standard::score_of(c.score, logit(e)); };

  T sum = T(0), dot = T(0);                                            // Σ s and Σ q s over the chosen
  for (int i = g.rank(); i < slots; i += g.size())
    if (ids[i] >= 0) sum += score(ids[i]), dot += weight_gradient[i] * score(ids[i]);
  sum = g.sum(sum) + static_cast<T>(c.sum_epsilon), dot = g.sum(dot);
  bool const held = c.renormalize && sum < static_cast<T>(c.sum_floor);   // at the floor the divisor does not move
  T const divisor = held ? static_cast<T>(c.sum_floor) : c.renormalize && sum != T(0) ? sum : T(1);   // scores that are all 0 stay 0

  // d loss / d s_e of the chosen is factor (q_e − shared); a softmax takes off Σ s · (d loss / d s) again, `back`, from all it is over.
  T const factor = scale / divisor, shared = c.renormalize && !held ? dot / divisor : T(0);
  T const back = !softmax || (c.renormalize && !held) ? T(0) : factor * dot;
  if (softmax && of_all && back != T(0)) {
    for (int e = g.rank(); e < c.experts; e += g.size()) add(e, -score(e) * back);
    g.sync();
  }
  for (int i = g.rank(); i < slots; i += g.size()) {
    if (ids[i] < 0) continue;
    int const e = ids[i];
    T const by_score = factor * (weight_gradient[i] - shared);
    add(e, softmax ? score(e) * (by_score - (of_all ? T(0) : back)) : by_score * score_slope(c.score, logit(e)));
  }
}

}  // namespace routing

/// The same for a batch: adds d loss / d router_logits to gradient [tokens, experts]. router_logits [tokens, experts]; ids, weight_gradient
/// [tokens, slots], ids as weighed: where capacity took a choice away afterwards, its expert with a weight gradient of 0. Tokens without a
/// choice (padding, logits that are not finite) get nothing.
template <class T>
status router_gradient(router_config const& c, view<const T> router_logits, view<const std::int32_t> ids, view<const T> weight_gradient,
                       view<T> gradient) {
  if (router_logits.columns != c.experts) return invalid("router_logits must have a column an expert", c.experts, router_logits.columns);
  if (ids.rows != router_logits.rows) return invalid("ids must have a row a token", router_logits.rows, ids.rows);
  if (weight_gradient.rows != ids.rows) return invalid("weight_gradient must have a row a token", ids.rows, weight_gradient.rows);
  if (weight_gradient.columns != ids.columns)
    return invalid("weight_gradient must have a column a slot", ids.columns, weight_gradient.columns);
  if (gradient.rows != router_logits.rows) return invalid("the gradient must have a row a token", router_logits.rows, gradient.rows);
  if (gradient.columns != c.experts) return invalid("the gradient must have a column an expert", c.experts, gradient.columns);
  for (std::int64_t t = 0; t < ids.rows; ++t) {
    bool any = false;
    for (std::int64_t i = 0; i < ids.columns; ++i) {
      if (ids(t, i) >= c.experts) return {status_code::out_of_range, "an expert id must be one of the experts", c.experts, ids(t, i)};
      any |= ids(t, i) >= 0;
    }
    if (any)
      routing::weigh_gradient(c, serial_group{}, router_logits.row(t), ids.row(t), static_cast<int>(ids.columns), weight_gradient.row(t),
                              gradient.row(t));
  }
  return {};
}

}  // namespace moesaic
