// Experts of attention: each token's queries, and what its heads add, through projections that a router chose for it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include <moesaic/config/shapes.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/inputs.hpp>
#include <moesaic/layer/load.hpp>
#include <moesaic/layer/router.hpp>
#include <moesaic/layer/tap.hpp>
#include <moesaic/route/plan.hpp>

namespace moesaic {

namespace detail {

/// The router of a layer's attention as a layer that has it for its own, so that one code serves both.
template <class Spec>
struct attention_routing {
  static constexpr block_config config = [] {
    auto c = validated<Spec>::config;
    c.router = c.attention.router;
    c.expert = {.intermediate = 1};
    c.shared = {};
    c.shortcut = shortcut::none;
    return c;
  }();
};

/// Shows what a router does under the names of attention's stages.
template <class Tap>
struct attention_router_tap {
  Tap& tap;

  static constexpr stage renamed(stage s) {
    return static_cast<stage>(static_cast<int>(s) - static_cast<int>(stage::router_logits) + static_cast<int>(stage::attn_router_logits));
  }
  template <class X>
  void operator()(tap_point at, view<const X> values) const {
    at.stage = renamed(at.stage);
    tap(at, values);
  }
};
static_assert(attention_router_tap<no_tap>::renamed(stage::router_logits) == stage::attn_router_logits &&
                  attention_router_tap<no_tap>::renamed(stage::router_scores) == stage::attn_router_scores &&
                  attention_router_tap<no_tap>::renamed(stage::router_choice) == stage::attn_router_choice &&
                  attention_router_tap<no_tap>::renamed(stage::topk_index) == stage::attn_topk_index &&
                  attention_router_tap<no_tap>::renamed(stage::topk_weight) == stage::attn_topk_weight &&
                  attention_router_tap<no_tap>::renamed(stage::topk_count) == stage::attn_topk_count,
              "both lists of stages are in one order");

}  // namespace detail

/// A mixture of attention heads (arXiv:2210.05144): two expert GEMMs around attention, over one plan. Expert e projects queries to heads / top_k heads and
/// those heads' outputs back; a token's heads stand choice by choice, so that attention sees `heads` of them as ever.
template <class Spec>
struct attention_experts {
  static constexpr auto shape = shapes(validated<Spec>::config);
  static constexpr auto stored = shape.attention_format.type;
  static constexpr std::int64_t experts = shape.attention_experts, slots = shape.attention_slots;
  static constexpr std::int64_t q_width = shape.q_width / slots, out_width = shape.heads_width / slots;   // of one choice
  using chooser = router<detail::attention_routing<Spec>>;
  using inputs = product_inputs<Spec, stored>;
  using scalar = scalar_of<shape.activations>;

  struct scratch {
    call_flags* flags;                   // where a caller keeps none: down before each call
    typename chooser::scratch router;
    dispatch_plan plan;
    view<scalar> q;                      // [tokens, q_width of all choices]
    list<scalar> by_expert;              // queries [tokens · slots, q_width], then heads [tokens · slots, out_width]
    view<scalar> expert_out;             // [tokens · slots, hidden]
  };
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    auto const choices = tokens * slots;
    scratch s;
    s.flags = memory.take<call_flags>(1).data;
    s.router = chooser::carve(memory, tokens);
    s.router.planned = s.plan = dispatch_plan::carve(memory, tokens, static_cast<int>(experts), static_cast<int>(slots));
    s.q = memory.take<scalar>(tokens, shape.q_width);
    s.by_expert = memory.take<scalar>(choices * (q_width > out_width ? q_width : out_width));
    s.expert_out = memory.take<scalar>(choices, shape.hidden);
    return s;
  }

  /// x [tokens, hidden], and what products read of it -> s.q [tokens, slots · q_width]: route, plan, expert GEMM, and its rows by token. A token without
  /// experts gets zeros. Without flags those of the scratch are used.
  template <class Where, class Read, class Tap>
  static status queries(Where& where, attention_weights const& w, view<const scalar> x, Read const& read, scratch const& s, call_flags* flags, Tap& tap, int layer) {
    if (flags == nullptr) clear(where, flags = s.flags);
    auto const chosen = chooser::forward(where, w.router, x, {}, s.router, flags, detail::attention_router_tap<Tap>{tap}, layer);
    if (!chosen) return chosen;
    if constexpr (!fuses_plan<Where>) plan(where, s.router.slots.ids, s.plan);
    view<scalar> const by_expert{s.by_expert.data, x.rows * slots, q_width}, by_choice{s.q.data, x.rows * slots, q_width};
    expert_linear<stored>(where, w.q, {}, read, s.plan.expert_offsets, s.plan.token_of_slot.data, by_expert);
    gather_choices<scalar>(where, view<const scalar>(by_expert), s.plan.slot_of_choice, by_choice);
    return {};
  }
  /// heads [tokens, slots · out_width], rows without gaps -> y [tokens, hidden]: rows by expert, expert GEMM, combine.
  template <class Where>
  static void out(Where& where, attention_weights const& w, view<const scalar> heads, scratch const& s, typename inputs::memory codes, view<scalar> y) {
    auto const choices = heads.rows * slots;
    view<scalar> const by_expert{s.by_expert.data, choices, out_width};
    view<const std::int32_t> const slot_of_choice{s.plan.slot_of_choice.data, choices, 1};
    weigh_choices<scalar>(where, view<const scalar>(heads.data, choices, out_width), slot_of_choice, {}, by_expert);
    auto const& offsets = s.plan.expert_offsets;
    expert_linear<stored>(where, w.out, {}, inputs::of(where, by_expert, codes, offsets.data + experts), offsets, nullptr, s.expert_out);
    combine<scalar>(where, view<const scalar>(s.expert_out), s.plan.slot_of_choice, s.router.slots.weights, {}, {}, {}, y, {}, 1.0, {}, w.out_bias);
  }

  static constexpr void carve_weights(attention_weights& w, arena& memory) {
    w.q = take_matrix(memory, shape.attention_format, q_width, shape.hidden, 1, experts);
    w.router = chooser::carve_weights(memory);
  }
  /// Queries, output and router; keys and values are attention's own.
  template <class Loader>
  static void load(attention_weights const& w, Loader& from) {
    auto const& n = from.names;
    auto const* const q = from.find(n.stacked_q, "", {experts, q_width, shape.hidden}).stored;
    auto const* const out = from.find(n.stacked_out, "", {experts, shape.hidden, out_width}).stored;
    for (std::int64_t e = 0; e < experts; ++e) {
      from.template matrix<stored>(w.q, e, {{q, q_width, e * q_width}});
      from.template matrix<stored>(w.out, e, {{out, shape.hidden, e * shape.hidden}});
    }
    chooser::load(w.router, from, n.attention_router, n.attention_router_bias);
    if (!w.out_bias.empty()) from.vector(n.stacked_out_bias, "", w.out_bias);
  }
};

/// Of attention whose projections serve every token.
struct no_attention_experts {
  struct scratch {};
  static constexpr scratch carve(arena&, std::int64_t) { return {}; }
};

}  // namespace moesaic
