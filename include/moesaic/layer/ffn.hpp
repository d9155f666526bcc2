// A feed-forward: the two expert GEMMs and the activation over expert_offsets. Dense layers, shared and routed experts are all this.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/math.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/load.hpp>

namespace moesaic {

/// `Experts` feed-forwards of width `Intermediate`, in the Spec's activation and format.
template <class Spec, int Experts, int Intermediate>
struct ffn {
  static constexpr auto shape = shapes(validated<Spec>::config);
  static constexpr auto expert = validated<Spec>::config.expert;
  static constexpr auto stored = shape.ffn_format.type;
  static constexpr bool single = Experts == 1;            // every token uses it: slots are tokens, nothing is gathered
  using scalar = scalar_of<shape.activations>;

  struct scratch {
    list<std::int32_t> offsets;          // {0, tokens} of a single one
    view<scalar> activated;              // [slots, intermediate]
  };
  static constexpr scratch carve(arena& memory, std::int64_t slots) {
    return {memory.take<std::int32_t>(single ? 2 : 0), memory.take<scalar>(slots, Intermediate)};
  }

  /// x [tokens, hidden] -> y [slots, hidden]. Slots of expert e are [offsets[e], offsets[e + 1]) and read row token_of_slot[slot] of x.
  template <class Where>
  static void forward(Where& where, ffn_weights const& w, view<const scalar> x, list<const std::int32_t> offsets,
                      const std::int32_t* token_of_slot, scratch const& s, view<scalar> y) {
    expert_gate_up<stored>(where, expert.activation, w.gate_up, w.gate_up_bias, x, offsets, token_of_slot, s.activated);
    expert_down<stored>(where, w.down, w.down_bias, view<const scalar>(s.activated), offsets, y);
  }
  /// The same for a single one: slots are the tokens themselves.
  template <class Where>
  static void forward(Where& where, ffn_weights const& w, view<const scalar> x, scratch const& s, view<scalar> y)
    requires single
  {
    plan_whole(where, x.rows, s.offsets);
    forward(where, w, x, s.offsets, nullptr, s, y);
  }

  static constexpr ffn_weights carve_weights(arena& memory) {
    constexpr std::int64_t bias = expert.bias ? Experts : 0;
    return {take_matrix(memory, shape.ffn_format, Intermediate, shape.hidden, shape.gate_parts, Experts),
            take_matrix(memory, shape.ffn_format, shape.hidden, Intermediate, 1, Experts),
            memory.take<float>(bias * shape.gate_parts * Intermediate), memory.take<float>(bias * shape.hidden)};
  }

  /// One expert's matrices under their own names, in which it is expert `first` + e.
  template <class Loader>
  static void load_one(ffn_weights const& w, Loader& from, int e, spellings const& gate, spellings const& up, spellings const& down,
                       int first = 0) {
    constexpr std::int64_t hidden = shape.hidden, width = Intermediate;
    int const number = first + e;
    auto const up_rows = from.find(up, ".weight", {width, hidden}, number);
    if constexpr (shape.gate_parts == 2)
      from.template matrix<stored>(w.gate_up, e, {from.find(gate, ".weight", {width, hidden}, number), up_rows});
    else
      from.template matrix<stored>(w.gate_up, e, {up_rows});
    from.template matrix<stored>(w.down, e, {from.find(down, ".weight", {hidden, width}, number)});
    if constexpr (expert.bias) {
      auto const* bias = w.gate_up_bias.data + e * shape.gate_parts * width;
      if constexpr (shape.gate_parts == 2) from.vector(gate, ".bias", {bias, width}, number);
      from.vector(up, ".bias", {bias + (shape.gate_parts - 1) * width, width}, number);
      from.vector(down, ".bias", {w.down_bias.data + e * hidden, hidden}, number);
    }
  }

  /// Routed experts from number `first` on: one by one, or from stacked tensors where these are all the feed-forwards.
  template <class Loader>
  static void load_experts(ffn_weights const& w, Loader& from, int first = 0) {
    auto const& n = from.names;
    if (expert.bias || Experts != shape.feed_forwards || !from.has(n.stacked_gate_up, "")) {
      for (int e = 0; e < Experts; ++e) load_one(w, from, e, n.expert_gate, n.expert_up, n.expert_down, first);
      return;
    }
    constexpr std::int64_t hidden = shape.hidden, width = Intermediate, both = shape.gate_parts * width;
    auto gate_up = from.find(n.stacked_gate_up, "", {Experts, both, hidden});
    auto down = from.find(n.stacked_down, "", {Experts, hidden, width});
    for (int e = 0; e < Experts; ++e) {
      from.template matrix<stored>(w.gate_up, e, {{gate_up.stored, both, e * both}});
      from.template matrix<stored>(w.down, e, {{down.stored, hidden, e * hidden}});
    }
  }
};

}  // namespace moesaic
