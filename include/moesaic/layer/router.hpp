// x [tokens, hidden] -> which experts each token uses, and with what weight.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/shapes.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/load.hpp>
#include <moesaic/layer/tap.hpp>
#include <moesaic/route/plan.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic {

namespace detail {
template <class Policy, class T, purpose use, router_config config>
auto check_router() {
  static_assert(!Policy::coupled || coupled_policy<Policy, T>,
                "routing says it is coupled, so it must have select_batch(config, group, state, batch, slots, memory) for this layer's scores, "
                "because nothing else chooses then");
  static_assert(!Policy::settles || settling_policy<Policy, T>,
                "routing says it settles, so it must have settle_batch(config, group, state, batch, slots, memory) for this layer's scores, "
                "because nothing else drops then");
  static_assert(use != purpose::training || (Policy::trainable && !Policy::coupled),
                "a layer whose purpose is training needs a separable routing policy that says it is trainable, because with a coupled one the "
                "experts of a token depend on later tokens, which it will not see when it generates, and some rules are those of inference alone");
  static_assert(use != purpose::batch_invariant || (Policy::batch_invariant && !Policy::coupled),
                "a layer whose purpose is batch_invariant needs a separable routing policy without capacity, because otherwise the output of a "
                "sequence depends on which others share its batch");
  if constexpr (requires { Policy::template check<config>(); }) Policy::template check<config>();   // its own sentences
}
}  // namespace detail

/// Whether a backend makes the plan of the expert GEMMs in the same step as it routes: its stream type says so.
template <class Where>
inline constexpr bool fuses_plan = requires { requires Where::fuses_plan; };

template <class Spec>
struct router {
  static constexpr auto config = validated<Spec>::config.router;
  static constexpr auto shape = shapes(validated<Spec>::config);
  using scalar = scalar_of<shape.activations>;
  using sum = accumulator<scalar>;
  using policy = policy_of<Spec>;
  using checked = decltype(detail::check_router<policy, sum, validated<Spec>::config.purpose, config>());
  static constexpr int slots = policy::slots(config);
  static constexpr bool batch_invariant = validated<Spec>::config.purpose == purpose::batch_invariant;   // for backends that fuse

  struct scratch {
    view<sum> logits;                    // [tokens, outputs]
    view<sum> scores, choice;            // [tokens, experts]
    routing_slots<sum> slots;            // [tokens, slots]
    list<std::byte> batch;               // of a coupled policy
    dispatch_plan planned = {};          // made too where that is one step with routing; empty = not wanted
  };
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    auto const matrix = [&](int columns) { return memory.take<sum>(tokens, columns); };
    return {matrix(shape.router_outputs), matrix(config.experts), matrix(config.experts),
            {memory.take<std::int32_t>(tokens, slots), memory.take<sum>(tokens, slots), memory.take<std::int32_t>(tokens)},
            memory.take<std::byte>(batch_bytes_of<policy>(config, tokens))};
  }

  /// Fills s.slots. A token whose logits are not finite gets no expert and raises flags->not_finite. Errors, before anything is written: a
  /// workspace or a state for another number of tokens.
  template <class Where, class Tap = no_tap>
  static status forward(Where& where, router_weights const& w, view<const scalar> x, typename policy::state const& state, scratch const& s,
                      call_flags* flags, Tap&& tap = {}, int layer = 0) {
    if (s.logits.rows != x.rows) return invalid("the workspace must be carved for as many tokens as x has", x.rows, s.logits.rows);
    if (auto fits = state_fits<policy>(config, state, x.rows); !fits) return fits;
    if constexpr (fuses_plan<Where>) {
      route_tokens<policy>(where, router{}, state, w, x, s.logits, s.scores, s.choice, s.slots, s.batch, flags, s.planned);
      tap(tap_point{layer, stage::router_logits}, view<const sum>(s.logits));
    } else {
      linear<dtype::fp32>(where, w.weight, x, w.bias, s.logits);
      if constexpr (config.cosine != 0) to_cosines<scalar>(where, x, w.length, config.cosine, s.logits);
      tap(tap_point{layer, stage::router_logits}, view<const sum>(s.logits));
      route<policy>(where, config, state, view<const sum>(s.logits), w.score_bias, s.scores, s.choice, s.slots, s.batch, &flags->not_finite);
    }
    tap(tap_point{layer, stage::router_scores}, view<const sum>(s.scores));
    tap(tap_point{layer, stage::router_choice}, view<const sum>(s.choice));
    tap(tap_point{layer, stage::topk_index}, view<const std::int32_t>(s.slots.ids));
    tap(tap_point{layer, stage::topk_weight}, view<const sum>(s.slots.weights));
    tap(tap_point{layer, stage::topk_count}, view<const std::int32_t>(s.slots.count.data, s.slots.count.size, 1));
    return finish(where);
  }

  static constexpr router_weights carve_weights(arena& memory) {
    constexpr std::int64_t outputs = shape.router_outputs;
    return {take_matrix(memory, dtype::fp32, outputs, shape.hidden), memory.take<float>(config.bias ? outputs : 0),
            memory.take<float>(config.score_bias ? config.experts : 0), memory.take<double>(config.cosine != 0 ? outputs : 0)};
  }
  template <class Loader>
  static void load(router_weights const& w, Loader& from) {
    load(w, from, from.names.router, from.names.router_bias);
    if (config.score_bias) from.vector(from.names.score_bias, "", w.score_bias);
  }
  /// Its matrix and the bias of that under names of the caller's.
  template <class Loader>
  static void load(router_weights const& w, Loader& from, spellings const& weight, spellings const& bias) {
    from.template matrix<dtype::fp32>(w.weight, 0, {from.find(weight, "", {shape.router_outputs, shape.hidden})});
    if (config.cosine != 0) from.lengths(w.weight, w.length);
    if (config.bias) from.vector(bias, "", w.bias);
  }
};

}  // namespace moesaic
