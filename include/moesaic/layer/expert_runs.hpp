// The routed experts of a layer, in the order of their numbers: feed-forwards, run by run of one width, then those that are none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include <moesaic/layer/ffn.hpp>
#include <moesaic/route/plan.hpp>

namespace moesaic {

/// A layer of equal feed-forwards is one run, and compiled as nothing else. Slots keep the order of one plan over all experts: a run's
/// products see its slice of expert_offsets, and every kind of expert fills rows of the same expert_out.
template <class Spec>
struct expert_runs {
  static constexpr auto kinds = validated<Spec>::config.expert;
  static constexpr auto shape = shapes(validated<Spec>::config);
  static constexpr bool has_special = shape.feed_forwards < shape.experts;
  static constexpr bool by_slot = validated<Spec>::config.router.weights == combine_weight::on_input;   // x has a row a slot
  static constexpr int width = kinds.latent != 0 ? kinds.latent : shape.hidden;                         // of rows of x and y
  using scalar = scalar_of<shape.activations>;
  using inputs = product_inputs<Spec, shape.ffn_format.type>;
  template <int Run>
  using feed_forwards = ffn<Spec, shape.widths.run[Run].experts, shape.widths.run[Run].intermediate, width>;

  struct scratch {
    view<scalar> activated;              // [slots, intermediate] of the widest run: the runs have it one after another, as the next
    typename inputs::memory codes;       // of what is activated
  };
  static constexpr scratch carve(arena& memory, std::int64_t slots) {
    return {memory.take<scalar>(slots, shape.intermediate), inputs::carve(memory, slots * shape.intermediate)};
  }

  /// x [tokens, width] (by_slot: [tokens · slots, width]), and what inputs::of gave for it -> y [tokens · slots, width], by expert: the rows that the
  /// plan uses.
  template <class Where, class Read>
  static void forward(Where& where, moe_weights const& w, view<const scalar> x, Read const& read, dispatch_plan const& plan, scratch const& s,
                      view<scalar> y) {
    auto const& offsets = plan.expert_offsets;
    auto const offsets_from = [&](int first) { return list<const std::int32_t>{offsets.data + first, offsets.size - first}; };
    auto const* const token_of_slot = by_slot ? nullptr : plan.token_of_slot.data;
    each_run([&]<int Run>(int first) {
      view<scalar> const activated{s.activated.data, y.rows, shape.widths.run[Run].intermediate};
      feed_forwards<Run>::forward_coded(where, run_of(w, Run), read, offsets_from(first), token_of_slot, {{}, activated, s.codes}, y);
    });
    if constexpr (has_special) special_experts<scalar>(where, kinds, w.constant, x, offsets_from(shape.feed_forwards), token_of_slot, y);
  }

  static constexpr void carve_weights(moe_weights& w, arena& memory) {
    each_run([&]<int Run>(int) { run_of(w, Run) = feed_forwards<Run>::carve_weights(memory); });
    if constexpr (kinds.constant > 0)
      w.constant = {memory.take<float>(kinds.constant * 2 * shape.hidden), memory.take<float>(kinds.constant * shape.hidden)};
  }

  template <class Loader>
  static void load(moe_weights const& w, Loader& from) {
    each_run([&]<int Run>(int first) { feed_forwards<Run>::load_experts(run_of(w, Run), from, first); });
    if constexpr (kinds.constant > 0) {
      constexpr std::int64_t hidden = shape.hidden;
      for (int i = 0; i < kinds.constant; ++i) {
        int const number = shape.experts - kinds.constant + i;
        from.values(from.names.constant_gate, "", {w.constant.gate.data + i * 2 * hidden, 2 * hidden}, {2, hidden}, number);
        from.vector(from.names.constant_value, "", {w.constant.value.data + i * hidden, hidden}, number);
      }
    }
  }

 private:
  /// f.template operator()<Run>(first) for every run, `first` the number of its first expert.
  template <class F>
  static constexpr void each_run(F&& f) {
    [&]<int... Run>(std::integer_sequence<int, Run...>) {
      int first = 0;
      ((f.template operator()<Run>(first), first += shape.widths.run[Run].experts), ...);
    }(std::make_integer_sequence<int, shape.widths.count>{});
  }
};

}  // namespace moesaic
