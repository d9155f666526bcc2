// A mixture of experts on one screen: route → plan → expert GEMM 1 → expert GEMM 2 → combine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/layer/ffn.hpp>
#include <moesaic/layer/router.hpp>

namespace moesaic {

/// The feed-forward half of a layer. A dense layer is one expert without a router: route, plan and combine fall away.
template <class Spec>
struct moe {
  static constexpr auto shape = shapes(validated<Spec>::config);
  static constexpr bool has_shared = shape.shared_intermediate > 0, has_shared_gate = validated<Spec>::config.shared.sigmoid_gate;
  using scalar = scalar_of<shape.activations>;
  using sum = accumulator<scalar>;
  using routed_experts = ffn<Spec, shape.experts, shape.intermediate>;
  using shared_expert = ffn<Spec, 1, shape.shared_intermediate>;
  using policy_state = typename policy_of<Spec>::state;
  struct scratch;

  /// x [tokens, hidden], normalised, and residual [tokens, hidden] -> y = residual + mixture(x). y may be residual.
  template <class Where, class Tap = no_tap>
  static void forward(Where& where, moe_weights const& w, view<const scalar> x, view<const scalar> residual, view<scalar> y,
                      policy_state const& state, scratch const& s, std::int32_t* not_finite, Tap&& tap = {}, int layer = 0) {
    if constexpr (shape.dense) {
      routed_experts::forward(where, w.experts, x, s.experts, s.expert_out);                                         // [tokens, hidden]
      add<scalar>(where, s.expert_out, residual, y);                                                                 // [tokens, hidden]
      tap(tap_point{layer, stage::ffn_out}, view<const scalar>(s.expert_out));
    } else {
      router<Spec>::forward(where, w.router, x, state, s.router, not_finite, tap, layer);                            // ids, weights [tokens, slots]
      plan(where, s.router.slots.ids, s.plan);                                                                       // offsets [experts + 1]
      routed_experts::forward(where, w.experts, x, s.plan.expert_offsets, s.plan.token_of_slot.data, s.experts, s.expert_out);
      if constexpr (has_shared) shared_expert::forward(where, w.shared, x, s.shared, s.shared_out);                  // [tokens, hidden]
      if constexpr (has_shared_gate) linear<dtype::fp32>(where, w.shared_gate, x, list<const float>{}, s.gate);      // [tokens, 1]
      combine<scalar>(where, s.expert_out, s.plan.slot_of_choice, s.router.slots.weights, s.shared_out, {s.gate.data, s.gate.rows}, residual, y,
                      {s.moe_out, s.shared_term, s.ffn_out});                                                        // [tokens, hidden]
      show(where, s, tap, layer);
    }
  }

  struct scratch {
    typename router<Spec>::scratch router;
    dispatch_plan plan;
    typename routed_experts::scratch experts;
    view<scalar> expert_out;                           // [tokens · slots, hidden], by expert
    typename shared_expert::scratch shared;
    view<scalar> shared_out;                           // [tokens, hidden]
    view<sum> gate;                                    // [tokens, 1] logits
    view<scalar> moe_out, shared_term, ffn_out;        // [tokens, hidden], for a tap
    view<scalar> choice_out;                           // [tokens · slots, hidden], by choice, for a tap
  };
  template <class Tap = no_tap>
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    auto const rows = [&](bool wanted, std::int64_t n) { return wanted ? memory.take<scalar>(n, shape.hidden) : view<scalar>{}; };
    auto const choices = tokens * shape.slots;
    scratch s;
    if constexpr (!shape.dense) {
      s.router = router<Spec>::carve(memory, tokens);
      s.plan = dispatch_plan::carve(memory, tokens, shape.experts, shape.slots);
      if constexpr (has_shared) s.shared = shared_expert::carve(memory, tokens);
      if constexpr (has_shared_gate) s.gate = memory.take<sum>(tokens, 1);
      s.shared_out = rows(has_shared, tokens);
      s.moe_out = rows(taps<Tap>, tokens);
      s.shared_term = rows(taps<Tap> && has_shared, tokens);
      s.ffn_out = rows(taps<Tap>, tokens);
      s.choice_out = rows(taps<Tap>, choices);
    }
    s.experts = routed_experts::carve(memory, choices);
    s.expert_out = rows(true, choices);
    return s;
  }

  static constexpr moe_weights carve_weights(arena& memory) {
    moe_weights w;
    w.experts = routed_experts::carve_weights(memory);
    if constexpr (!shape.dense) w.router = router<Spec>::carve_weights(memory);
    if constexpr (has_shared) w.shared = shared_expert::carve_weights(memory);
    if constexpr (has_shared_gate) w.shared_gate = matrix(memory, dtype::fp32, 1, shape.hidden);
    return w;
  }
  template <class Loader>
  static void load(moe_weights const& w, Loader& from) {
    auto const& n = from.names;
    if constexpr (shape.dense) {
      routed_experts::load_one(w.experts, from, 0, n.gate, n.up, n.down);
    } else {
      routed_experts::load_experts(w.experts, from);
      router<Spec>::load(w.router, from);
    }
    if constexpr (has_shared) shared_expert::load_one(w.shared, from, 0, n.shared_gate_proj, n.shared_up_proj, n.shared_down_proj);
    if constexpr (has_shared_gate) from.matrix(w.shared_gate, 0, {from.find(n.shared_gate, "", {1, shape.hidden})});
  }

 private:
  template <class Where, class Tap>
  static void show(Where& where, scratch const& s, Tap& tap, int layer) {
    if constexpr (taps<std::remove_cvref_t<Tap>>) {
      gather_choices<scalar>(where, s.expert_out, s.plan.slot_of_choice, s.choice_out);
      tap(tap_point{layer, stage::expert_out}, view<const scalar>(s.choice_out));
      tap(tap_point{layer, stage::moe_out}, view<const scalar>(s.moe_out));
      if (has_shared) tap(tap_point{layer, stage::shared_out}, view<const scalar>(s.shared_term));
      tap(tap_point{layer, stage::ffn_out}, view<const scalar>(s.ffn_out));
    }
  }
};

}  // namespace moesaic
