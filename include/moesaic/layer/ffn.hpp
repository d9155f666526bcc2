// A feed-forward: the two expert GEMMs and the activation over expert_offsets. Dense layers, shared and routed experts are all this.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <moesaic/base/math.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/inputs.hpp>
#include <moesaic/layer/load.hpp>

namespace moesaic {

/// `Experts` feed-forwards of width `Intermediate`, in the Spec's activation and format, on rows of `Hidden`.
template <class Spec, int Experts, int Intermediate, int Hidden = shapes(validated<Spec>::config).hidden>
struct ffn {
  static constexpr auto shape = shapes(validated<Spec>::config);
  static constexpr auto expert = validated<Spec>::config.expert;
  static constexpr auto stored = shape.ffn_format.type;
  static constexpr std::int64_t hidden = Hidden;
  static constexpr bool single = Experts == 1;            // every token uses it: slots are tokens, nothing is gathered
  using scalar = scalar_of<shape.activations>;
  using inputs = product_inputs<Spec, stored>;

  struct scratch {
    list<std::int32_t> offsets;          // {0, tokens} of a single one
    view<scalar> activated;              // [slots, intermediate]
    typename inputs::memory codes;       // of x, then of what is activated
  };
  static constexpr scratch carve(arena& memory, std::int64_t slots) { return carve(memory, slots, slots * hidden); }
  /// With so many numbers of x read in all.
  static constexpr scratch carve(arena& memory, std::int64_t slots, std::int64_t read) {
    auto const activated = slots * Intermediate;
    return {memory.take<std::int32_t>(single ? 2 : 0), memory.take<scalar>(slots, Intermediate), inputs::carve(memory, read > activated ? read : activated)};
  }

  /// x [tokens, hidden] -> y [slots, hidden]. Slots of expert e are [offsets[e], offsets[e + 1]) and read row token_of_slot[slot] of x.
  template <class Where>
  static void forward(Where& where, ffn_weights const& w, view<const scalar> x, list<const std::int32_t> offsets,
                      const std::int32_t* token_of_slot, scratch const& s, view<scalar> y) {
    forward_coded(where, w, inputs::of(where, x, s.codes, token_of_slot != nullptr ? nullptr : offsets.data + Experts), offsets, token_of_slot, s, y);
  }
  /// The same of what inputs::of gave for x, which may lie in s.codes too.
  template <class Where, class Read>
  static void forward_coded(Where& where, ffn_weights const& w, Read const& x, list<const std::int32_t> offsets, const std::int32_t* token_of_slot,
                            scratch const& s, view<scalar> y) {
    expert_gate_up<stored>(where, activation_rule_of(expert), w.gate_up, w.gate_up_bias, x, offsets, token_of_slot, s.activated);
    expert_down<stored>(where, w.down, w.down_bias, inputs::of(where, s.activated, s.codes, offsets.data + Experts, offsets.data), offsets, y);
  }
  /// The same for a single one: slots are the tokens themselves.
  template <class Where>
  static void forward(Where& where, ffn_weights const& w, view<const scalar> x, scratch const& s, view<scalar> y)
    requires single
  {
    plan_whole(where, x.rows, s.offsets);
    forward(where, w, x, s.offsets, nullptr, s, y);
  }
  template <class Where, class Read>
  static void forward_coded(Where& where, ffn_weights const& w, std::int64_t tokens, Read const& x, scratch const& s, view<scalar> y)
    requires single
  {
    plan_whole(where, tokens, s.offsets);
    forward_coded(where, w, x, s.offsets, nullptr, s, y);
  }

  static constexpr ffn_weights carve_weights(arena& memory) {
    constexpr std::int64_t bias = expert.bias ? Experts : 0;
    return {take_matrix(memory, shape.ffn_format, Intermediate, hidden, shape.gate_parts, Experts),
            take_matrix(memory, shape.ffn_format, hidden, Intermediate, 1, Experts),
            memory.take<float>(bias * shape.gate_parts * Intermediate), memory.take<float>(bias * hidden)};
  }

  /// One expert's matrices under their own names, in which it is expert `first` + e.
  template <class Loader>
  static void load_one(ffn_weights const& w, Loader& from, int e, spellings const& gate, spellings const& up, spellings const& down,
                       int first = 0) {
    constexpr std::int64_t width = Intermediate;
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
    bool const together = from.has(n.stacked_gate_up, "");
    if (Experts == shape.feed_forwards && (together || from.has(n.stacked_up, ""))) return load_stacked(w, from, together);
    for (int e = 0; e < Experts; ++e) load_one(w, from, e, n.expert_gate, n.expert_up, n.expert_down, first);
  }

 private:
  template <class Loader>
  static void load_stacked(ffn_weights const& w, Loader& from, bool together) {
    using rows_of = typename Loader::rows_of;
    auto const& n = from.names;
    auto layout = n.stacked;
    // Codes of mxfp4 go along inputs, so that their rows are outputs whatever the layout of floats.
    layout.transposed = layout.transposed && !from.has(together ? n.stacked_gate_up : n.stacked_up, "_blocks");
    layout.down_transposed = layout.down_transposed && !from.has(n.stacked_down, "_blocks");
    constexpr std::int64_t width = Intermediate, both = shape.gate_parts * width;
    auto const stack = [&](spellings const& name, bool transposed, std::int64_t outputs, std::int64_t inputs) {
      auto const rows = transposed ? inputs : outputs, columns = transposed ? outputs : inputs;
      return layout.flat ? from.find(name, "", {Experts * rows, columns}).stored : from.find(name, "", {Experts, rows, columns}).stored;
    };
    // Matrix `e` of a stack, upright: the tensor, and its first row there.
    struct one {
      std::vector<float> memory;
      tensor upright;
      [[gnu::noinline]] rows_of of(tensor const* stack, bool transposed, int e, std::int64_t outputs, std::int64_t inputs) {
        if (!transposed) return {stack, outputs, e * outputs};
        upright = Loader::turned(*stack, e * inputs, inputs, outputs, memory);
        return {&upright, outputs, 0};
      }
    } first, second;

    auto const* const down = stack(n.stacked_down, layout.down_transposed, hidden, width);
    auto const* const gate_up = together ? stack(n.stacked_gate_up, layout.transposed, both, hidden) : stack(n.stacked_up, layout.transposed, width, hidden);
    auto const* const gate = together || shape.gate_parts == 1 ? nullptr : stack(n.stacked_gate, layout.transposed, width, hidden);
    for (int e = 0; e < Experts; ++e) {
      if (gate != nullptr) {
        from.template matrix<stored>(w.gate_up, e, {first.of(gate, layout.transposed, e, width, hidden), second.of(gate_up, layout.transposed, e, width, hidden)});
      } else {
        auto const all = first.of(gate_up, layout.transposed, e, both, hidden);
        if (shape.gate_parts == 2 && layout.interleaved)
          from.template matrix<stored>(w.gate_up, e, {{all.stored, width, all.first, 1, 2}, {all.stored, width, all.first + 1, 1, 2}});
        else
          from.template matrix<stored>(w.gate_up, e, {all});
      }
      from.template matrix<stored>(w.down, e, {first.of(down, layout.down_transposed, e, hidden, width)});
    }
    if constexpr (expert.bias) {
      bool const turns = shape.gate_parts == 2 && layout.interleaved;
      from.values(n.stacked_gate_up_bias, "", w.gate_up_bias, {Experts, both}, [&](std::int64_t i) {
        auto const e = i / both, in_expert = i % both;
        return turns ? e * both + in_expert % width * 2 + in_expert / width : i;
      });
      from.values(n.stacked_down_bias, "", w.down_bias, {Experts, hidden});
    }
  }
};

}  // namespace moesaic
