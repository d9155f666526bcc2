// Routing as a policy: logits -> scores -> price -> top-k -> weights. Every hook can be replaced by one's own; the kernels stay.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/route/top_k.hpp>

namespace moesaic {

/// Who runs a hook together: one thread on the host, a warp on a device, a block for a batch. Loops over experts step by size() from rank(), and
/// sums and maxima over experts go through it. Every member of the group gets the result; they order no memory, sync() alone does. A group may
/// bring members of its own that do a row of experts at once, softmax(n, in, out), sigmoid(n, in, out), top_k(choice, experts, slots, ids) and
/// less(n, in, factor, x, out), which is in − factor · x: the hooks use them.
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

/// A count, 0 or more, that one member finds for all, f() -> int: what f writes has one writer, and is seen by every member after.
template <class Group, class F>
MOESAIC_INLINE int found_by_one(Group const& g, F&& f) {
  int found = 0;
  if (g.rank() == 0) found = f();
  g.sync();
  return g.max(found);
}

/// One member of a group by itself, for work that each does for a token of its own: a group of one thread as it is, with what it brings.
template <class Group>
MOESAIC_FN constexpr auto alone_of(Group const& g) {
  if constexpr (requires { g.alone(); }) return g.alone();
  else return serial_group{};
}

/// Where in the batch a hook is.
struct routing_site {
  std::int64_t token = 0;
  std::int32_t expert = 0;
};

/// The batch as a coupled policy sees it: T is fp32, or fp64 for the reference. Rows of padding, and of tokens whose logits are not finite,
/// hold NaN.
template <class T>
struct routing_batch {
  view<const T> scores;       ///< [tokens, experts]
  view<const T> choice;       ///< [tokens, experts] score − price, −inf where forbidden
  std::int64_t first = 0;     ///< the call's token in row 0

  /// Whether row t is a token that takes part.
  MOESAIC_FN constexpr bool counts(std::int64_t t) const { return choice.columns > 0 && choice(t, 0) == choice(t, 0); }
};

/// Who is chosen: `slots` a token, best first; unused slots hold −1 and weight 0, so variable k, drops and expert choice fit one shape.
template <class T>
struct routing_slots {
  view<std::int32_t> ids;     ///< [tokens, slots] expert, −1 = unused
  view<T> weights;            ///< [tokens, slots] combine weight
  list<std::int32_t> count;   ///< [tokens] slots in use
};

namespace routing {

/// A policy's state with the members of fixed meaning that its rule reads, where the state below has none of that name.
template <class State>
struct state_with_padding : State {
  list<const std::uint8_t> padding = {};   ///< [tokens] 1 = a row that is no token; empty = none
};
template <class State>
  requires requires(State const& s) { s.padding; }
struct state_with_padding<State> : State {};
template <class State>
struct state_with_steps : State {
  std::int64_t together = 0;               ///< tokens of one step; 0 = the call is one step
};
template <class State>
  requires requires(State const& s) { s.together; }
struct state_with_steps<State> : State {};

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
/// take any, so that a derived policy's own fits. Two members of a state mean the same for every policy that has them:
///   list<const std::uint8_t> padding   [tokens] 1 = a row that is no token: it gets no expert and counts nowhere; empty = none;
///   std::int64_t together              tokens of one step, for rules that look at a batch: a call of several steps has their tokens one
///                                      step after another; 0 = the call is one step.
struct standard {
  static constexpr int most_groups = 64;
  struct state {};
  static constexpr bool coupled = false;          ///< true: this policy has select_batch
  static constexpr bool settles = false;          ///< true: this policy has settle_batch
  static constexpr bool batch_invariant = true;   ///< a token's experts do not depend on the other tokens of the call
  static constexpr bool causal = true;            ///< nor on later tokens of its own sequence
  static constexpr bool trainable = true;         ///< may be named by a layer whose purpose is training
  static constexpr bool listed = false;           ///< select takes experts of a list of the caller's and in its order, whatever their choice

  /// What a policy asks of the configuration: static_asserts, each a sentence with its because. A layer instantiates it.
  template <router_config c>
  static auto check() {
    static_assert(!c.group_gate, "router.group_gate needs `using routing = moesaic::routing::hierarchical<>`, because no other policy reads the gate "
                                 "of the groups");
  }
  /// Whether the views of a state are as long as a call of so many tokens needs: hooks index them without looking. A layer asks first.
  static constexpr status fits(router_config const&, auto const& /*state*/, std::int64_t /*tokens*/) { return {}; }

  /// Expert slots that a token has room for.
  MOESAIC_FN static constexpr int slots(router_config const& c) { return c.top_k; }

  /// logits [experts] -> scores [experts], which may be the same memory. after_top_k leaves the logits to `weigh`.
  template <class T, class Group>
  MOESAIC_FN static void score(router_config const& c, Group const& g, auto const& /*state*/, std::int64_t /*token*/, T const* logits,
                               T* scores) {
    if (c.logit_softcap != 0.0) {
      for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = soft_cap(static_cast<T>(c.logit_softcap), logits[e]);
      g.sync();
      logits = scores;
    }
    auto const kind = c.position == score_position::after_top_k ? moesaic::score::identity : c.score;
    if (kind == moesaic::score::softmax) return softmax(g, c.experts, logits, scores);
    if constexpr (requires { g.sigmoid(c.experts, logits, scores); })
      if (kind == moesaic::score::sigmoid) return g.sigmoid(c.experts, logits, scores);
    for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = score_of(kind, logits[e]);
  }

  /// What choosing an expert costs, in units of score: subtracted for selection only. A balance bias is a negative price.
  template <class T>
  MOESAIC_FN static T price(router_config const&, auto const& /*state*/, routing_site, T /*score*/) { return T(0); }

  /// Forbids experts of one token by setting their choice to −inf (groups, masks), or lifts some above all others. scores and choice are
  /// [experts]. Here: all but the best groups.
  template <class T, class Group>
  MOESAIC_FN static void limit(router_config const& c, Group const& g, auto const& /*state*/, std::int64_t /*token*/, T const* /*scores*/,
                               T* choice) {
    if (c.top_groups < c.groups) limit_to_groups(c, g, choice);
  }

  /// Who is chosen, at most `slots`, best first: ids [slots], the rest −1; answers how many. choice [experts], −inf where forbidden.
  template <class T, class Group>
  MOESAIC_FN static int select(router_config const& c, Group const& g, auto const& /*state*/, std::int64_t /*token*/, T const* /*scores*/,
                               T const* choice, int slots, std::int32_t* ids) {
    if constexpr (requires { g.top_k(choice, c.experts, slots, ids); }) return g.top_k(choice, c.experts, slots, ids);
    return found_by_one(g, [&] { return top_k(choice, c.experts, slots, ids); });
  }

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
      else
        for (int i = g.rank(); i < count; i += g.size()) weights[i] = score_of(c.score, weights[i]);
    }
    if (c.renormalize) {
      T sum = T(0);
      for (int i = g.rank(); i < count; i += g.size()) sum += weights[i];
      sum = g.sum(sum) + static_cast<T>(c.sum_epsilon);
      if (sum < static_cast<T>(c.sum_floor)) sum = static_cast<T>(c.sum_floor);
      if (sum == T(0)) sum = T(1);                         // scores that are all 0 stay 0
      for (int i = g.rank(); i < count; i += g.size()) weights[i] /= sum;
    }
    if (c.routed_scale != 1.0)
      for (int i = g.rank(); i < count; i += g.size()) weights[i] *= static_cast<T>(c.routed_scale);
  }

  /// The score of one logit; of softmax, which needs all, the logit.
  template <class T>
  MOESAIC_FN static T score_of(moesaic::score kind, T z) {
    switch (kind) {
      case moesaic::score::sigmoid: return sigmoid(z);
      case moesaic::score::sqrt_softplus: return std::sqrt(z > T(0) ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z)));
      case moesaic::score::relu: return z > T(0) ? z : T(0);
      default: return z;
    }
  }

  /// cap · tanh(z / cap); −inf stays: an expert that is forbidden has no share in a softmax.
  template <class T>
  MOESAIC_FN static T soft_cap(T cap, T z) { return z > -infinity<T> ? cap * std::tanh(z / cap) : z; }

  /// choice [experts]: the experts of all but the top_groups best groups are masked; of equal groups the lower stays (DeepSeek-V2, -V3).
  /// −inf stays under a mask of zero too, since that expert was forbidden before.
  template <class T, class Group>
  MOESAIC_FN static void limit_to_groups(router_config const& c, Group const& g, T* choice) {
    constexpr T never = -infinity<T>;
    T const mask = c.group_mask == moesaic::group_mask::zero ? T(0) : never;
    int const width = c.experts / c.groups;
    auto const worth = [&](int group) {
      T first = never, second = never;
      for (int e = group * width; e < (group + 1) * width; ++e) {
        T const x = choice[e], lesser = x < first ? x : first;   // branches here would be coin tosses
        first = x > first ? x : first;
        second = lesser > second ? lesser : second;
      }
      bool const alone = c.group_worth == moesaic::group_worth::max || !(second > never);   // the last one open counts, not −inf
      return alone ? first : first + second;
    };
    T worths[most_groups];
    for (int group = 0; group < c.groups; ++group) worths[group] = worth(group);
    g.sync();                                              // all have read the choice before any of it is masked
    for (int group = 0; group < c.groups; ++group) {
      int better = 0;
      for (int other = 0; other < c.groups; ++other)
        better += worths[other] > worths[group] || (worths[other] == worths[group] && other < group);
      if (better < c.top_groups) continue;
      for (int e = group * width + g.rank(); e < (group + 1) * width; e += g.size()) choice[e] = choice[e] > never ? mask : never;
    }
  }

  /// p_i = exp(z_i − max z) / Σ. `in` and `out` may be the same.
  template <class T, class Group>
  MOESAIC_FN static void softmax(Group const& g, int n, T const* in, T* out) {
    if constexpr (requires { g.softmax(n, in, out); }) return g.softmax(n, in, out);
    T largest = -infinity<T>;
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
  { P::select(c, g, s, std::int64_t{}, in, in, int{}, ids) } -> std::convertible_to<int>;
  { P::cut(c, s, std::int64_t{}, in, in, ids, int{}) } -> std::convertible_to<int>;
  P::weigh(c, g, s, std::int64_t{}, in, ids, int{}, x);
};

/// A policy whose choice for one token depends on the other tokens of the batch: `static constexpr bool coupled = true`, and one more hook,
/// called once a step instead of `select`. It fills ids and count of every token (best first); weights come from `weigh`:
///   static void select_batch(router_config const&, Group const&, state const&, routing_batch<T> const&, routing_slots<T> const&,
///                            list<std::byte> memory);
/// and may ask for memory with  static std::int64_t batch_bytes(router_config const&, std::int64_t tokens).
/// Inference only: the output of a sequence then depends on its batch mates.
template <class P, class T = float>
concept coupled_policy =
    routing_policy<P, T> && P::coupled &&
    requires(router_config const& c, serial_group const& g, typename P::state const& s, routing_batch<T> const& b, routing_slots<T> const& slots) {
      P::select_batch(c, g, s, b, slots, list<std::byte>{});
    };

/// A policy that takes experts away from tokens when all have chosen and been weighed (capacity): `static constexpr bool settles = true`,
/// and a hook of the signature of select_batch called settle_batch. A choice that is dropped gets the id −1 and the weight 0 where it
/// stands; `count` stays the number of slots looked at.
template <class P, class T = float>
concept settling_policy =
    routing_policy<P, T> && P::settles &&
    requires(router_config const& c, serial_group const& g, typename P::state const& s, routing_batch<T> const& b, routing_slots<T> const& slots) {
      P::settle_batch(c, g, s, b, slots, list<std::byte>{});
    };

/// Two hooks that a policy may have, and `standard` has not. What experts are worth to a token before bias and price, where it is not their
/// scores: a row [experts] that may be written into `memory`, and is answered:
///   static T const* worth(router_config const&, Group const&, state const&, std::int64_t token, T const* logits, T const* scores, T* memory);
/// and in what order the chosen are listed, hence summed, after `cut` (they are best first by choice before):
///   static void arrange(router_config const&, Group const&, state const&, std::int64_t token, T const* scores, T const* choice, int count,
///                       std::int32_t* ids);
template <class P, class Group, class State, class T>
MOESAIC_INLINE T const* worth_of(router_config const& c, Group const& g, State const& s, std::int64_t token, T const* logits, T const* scores,
                                 T* memory) {
  if constexpr (requires { P::worth(c, g, s, token, logits, scores, memory); }) return P::worth(c, g, s, token, logits, scores, memory);
  else return scores;
}
template <class P, class Group, class State, class T>
MOESAIC_FN void arrange_by(router_config const& c, Group const& g, State const& s, std::int64_t token, T const* scores, T const* choice, int count,
                           std::int32_t* ids) {
  if constexpr (requires { P::arrange(c, g, s, token, scores, choice, count, ids); }) P::arrange(c, g, s, token, scores, choice, count, ids);
}

template <class P>
constexpr std::int64_t batch_bytes_of(router_config const& c, std::int64_t tokens) {
  if constexpr (requires { P::batch_bytes(c, tokens); }) return P::batch_bytes(c, tokens);
  return 0;
}

/// Whether a state fits a call: `fits` of the policy, padding of an entry a token, and steps of a number of tokens.
template <class P>
constexpr status state_fits(router_config const& c, typename P::state const& state, std::int64_t tokens) {
  if constexpr (requires { state.padding; })
    if (!state.padding.empty() && state.padding.size != tokens)
      return invalid("padding of a routing state must have an entry a token, or none", tokens, state.padding.size);
  if constexpr (requires { state.together; })
    if (state.together < 0) return invalid("together of a routing state must be the tokens of a step, or 0 for all", 0, state.together);
  if constexpr (requires { P::fits(c, state, tokens); }) return P::fits(c, state, tokens);
  return {};
}

/// Whether a row of the call is padding, by a state that knows.
template <class State>
MOESAIC_FN constexpr bool is_padding(State const& state, std::int64_t token) {
  if constexpr (requires { state.padding; }) return !state.padding.empty() && state.padding[token] != 0;
  return false;
}
/// Tokens of one step of a call.
template <class State>
MOESAIC_FN constexpr std::int64_t step_of(State const& state, std::int64_t tokens) {
  if constexpr (requires { state.together; })
    if (state.together > 0) return state.together;
  return tokens;
}

namespace detail {
template <class Policy, bool is_policy>
auto check_policy() {
  static_assert(is_policy, "routing must be a policy with the hooks score, price, limit, select, cut and weigh, with slots, coupled and a type named state, because "
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
