// Grouped-query attention: qkv projection → QK norm → rotary embedding → append to the cache → attend → output projection.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/math.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/load.hpp>
#include <moesaic/layer/tap.hpp>

namespace moesaic {

/// Which sequence each row of a batch belongs to, and its position there. Rows of many sequences mix freely: whole prompts, pieces of
/// prompts and single tokens; those of one sequence stand in ascending order of position.
struct row_sites {
  list<const std::int32_t> sequence;     ///< [tokens], index into the cache
  list<const std::int32_t> position;     ///< [tokens]
  call_flags* flags = nullptr;           ///< where a backend finds out late that one lies outside the cache
};

/// Keys and values are kept in the cache in the packed layout, so the projections' kernels serve attention too.
template <class Spec>
struct attention {
  static constexpr auto whole = validated<Spec>::config;
  static constexpr auto config = whole.attention;
  static constexpr auto shape = shapes(whole);
  static constexpr auto stored = shape.attention_format.type;
  using scalar = scalar_of<shape.activations>;

  struct scratch {
    view<scalar> qkv;                    // [tokens, q_width + k_width + v_width]
    view<scalar> heads;                  // [tokens, heads_width]
    view<scalar> out;                    // [tokens, hidden]
  };
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    auto const rows = [&](std::int64_t width) { return memory.take<scalar>(tokens, width); };
    return {rows(shape.qkv_width), rows(shape.heads_width), rows(shape.hidden)};
  }

  /// x [tokens, hidden], normalised -> s.out = attention(x). The tokens' keys and values are in the cache afterwards.
  template <class Where, class Cache, class Tap = no_tap>
  static status forward(Where& where, attention_weights const& w, view<const scalar> x, row_sites sites, Cache const& cache, scratch const& s, Tap&& tap = {},
                        int layer = 0) {
    constexpr std::int64_t q_width = shape.q_width, k_width = shape.k_width, v_width = shape.v_width;
    auto const columns = [&](std::int64_t first, std::int64_t width) { return view<scalar>(s.qkv.data + first, s.qkv.rows, width, s.qkv.stride); };
    auto const q = columns(0, q_width), k = columns(q_width, k_width), v = columns(q_width + k_width, v_width), qk = columns(0, q_width + k_width);
    auto const show = [&](stage what, view<scalar> values) { tap(tap_point{layer, what}, view<const scalar>(values)); };

    if (auto done = check(where, cache, shape.kv_heads, shape.head_dim); !done) return done;

    linear<stored>(where, w.qkv, x, w.qkv_bias, s.qkv);
    show(stage::q, q), show(stage::k, k), show(stage::v, v);
    if constexpr (config.qk_norm != qk_norm::none) {
      constexpr bool full = config.qk_norm == qk_norm::full_width;
      normalize_heads(where, whole.norm.epsilon, w.q_norm, q, full ? 1 : shape.heads, full ? shape.q_width : shape.head_dim);
      normalize_heads(where, whole.norm.epsilon, w.k_norm, k, full ? 1 : shape.kv_heads, full ? shape.k_width : shape.head_dim);
      show(stage::q_norm, q), show(stage::k_norm, k);
    }
    list<const double> const frequencies{w.rope.data + rope_parameter_count, shape.rotary_dim / 2};
    if (auto done = rotate_and_append<scalar, shape.cache>(where, rope_of<scalar>(where, config, shape.head_dim, frequencies), qk, shape.heads + shape.kv_heads,
                                                           cache, k, v, sites.sequence, sites.position, sites.flags); !done) return done;
    show(stage::q_rope, q), show(stage::k_rope, k);

    auto const scale = attention_scale(config, shape.head_dim);
    if (auto done = attend<scalar, shape.cache, shape.head_dim>(where, scale, cache, q, sites.sequence, sites.position, s.heads); !done) return done;
    if constexpr (requires { tap.attention_probabilities(int{}, std::int64_t{}); })
      if (auto const probs = tap.attention_probabilities(shape.heads, x.rows); probs.data != nullptr) {
        if (auto done = attention_probabilities<scalar, shape.cache>(where, scale, cache, q, sites.sequence, sites.position, probs); !done) return done;
        tap(tap_point{layer, stage::attn_probs}, view<const accumulator<scalar>>(probs));
      }
    show(stage::attn_heads, s.heads);

    linear<stored>(where, w.out, view<const scalar>(s.heads), w.out_bias, s.out);
    show(stage::attn_out, s.out);
    return finish(where);
  }

  static constexpr attention_weights carve_weights(arena& memory) {
    constexpr bool per_head = config.qk_norm == qk_norm::per_head, full = config.qk_norm == qk_norm::full_width;
    return {take_matrix(memory, shape.attention_format, shape.qkv_width, shape.hidden),
            take_matrix(memory, shape.attention_format, shape.hidden, shape.heads_width),
            memory.take<float>(config.qkv_bias ? shape.qkv_width : 0),
            memory.take<float>(config.out_bias ? shape.hidden : 0),
            memory.take<float>(per_head ? shape.head_dim : full ? shape.q_width : 0),
            memory.take<float>(per_head ? shape.head_dim : full ? shape.k_width : 0),
            memory.take<double>(rope_parameter_count + shape.rotary_dim / 2)};
  }
  template <class Loader>
  static void load(attention_weights const& w, Loader& from) {
    auto const& n = from.names;
    constexpr std::int64_t hidden = shape.hidden, q = shape.q_width, k = shape.k_width, v = shape.v_width, heads = shape.heads_width;
    auto const rows = [&](spellings const& name, std::int64_t count) { return from.find(name, ".weight", {count, hidden}); };
    from.template matrix<stored>(w.qkv, 0, {rows(n.q, q), rows(n.k, k), rows(n.v, v)});
    from.template matrix<stored>(w.out, 0, {from.find(n.out, ".weight", {hidden, heads})});
    if (config.qkv_bias) {
      from.vector(n.q, ".bias", {w.qkv_bias.data, q});
      from.vector(n.k, ".bias", {w.qkv_bias.data + q, k});
      from.vector(n.v, ".bias", {w.qkv_bias.data + q + k, v});
    }
    if (config.out_bias) from.vector(n.out, ".bias", w.out_bias);
    if (config.qk_norm != qk_norm::none) {
      from.vector(n.q_norm, "", w.q_norm);
      from.vector(n.k_norm, "", w.k_norm);
    }
    from.rotary(config, shape.rotary_dim, w.rope);
  }
};

}  // namespace moesaic
