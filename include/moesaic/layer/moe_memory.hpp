// What a mixture of experts keeps: its workspace, its weights, and how they are loaded. The pipeline itself is layer/moe.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <moesaic/layer/expert_runs.hpp>
#include <moesaic/layer/ffn.hpp>
#include <moesaic/layer/router.hpp>
#include <moesaic/route/plan.hpp>

namespace moesaic {

template <class Spec>
struct moe_memory {
  static constexpr auto config = validated<Spec>::config;
  static constexpr auto shape = shapes(config);
  static constexpr bool dense = shape.dense, has_shared = shape.shared_intermediate > 0, has_shared_gate = config.shared.sigmoid_gate;
  static constexpr bool has_latent = config.expert.latent != 0, on_input = config.router.weights == combine_weight::on_input;
  using scalar = scalar_of<shape.activations>;
  using sum = accumulator<scalar>;
  using routed_experts = std::conditional_t<dense, ffn<Spec, 1, shape.intermediate>, expert_runs<Spec>>;
  using shared_expert = ffn<Spec, 1, shape.shared_intermediate>;
  using inputs = product_inputs<Spec, shape.ffn_format.type>;   // what products of feed-forwards read
  using policy_state = typename policy_of<Spec>::state;
  static constexpr int width = has_latent ? config.expert.latent : shape.hidden;   // of what routed experts read and write
  static constexpr int slots = [] {
    if constexpr (dense) return 1;
    else return router<Spec>::slots;
  }();

  struct scratch {
    typename router<Spec>::scratch router;
    dispatch_plan plan;
    typename inputs::memory codes, narrow_codes;       // of x; of what latent experts read, or of what is weighed
    typename routed_experts::scratch experts;
    view<scalar> latent;                               // [tokens, latent]: what latent experts read, and then their mixture
    view<scalar> lifted;                               // [tokens, hidden]: that mixture, projected back
    view<scalar> weighed;                              // [tokens · slots, width], by expert: inputs times their weights
    view<scalar> expert_out;                           // [tokens · slots, width], by expert; width: latent or hidden
    typename shared_expert::scratch shared;
    view<scalar> shared_out;                           // [tokens, hidden]
    view<sum> shared_gate;                             // [tokens, 1] logits
    combine_parts<scalar> parts;                       // [tokens, hidden] each, for a tap
    view<scalar> choice_out;                           // [tokens · slots, width], by choice, for a tap
  };

  /// For a batch of so many tokens. What the configuration does not have stays empty.
  template <class Tap = no_tap>
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    auto const rows = [&](bool wanted, std::int64_t n) { return wanted ? memory.take<scalar>(n, shape.hidden) : view<scalar>{}; };
    auto const choices = tokens * slots;
    auto const narrow = [&](bool wanted, std::int64_t n) { return wanted ? memory.take<scalar>(n, width) : view<scalar>{}; };
    scratch s;
    if constexpr (!dense) s.router = router<Spec>::carve(memory, tokens);
    if constexpr (!dense) s.router.planned = s.plan = dispatch_plan::carve(memory, tokens, shape.experts, slots);
    if constexpr (has_shared) s.shared = shared_expert::carve(memory, tokens, 0);
    if constexpr (has_shared_gate) s.shared_gate = memory.take<sum>(tokens, 1);
    s.shared_out = rows(has_shared, tokens);
    s.codes = inputs::carve(memory, dense ? 0 : tokens * shape.hidden);
    s.narrow_codes = inputs::carve(memory, dense || !(has_latent || on_input) ? 0 : (on_input ? choices : tokens) * width);
    s.experts = routed_experts::carve(memory, choices);
    s.latent = narrow(has_latent, tokens), s.lifted = rows(has_latent, tokens), s.weighed = narrow(on_input && !dense, choices);
    s.expert_out = narrow(true, choices);
    auto const shown = [&](stage what, bool has = true) { return !dense && has && wants<Tap>(what); };
    s.parts = {rows(shown(stage::moe_out), tokens), rows(shown(stage::shared_out, has_shared), tokens), rows(shown(stage::ffn_out), tokens),
               shown(stage::shared_gate, has_shared_gate) ? memory.take<sum>(tokens, 1) : view<sum>{}};
    s.choice_out = narrow(shown(stage::expert_out), choices);
    return s;
  }

  static constexpr moe_weights carve_weights(arena& memory) {
    moe_weights w;
    if constexpr (dense) w.experts = routed_experts::carve_weights(memory);
    if constexpr (!dense) routed_experts::carve_weights(w, memory);
    if constexpr (!dense) w.router = router<Spec>::carve_weights(memory);
    if constexpr (has_shared) w.shared = shared_expert::carve_weights(memory);
    if constexpr (has_shared_gate) w.shared_gate = take_matrix(memory, dtype::fp32, 1, shape.hidden);
    if constexpr (has_latent) {
      w.latent_down = take_matrix(memory, shape.ffn_format, width, shape.hidden);
      w.latent_up = take_matrix(memory, shape.ffn_format, shape.hidden, width);
    }
    w.mixture_bias = memory.take<float>(config.expert.mixture_bias ? shape.hidden : 0);
    return w;
  }

  template <class Loader>
  static void load(moe_weights const& w, Loader& from) {
    auto const& n = from.names;
    if constexpr (dense) {
      routed_experts::load_one(w.experts, from, 0, n.gate, n.up, n.down);
    } else {
      routed_experts::load(w, from);
      router<Spec>::load(w.router, from);
    }
    if constexpr (has_latent) {
      from.template matrix<shape.ffn_format.type>(w.latent_down, 0, {from.find(n.latent_down, "", {width, shape.hidden})});
      from.template matrix<shape.ffn_format.type>(w.latent_up, 0, {from.find(n.latent_up, "", {shape.hidden, width})});
    }
    if constexpr (config.expert.mixture_bias) from.vector(n.mixture_bias, "", w.mixture_bias);
    if constexpr (has_shared) shared_expert::load_one(w.shared, from, 0, n.shared_gate_proj, n.shared_up_proj, n.shared_down_proj);
    if constexpr (has_shared_gate) from.template matrix<dtype::fp32>(w.shared_gate, 0, {from.find(n.shared_gate, "", {1, shape.hidden})});
  }
};

}  // namespace moesaic
