// Routing as a policy: logits -> scores -> price -> top-k -> weights. Every hook can be replaced by one's own; the kernels stay.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/spec.hpp>

namespace moesaic {

/// Who runs a hook together: one thread on the host, a warp on a device. Loops over experts step by size() from rank(), and sums and
/// maxima over experts go through it. Every member of the group gets the result.
struct serial_group {
  MOESAIC_FN constexpr int rank() const { return 0; }
  MOESAIC_FN constexpr int size() const { return 1; }
  template <class T>
  MOESAIC_FN constexpr T sum(T mine) const { return mine; }
  template <class T>
  MOESAIC_FN constexpr T max(T mine) const { return mine; }
  /// What members wrote before is seen by all after.
  MOESAIC_FN constexpr void sync() const {}
};

/// Where in the batch a hook is.
struct routing_site {
  std::int64_t token = 0;
  std::int32_t expert = 0;
};

/// The batch as a coupled policy sees it: T is fp32, or fp64 for the reference. Rows of tokens whose logits are not finite hold NaN.
template <class T>
struct routing_batch {
  view<const T> scores;       ///< [tokens, experts]
  view<const T> choice;       ///< [tokens, experts] score − price, −inf where forbidden
};

/// Who is chosen: `slots` a token, best first; unused slots hold −1 and weight 0, so variable k, drops and expert choice fit one shape.
template <class T>
struct routing_slots {
  view<std::int32_t> ids;     ///< [tokens, slots] expert, −1 = unused
  view<T> weights;            ///< [tokens, slots] combine weight
  list<std::int32_t> count;   ///< [tokens] slots in use
};

namespace routing {

/// The policy that a router_config describes. Derive from it and hide the hooks that differ:
///
///   struct thrifty : moesaic::routing::standard {
///     struct state { moesaic::list<const float> cost; float price = 0; };                       // [experts], per unit of score
///     template <class T>
///     MOESAIC_FN static T price(moesaic::router_config const&, state const& s, moesaic::routing_site at, T) {
///       return static_cast<T>(s.price * s.cost[at.expert]);
///     }
///   };
///
/// A policy is an empty type. What it knows at run time is its `state`, a plain struct of views that travels with the call; the hooks here
/// take any, so that a derived policy's own fits.
struct standard {
  struct state {};
  static constexpr bool coupled = false;   ///< true: this policy has select_batch

  /// Expert slots that a token has room for.
  static constexpr int slots(router_config const& c) { return c.top_k; }

  /// logits [experts] -> scores [experts]. Softmax, sigmoid or identity; after_top_k leaves the logits to `weigh`.
  template <class T, class Group>
  MOESAIC_FN static void score(router_config const& c, Group const& g, auto const& /*state*/, std::int64_t /*token*/, T const* logits,
                               T* scores) {
    bool const later = c.position == score_position::after_top_k;
    if (c.score == moesaic::score::softmax && !later) {
      softmax(g, c.experts, logits, scores);
    } else {
      for (int e = g.rank(); e < c.experts; e += g.size())
        scores[e] = c.score == moesaic::score::sigmoid && !later ? sigmoid(logits[e]) : logits[e];
    }
  }

  /// What choosing an expert costs, in units of score: subtracted for selection only. A balance bias is a negative price.
  template <class T>
  MOESAIC_FN static T price(router_config const&, auto const& /*state*/, routing_site, T /*score*/) { return T(0); }

  /// Forbids experts of one token by setting their choice to −inf (groups, masks), or lifts some above all others. scores and choice are
  /// [experts].
  template <class T, class Group>
  MOESAIC_FN static void limit(router_config const&, Group const&, auto const& /*state*/, std::int64_t /*token*/, T const* /*scores*/,
                               T* /*choice*/) {}

  /// How many of the `found` chosen experts are used, from the first on (variable k; 0 is legal). scores, choice [experts]; ids [found], best
  /// first.
  template <class T>
  MOESAIC_FN static int cut(router_config const&, auto const& /*state*/, std::int64_t /*token*/, T const* /*scores*/, T const* /*choice*/,
                            std::int32_t const* /*ids*/, int found) {
    return found;
  }

  /// Combine weights of the `count` chosen experts, from the plain scores alone. scores [experts]; ids, weights [count].
  template <class T, class Group>
  MOESAIC_FN static void weigh(router_config const& c, Group const& g, auto const& /*state*/, std::int64_t /*token*/, T const* scores,
                               std::int32_t const* ids, int count, T* weights) {
    bool const ones = c.weights == combine_weight::ones;
    for (int i = g.rank(); i < count; i += g.size()) weights[i] = ones ? T(1) : scores[ids[i]];
    if (ones) return;
    if (c.position == score_position::after_top_k) {
      if (c.score == moesaic::score::softmax) softmax(g, count, weights, weights);
      if (c.score == moesaic::score::sigmoid)
        for (int i = g.rank(); i < count; i += g.size()) weights[i] = sigmoid(weights[i]);
    }
    if (c.renormalize) {
      T sum = T(0);
      for (int i = g.rank(); i < count; i += g.size()) sum += weights[i];
      sum = g.sum(sum) + T(1e-20);                                     // as DeepSeek-V3: scores that all underflow give 0, not NaN
      for (int i = g.rank(); i < count; i += g.size()) weights[i] /= sum;
    }
    if (c.routed_scale != 1.0)
      for (int i = g.rank(); i < count; i += g.size()) weights[i] *= static_cast<T>(c.routed_scale);
  }

  /// p_i = exp(z_i − max z) / Σ. `in` and `out` may be the same.
  template <class T, class Group>
  MOESAIC_FN static void softmax(Group const& g, int n, T const* in, T* out) {
    T largest = -std::numeric_limits<T>::infinity();
    for (int i = g.rank(); i < n; i += g.size()) largest = in[i] > largest ? in[i] : largest;
    largest = g.max(largest);
    T sum = T(0);
    for (int i = g.rank(); i < n; i += g.size()) sum += out[i] = std::exp(in[i] - largest);
    sum = g.sum(sum);
    for (int i = g.rank(); i < n; i += g.size()) out[i] /= sum;
  }
};

}  // namespace routing

/// Hooks a routing policy must have, by inheritance from routing::standard or written out.
template <class P, class T = float>
concept routing_policy = requires(router_config const& c, serial_group const& g, typename P::state const& s, T* x, T const* in,
                                  std::int32_t* ids) {
  { P::coupled } -> std::convertible_to<bool>;
  { P::slots(c) } -> std::convertible_to<int>;
  P::score(c, g, s, std::int64_t{}, in, x);
  { P::price(c, s, routing_site{}, T{}) } -> std::convertible_to<T>;
  P::limit(c, g, s, std::int64_t{}, in, x);
  { P::cut(c, s, std::int64_t{}, in, in, ids, int{}) } -> std::convertible_to<int>;
  P::weigh(c, g, s, std::int64_t{}, in, ids, int{}, x);
};

/// A policy whose choice for one token depends on the other tokens of the batch: `static constexpr bool coupled = true`, and one more hook,
/// called once a batch instead of the per-token top-k. It fills ids and count of every token (best first); weights come from `weigh`:
///   static void select_batch(router_config const&, Group const&, state const&, routing_batch<T> const&, routing_slots<T> const&,
///                            list<std::byte> memory);
/// and may ask for memory with  static std::int64_t batch_bytes(router_config const&, std::int64_t tokens).
/// Rows of tokens whose logits are not finite hold NaN. Inference only: the output of a sequence then depends on its batch mates.
template <class P, class T = float>
concept coupled_policy =
    routing_policy<P, T> && P::coupled &&
    requires(router_config const& c, serial_group const& g, typename P::state const& s, routing_batch<T> const& b, routing_slots<T> const& slots) {
      P::select_batch(c, g, s, b, slots, list<std::byte>{});
    };

template <class P>
constexpr std::int64_t batch_bytes_of(router_config const& c, std::int64_t tokens) {
  if constexpr (requires { P::batch_bytes(c, tokens); }) return P::batch_bytes(c, tokens);
  return 0;
}

namespace detail {
template <class Policy, bool is_policy>
auto check_policy() {
  static_assert(is_policy, "routing must be a policy with the hooks score, price, limit, cut and weigh, with slots, coupled and a type named state, because "
                           "every token passes them: derive it from moesaic::routing::standard");
}
template <class Policy, class T, bool is_policy = routing_policy<Policy, T>>
struct checked_policy {
  using checked = decltype(check_policy<Policy, is_policy>());
  using type = std::conditional_t<is_policy, Policy, routing::standard>;   // after the sentence, something to go on with
};
}  // namespace detail

/// The policy of a spec: its own `routing`, or what its configuration describes.
template <class Spec>
using policy_of = typename detail::checked_policy<routing_of<Spec, routing::standard>,
                                                  accumulator<scalar_of<validated<Spec>::config.storage.activations>>>::type;

}  // namespace moesaic
