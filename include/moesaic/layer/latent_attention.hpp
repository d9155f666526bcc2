// Multi-head latent attention: down projections → norms of the latents → queries up → rotary embedding → append the latent → attend → output projection.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <moesaic/config/latent.hpp>
#include <moesaic/layer/attention.hpp>
#include <moesaic/layer/inputs.hpp>
#include <moesaic/layer/norm.hpp>

namespace moesaic {

/// The same interface as attention<Spec>, for a configuration with attention.latent (DeepSeek-V2, arXiv:2405.04434). The cache keeps a token's
/// normalised latent (times kv_scale) and its rotated key: kv_rank + rope_dim elements. A Spec may have `static constexpr latent_form attention_form`,
/// to be computed in that form alone: without it by_shape, or absorbed where purpose is batch_invariant, which does not compile with by_shape.
template <class Spec>
struct latent_attention {
  static constexpr auto whole = validated<Spec>::config;
  static constexpr auto config = whole.attention;
  static constexpr auto latent = config.latent;
  static constexpr auto shape = shapes(whole);
  static constexpr auto heads = latent_shape_of(whole);
  static constexpr auto stored = shape.attention_format.type;
  static constexpr norm_config latent_norm{.epsilon = latent.epsilon};
  static constexpr bool low_rank_q = latent.q_rank != 0;
  static constexpr std::int64_t q_columns = low_rank_q ? latent.q_rank : shape.q_width;   ///< of the first projection: then the latent, then the key
  using scalar = scalar_of<shape.activations>;
  using inputs = product_inputs<Spec, stored>;

  static constexpr latent_form form = [] {
    if constexpr (requires { Spec::attention_form; }) return Spec::attention_form;
    else return whole.purpose == purpose::batch_invariant ? latent_form::absorbed : latent_form::by_shape;
  }();

  static_assert(whole.purpose != purpose::batch_invariant || form != latent_form::by_shape,
                "attention_form of a layer whose purpose is batch_invariant must be absorbed or expanded, because by_shape depends on how many tokens a "
                "call brings");

  struct known_shape {
    static constexpr latent_shape value = heads;
  };

  struct scratch {
    view<scalar> down;                   // [tokens, q_columns + kv_rank + rope_dim]
    view<scalar> q;                      // [tokens, q_width], or empty where it is part of `down`
    view<scalar> heads;                  // [tokens, heads_width]
    view<scalar> out;                    // [tokens, hidden]
    latent_memory<scalar> memory;
    typename inputs::memory codes;       // of x, of the latent of queries, of heads
  };
  static constexpr std::int64_t widest = [] {              // of what its projections read
    std::int64_t const width = shape.heads_width > shape.hidden ? shape.heads_width : shape.hidden;
    return width > latent.q_rank ? width : latent.q_rank;
  }();
  template <class Where = void>
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    constexpr bool on_device = std::is_void_v<Where> || requires { requires Where::on_device; };
    auto const rows = [&](std::int64_t width) { return memory.take<scalar>(tokens, width); };
    return {rows(q_columns + heads.slot_dim()), rows(low_rank_q ? shape.q_width : 0), rows(shape.heads_width), rows(shape.hidden),
            latent_memory<scalar>::carve(memory, heads, tokens, form, on_device), inputs::carve(memory, tokens * widest)};
  }

  /// x [tokens, hidden], normalised -> s.out = attention(x). The tokens' latents and keys are in the cache afterwards.
  template <class Where, class Cache, class Tap = no_tap>
  static status forward(Where& where, attention_weights const& w, view<const scalar> x, row_sites sites, Cache const& cache, scratch const& s, Tap&& tap = {},
                        int layer = 0) {
    auto const columns = [&](std::int64_t first, std::int64_t width) { return view<scalar>(s.down.data + first, s.down.rows, width, s.down.stride); };
    auto const c = columns(q_columns, heads.rank), key = columns(q_columns + heads.rank, heads.rope_dim);   // the latent, the key that all heads share
    auto const q = low_rank_q ? s.q : columns(0, shape.q_width);
    auto const show = [&](stage what, view<scalar> values) { tap(tap_point{layer, what}, view<const scalar>(values)); };

    if (auto done = check(where, cache, heads); !done) return done;

    linear<stored>(where, w.qkv, inputs::of(where, x, s.codes), {}, s.down);
    if constexpr (low_rank_q) {
      auto const q_latent = columns(0, q_columns);
      show(stage::q_a, q_latent);
      normalize<scalar, norm::rms(latent_norm)>(where, latent_norm, norm_weights{w.q_norm, {}}, q_latent, q_latent);
      show(stage::q_a_norm, q_latent);
      linear<stored>(where, w.q_up, inputs::of(where, q_latent, s.codes), {}, q);
    }
    show(stage::q, q), show(stage::kv_a, columns(q_columns, heads.slot_dim()));
    normalize<scalar, norm::rms(latent_norm)>(where, latent_norm, norm_weights{w.k_norm, {}}, c, c);
    show(stage::kv_a_norm, c);
    if constexpr (latent.q_scale != 1) multiply<scalar>(where, latent.q_scale, q);
    if constexpr (latent.kv_scale != 1) multiply<scalar>(where, latent.kv_scale, c);
    if constexpr (requires { tap.expanded_latents(std::int64_t{}, std::int64_t{}); })
      if (view<scalar> const all = tap.expanded_latents(x.rows, shape.heads * (heads.head_dim + heads.value_dim)); all.data != nullptr) {
        expand_latents<scalar, stored>(where, heads, w, c, all);
        show(stage::kv_b, all);
      }
    if constexpr (shape.rotary_dim != 0) {
      list<const double> const frequencies{w.rope.data + rope_parameter_count, rope_frequency_count(config, shape.rotary_dim)};
      view<scalar> const turning(q.data + heads.head_dim, q.rows, q.columns - heads.head_dim, q.stride);      // the end of each head
      rotate<scalar>(where, rope_of<scalar>(where, config, heads.key_dim(), frequencies), sites.position, turning, shape.heads, sites.sequence);
      rotate<scalar>(where, rope_of<scalar>(where, config, heads.rope_dim, frequencies), sites.position, key, 1, sites.sequence);
    }
    if (auto done = append<scalar, shape.cache>(where, cache, c, key, sites.sequence, sites.position, sites.flags); !done) return done;
    show(stage::q_rope, q), show(stage::k_rope, key);

    auto const scale = attention_scale(config, heads.key_dim());
    if (auto done = attend_latent<scalar, stored, shape.cache, known_shape>(where, form, scale, heads, cache, w, view<const scalar>(q), sites.sequence,
                                                                            sites.position, s.memory, s.heads); !done) return done;
    if constexpr (requires { tap.attention_probabilities(int{}, std::int64_t{}); })
      if (auto const probs = tap.attention_probabilities(shape.heads, x.rows); probs.data != nullptr) {
        if (auto done = latent_probabilities<scalar, stored, shape.cache>(where, scale, heads, cache, w, view<const scalar>(q), sites.sequence, sites.position,
                                                                          s.memory, probs); !done) return done;
        tap(tap_point{layer, stage::attn_probs}, view<const accumulator<scalar>>(probs));
      }
    show(stage::attn_heads, s.heads);

    linear<stored>(where, w.out, inputs::of(where, s.heads, s.codes), w.out_bias, s.out);
    show(stage::attn_out, s.out);
    return finish(where);
  }

  static constexpr attention_weights carve_weights(arena& memory) {
    auto const matrix = [&](std::int64_t outputs, std::int64_t inputs, std::int64_t count = 1) {
      return take_matrix(memory, shape.attention_format, outputs, inputs, 1, count);
    };
    attention_weights w;
    w.qkv = matrix(q_columns + heads.slot_dim(), shape.hidden);
    w.out = matrix(shape.hidden, shape.heads_width);
    w.out_bias = memory.take<float>(config.out_bias ? shape.hidden : 0);
    w.q_norm = memory.take<float>(latent.q_rank);
    w.k_norm = memory.take<float>(heads.rank);
    w.rope = memory.take<double>(rope_parameter_count + rope_frequency_count(config, shape.rotary_dim));
    if (low_rank_q) w.q_up = matrix(shape.q_width, latent.q_rank);
    w.key_up = matrix(heads.head_dim, heads.rank, shape.heads);
    w.key_up_transposed = take_matrix(memory, turned(shape.attention_format), heads.rank, heads.head_dim, 1, shape.heads);
    w.value_up = matrix(heads.value_dim, heads.rank, shape.heads);
    return w;
  }
  template <class Loader>
  static void load(attention_weights const& w, Loader& from) {
    auto const& n = from.names;
    constexpr std::int64_t hidden = shape.hidden, key = heads.head_dim, value = heads.value_dim;
    auto const rows = [&](spellings const& name, std::int64_t count, std::int64_t width) { return from.find(name, ".weight", {count, width}); };
    from.template matrix<stored>(w.qkv, 0, {rows(low_rank_q ? n.q_down : n.q, q_columns, hidden), rows(n.kv_down, heads.slot_dim(), hidden)});
    from.template matrix<stored>(w.out, 0, {rows(n.out, hidden, shape.heads_width)});
    if (low_rank_q) from.template matrix<stored>(w.q_up, 0, {rows(n.q_up, shape.q_width, latent.q_rank)});
    auto const up = rows(n.kv_up, shape.heads * (key + value), heads.rank);      // a head's rows of keys, then those of its values
    auto const piece = [&](std::int64_t first, std::int64_t count) {
      auto some = up;
      some.first = first, some.rows = count;
      return some;
    };
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      from.template matrix_and_transpose<stored>(w.key_up, w.key_up_transposed, h, piece(h * (key + value), key));
      from.template matrix<stored>(w.value_up, h, {piece(h * (key + value) + key, value)});
    }
    if (config.out_bias) from.vector(n.out, ".bias", w.out_bias);
    if (low_rank_q) from.vector(n.q_down_norm, "", w.q_norm);
    from.vector(n.kv_down_norm, "", w.k_norm);
    from.rotary(config, shape.rotary_dim, w.rope);
  }
};

template <class Spec, bool latent = (validated<Spec>::config.attention.latent.kv_rank != 0)>
struct attention_kind {
  using type = attention<Spec>;
};
template <class Spec>
struct attention_kind<Spec, true> {
  using type = latent_attention<Spec>;
};
/// What a layer attends by.
template <class Spec>
using attention_of = typename attention_kind<Spec>::type;

/// An empty cache for a layer's attention: of keys and values, or of latents.
template <class Spec, class Where>
auto make_attention_cache(Where& where, int sequences, int max_tokens) {
  constexpr auto config = validated<Spec>::config;
  constexpr auto shape = shapes(config);
  if constexpr (config.attention.latent.kv_rank != 0) return make_latent_cache(where, shape.cache, latent_shape_of(config), sequences, max_tokens);
  else return make_kv_cache<scalar_of<shape.activations>>(where, shape, sequences, max_tokens);
}

}  // namespace moesaic
