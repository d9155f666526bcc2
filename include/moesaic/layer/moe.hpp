// A mixture of experts on one screen: route → plan → expert GEMM 1 → expert GEMM 2 → combine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/layer/moe_memory.hpp>

namespace moesaic {

/// The feed-forward half of a layer, after its norm. A dense layer is one expert that every token uses: route, plan and combine fall away.
/// The ops are found in the namespace of `where`, and every one can be called alone.
template <class Spec>
struct moe : moe_memory<Spec> {
  using memory = moe_memory<Spec>;
  using typename memory::scalar, typename memory::sum, typename memory::scratch;

  /// x [tokens, hidden] and residual [tokens, hidden] -> y = residual + residual_scale · mixture(x); where residual is empty, y = mixture(x), for a
  /// norm to come. y may be residual or x. Of a layer that opens a shortcut, `carried` [tokens, hidden] takes what the routed experts add.
  /// Errors: a workspace carved for another number of tokens.
  template <class Where, class Tap = no_tap>
  static status forward(Where& where, moe_weights const& w, view<const scalar> x, view<const scalar> residual, view<scalar> y,
                      typename memory::policy_state const& state, scratch const& s, call_flags* flags, Tap&& tap = {}, int layer = 0,
                      view<scalar> carried = {}) {
    using experts = typename memory::routed_experts;   // each by its kind; a feed-forward: gate and up with activation, then down
    using shared = typename memory::shared_expert;
    constexpr double scale = memory::config.residual_scale;
    constexpr auto stored = memory::shape.ffn_format.type;
    using inputs = typename memory::inputs;            // what its products read
    if (s.expert_out.rows != x.rows * memory::slots)
      return invalid("the workspace must be carved for as many tokens as x has", x.rows * memory::slots, s.expert_out.rows);

    if constexpr (memory::dense) {
      auto const out = residual.data != nullptr ? s.expert_out : y;
      experts::forward(where, w.experts, x, s.experts, out);                                           // [tokens, hidden]
      if (residual.data != nullptr) add<scalar>(where, residual, out, y, scale);                       // [tokens, hidden]
      tap(tap_point{layer, stage::ffn_out}, view<const scalar>(out));
    } else {
      auto const routed = router<Spec>::forward(where, w.router, x, state, s.router, flags, tap, layer);        // ids, weights [tokens, slots]
      if (!routed) return routed;
      if constexpr (!fuses_plan<Where>) plan(where, s.router.slots.ids, s.plan);                       // expert_offsets [experts + 1]
      [[maybe_unused]] auto const coded = inputs::of(where, x, s.codes);                               // x as products read it
      auto read = x;                                                                                   // what experts read
      if constexpr (memory::has_latent) linear<stored>(where, w.latent_down, coded, {}, s.latent), read = s.latent;                 // [tokens, latent]
      if constexpr (memory::on_input)
        weigh_choices<scalar>(where, read, s.plan.slot_of_choice, s.router.slots.weights, s.weighed), read = s.weighed;           // [tokens · slots, ·]
      auto const read_coded = [&] {
        auto const* const end = memory::on_input ? s.plan.expert_offsets.data + memory::shape.feed_forwards : nullptr;
        if constexpr (memory::has_latent || memory::on_input) return inputs::of(where, read, s.narrow_codes, end);
        else return coded;
      };
      experts::forward(where, w, read, read_coded(), s.plan, s.experts, s.expert_out);                 // [tokens · slots, hidden or latent]
      if constexpr (memory::has_shared) {
        shared::forward_coded(where, w.shared, x.rows, coded, s.shared, s.shared_out);                 // [tokens, hidden]
        if constexpr (memory::has_shared_gate) linear<dtype::fp32>(where, w.shared_gate, x, {}, s.shared_gate);   // [tokens, 1]
      }
      view<const scalar> out = s.expert_out;
      view<const std::int32_t> slot_of_choice = s.plan.slot_of_choice;
      view<const sum> weights = memory::on_input ? view<sum>() : s.router.slots.weights;
      if constexpr (memory::has_latent) {
        combine<scalar>(where, out, slot_of_choice, weights, {}, {}, {}, s.latent);                    // [tokens, latent]
        linear<stored>(where, w.latent_up, inputs::of(where, s.latent, s.narrow_codes), {}, s.lifted);        // [tokens, hidden]
        out = s.lifted, slot_of_choice = {}, weights = {};
      }
      combine<scalar>(where, out, slot_of_choice, weights, s.shared_out, {s.shared_gate.data, s.shared_gate.rows}, residual, y, s.parts,
                      residual.data != nullptr ? scale : 1.0, carried, w.mixture_bias);                // [tokens, hidden]
      show(where, s, tap, layer);
    }
    return finish(where);
  }

 private:
  template <class Where, class Tap>
  static void show(Where& where, scratch const& s, Tap& tap, int layer) {
    using viewer = std::remove_cvref_t<Tap>;
    if constexpr (wants<viewer>(stage::expert_out)) {
      gather_choices<scalar>(where, s.expert_out, s.plan.slot_of_choice, s.choice_out);
      tap(tap_point{layer, stage::expert_out}, view<const scalar>(s.choice_out));
    }
    if constexpr (wants<viewer>(stage::moe_out)) tap(tap_point{layer, stage::moe_out}, view<const scalar>(s.parts.moe_out));
    if constexpr (wants<viewer>(stage::shared_gate) && memory::has_shared_gate)
      tap(tap_point{layer, stage::shared_gate}, view<const sum>(s.parts.shared_gate));
    if constexpr (wants<viewer>(stage::shared_out) && memory::has_shared)
      tap(tap_point{layer, stage::shared_out}, view<const scalar>(s.parts.shared_out));
    if constexpr (wants<viewer>(stage::ffn_out)) tap(tap_point{layer, stage::ffn_out}, view<const scalar>(s.parts.ffn_out));
  }
};

}  // namespace moesaic
