// Soft mixture of experts: every slot reads a weighted mean of all tokens, every token a weighted mean of all slots.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <moesaic/layer/ffn.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic {

struct soft_moe_weights {
  packed_matrix slots;                 ///< Φ [experts · slots an expert, hidden], fp32
  list<const double> length;           ///< [experts · slots an expert] of its rows, or empty where nothing is normalised
  list<const float> scale;             ///< [1] learned factor of the cosines, or empty
  ffn_weights experts;
};

/// Soft MoE (arXiv 2308.00951): logits L = X Φᵀ; D = softmax of L over the tokens of a sequence, C = softmax over the slots; slots
/// X̃ = Dᵀ X, each through its expert, and y = residual + C · expert(X̃). `Each` slots an expert; hidden, expert, router.experts and storage are
/// the Spec's, and its top_k, routing, attention and norms say nothing. Normalised (the paper's form): L = scale · cosines of X and Φ.
///
/// No choice is made, so nothing is dropped and everything has a gradient; the cost is that of experts · Each tokens a sequence, whatever its
/// length, and of 4 · tokens · slots · hidden FLOPs for the two mixtures. Helps encoders of images. Not causal, every token reads every other
/// of its sequence, so it is a layer of its own and no policy of a decoder's block; sequences do not see each other (batch-invariant).
template <class Spec, int Each, bool Normalised = true>
struct soft_moe {
  static constexpr auto config = validated<Spec>::config;
  static constexpr auto shape = shapes(config);
  static_assert(config.router.experts > 0, "soft_moe needs router.experts, because its slots belong to experts");
  static_assert(Each > 0, "soft_moe needs at least one slot an expert, because an expert without slots computes nothing");
  static_assert(shape.feed_forwards == shape.experts && shape.widths.count == 1,
                "soft_moe needs experts that are feed-forwards of one width, because all of them run side by side over equally many slots");
  static_assert(config.expert.latent == 0 && !config.expert.mixture_bias && config.router.weights != combine_weight::on_input,
                "soft_moe needs experts that read and write rows of hidden, without a bias or a weight of their own on them, because its slots are mixed");
  static constexpr int slots = shape.experts * Each;
  using scalar = scalar_of<shape.activations>;
  using sum = accumulator<scalar>;
  using experts = ffn<Spec, shape.experts, shape.intermediate>;
  using weights = soft_moe_weights;

  struct scratch {
    call_flags* flags;
    view<sum> logits, dispatch, combine; // [tokens, slots]
    list<std::int32_t> offsets;          // [experts + 1]
    view<scalar> mixed, out;             // [experts · sequences · Each, hidden]
    typename experts::scratch activated;
  };

  template <class Where>
  static constexpr void check_where() {
    static_assert(!requires { requires Where::on_device; }, "a Soft MoE layer needs a host::pool, because it has no kernels for a device");
  }

  /// x, residual [tokens, hidden] -> y [tokens, hidden], which may be residual. first [sequences + 1], where the caller runs: sequence s
  /// has the rows [first[s], first[s + 1]). `workspace` has workspace_bytes(tokens, sequences) bytes. A token whose logits are not finite
  /// gives nothing, gets nothing but its residual and raises the flag that `check(where, workspace)` reads.
  /// Errors, before anything is written: shapes that do not fit (invalid_argument), workspace_too_small, wrong_weights.
  template <class Where>
  static status forward(Where& where, weights const& w, view<const scalar> x, view<const scalar> residual, list<const std::int32_t> first,
                        view<scalar> y, list<std::byte> workspace) {
    check_where<Where>();
    if (x.columns != shape.hidden) return invalid("x must have `hidden` columns", shape.hidden, x.columns);
    if (residual.rows != x.rows || residual.columns != x.columns) return invalid("residual must have a row a token", x.rows, residual.rows);
    if (y.rows != x.rows || y.columns != x.columns) return invalid("y must have a row a token", x.rows, y.rows);
    if (first.size < 1 || first[0] != 0) return invalid("first must begin with 0", 0, first.size < 1 ? -1 : first[0]);
    for (std::int64_t s = 1; s < first.size; ++s)
      if (first[s] < first[s - 1]) return invalid("first must ascend", first[s - 1], first[s]);
    auto const sequences = first.size - 1;
    if (first[sequences] != x.rows) return invalid("first must end with the number of tokens", x.rows, first[sequences]);
    if (sequences > most_sequences)
      return invalid("a call takes at most so many sequences, because slots are counted in 32 bits", most_sequences, sequences);
    if (auto fits = check_weights(w); !fits) return fits;
    arena memory(workspace.data, static_cast<std::size_t>(workspace.size));
    auto const s = carve(memory, x.rows, sequences);
    if (!memory.fits())
      return {status_code::workspace_too_small, "the workspace must have workspace_bytes(tokens, sequences) bytes",
              static_cast<std::int64_t>(workspace_bytes(x.rows, sequences)), workspace.size};
    clear(where, s.flags);
    linear<dtype::fp32>(where, w.slots, x, {}, s.logits);                                                  // [tokens, slots]
    if constexpr (Normalised) to_cosines<scalar>(where, x, w.length, static_cast<double>(w.scale[0]), s.logits);
    soft_weights<sum>(where, s.logits, first, s.dispatch, s.combine, &s.flags->not_finite);                        // [tokens, slots], two of them
    soft_dispatch<scalar>(where, x, s.dispatch, first, Each, s.mixed);                                     // [slots · sequences, hidden]
    even_offsets(where, sequences * Each, s.offsets);
    experts::forward(where, w.experts, s.mixed, s.offsets, nullptr, s.activated, s.out);                     // [slots · sequences, hidden]
    soft_combine<scalar>(where, s.out, s.combine, first, Each, residual, y);                               // [tokens, hidden]
    return finish(where);
  }
  static constexpr std::int64_t most_sequences = 0x7fff'ffff / slots;

  static constexpr std::size_t workspace_bytes(std::int64_t tokens, std::int64_t sequences) {
    arena counting;
    carve(counting, tokens, sequences);
    return counting.used() + arena::alignment;
  }
  static constexpr scratch carve(arena& memory, std::int64_t tokens, std::int64_t sequences) {
    auto const matrix = [&] { return memory.take<sum>(tokens, slots); };
    auto const rows = sequences * slots;
    scratch s{};
    s.flags = memory.take<call_flags>(1).data;             // first, where `check` finds it
    s.logits = matrix(), s.dispatch = matrix(), s.combine = matrix();
    s.offsets = memory.take<std::int32_t>(shape.experts + 1);
    s.mixed = memory.take<scalar>(rows, shape.hidden), s.out = memory.take<scalar>(rows, shape.hidden);
    s.activated = experts::carve(memory, rows);
    return s;
  }

  static constexpr std::size_t weights_bytes() {
    arena counting;
    carve_weights(counting);
    return counting.used();
  }
  static constexpr weights carve_weights(arena& memory) {
    return {take_matrix(memory, dtype::fp32, slots, shape.hidden), memory.take<double>(Normalised ? slots : 0),
            memory.take<float>(Normalised ? 1 : 0), experts::carve_weights(memory)};
  }
  /// Φ under the router's names, its factor as "mlp.gate.scale", the experts under theirs. Throws as block::load does.
  template <class Where, tensor_source Source>
  static auto load(Where& where, Source const& source, std::string_view prefix, tensor_names const& names = {}) {
    check_where<Where>();
    auto memory = allocate(where, weights_bytes());
    arena over(memory.data(), memory.size());
    auto const w = carve_weights(over);
    loader from(where, source, prefix, names);
    from.template matrix<dtype::fp32>(w.slots, 0, {from.find(names.router, "", {slots, shape.hidden})});
    if constexpr (Normalised) {
      from.lengths(w.slots, w.length);
      from.vector(spellings{"mlp.gate.scale"}, "", w.scale);
    }
    experts::load_experts(w.experts, from);
    return loaded<weights, decltype(memory)>{std::move(memory), w};
  }

  static status check_weights(weights const& w) {
    arena counting;
    auto const wanted = carve_weights(counting);
    bool const same = same_shape(w.slots, wanted.slots) && same_shape(w.length, wanted.length) && same_shape(w.scale, wanted.scale) &&
                      same_shape(w.experts.gate_up, wanted.experts.gate_up) && same_shape(w.experts.down, wanted.experts.down) &&
                      same_shape(w.experts.gate_up_bias, wanted.experts.gate_up_bias) &&
                      same_shape(w.experts.down_bias, wanted.experts.down_bias);
    if (same) return {};
    return {status_code::wrong_weights, "the weights must have been loaded for a configuration of the same shapes and storage", 0, 0};
  }

  static_assert(config.residual_scale == 1.0 && config.shared.intermediate == 0 && config.shortcut == shortcut::none,
                "soft_moe needs residual_scale, shared and shortcut to be left alone, because it adds its mixture as it is to the residual that it is given, "
                "and nothing beside it");
};

}  // namespace moesaic
