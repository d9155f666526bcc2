// Grouped-query attention: qkv projection → clip → QK norm → rotary embedding → append to the cache → attend → output gate → output projection. The
// projections of queries and output may be experts, which a router chooses for each token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/config/attention_rule.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/attention_experts.hpp>
#include <moesaic/layer/inputs.hpp>
#include <moesaic/layer/load.hpp>
#include <moesaic/layer/tap.hpp>

namespace moesaic {

/// Which sequence each row of a batch belongs to, and its position there. Rows of many sequences mix freely: whole prompts, pieces of
/// prompts and single tokens; those of one sequence stand in ascending order of position.
struct row_sites {
  list<const std::int32_t> sequence;     ///< [tokens], index into the cache
  list<const std::int32_t> position;     ///< [tokens]
  call_flags* flags = nullptr;           ///< of the call: raised where a backend finds out late that one lies outside the cache, and by a router of attention
};

/// Keys and values are kept in the cache in the packed layout, so the projections' kernels serve attention too.
template <class Spec>
struct attention {
  static constexpr auto whole = validated<Spec>::config;
  static constexpr auto config = whole.attention;
  static constexpr auto shape = shapes(whole);
  static constexpr auto stored = shape.attention_format.type;
  static constexpr bool mixed = config.router.experts != 0;
  using scalar = scalar_of<shape.activations>;
  using inputs = product_inputs<Spec, stored>;
  using experts = std::conditional_t<mixed, attention_experts<Spec>, no_attention_experts>;

  struct scratch {
    view<scalar> qkv;                    // [tokens, qkv_width]
    view<scalar> heads;                  // [tokens, heads_width]
    view<scalar> out;                    // [tokens, hidden]
    typename experts::scratch mixture;
    typename inputs::memory codes;       // of x, then of heads
  };
  template <class /*Where*/ = void>
  static constexpr scratch carve(arena& memory, std::int64_t tokens) {
    auto const rows = [&](std::int64_t width) { return memory.take<scalar>(tokens, width); };
    return {rows(shape.qkv_width), rows(shape.heads_width), rows(shape.hidden), experts::carve(memory, tokens),
            inputs::carve(memory, tokens * (shape.hidden > shape.heads_width ? shape.hidden : shape.heads_width))};
  }

  /// x [tokens, hidden], normalised -> s.out = attention(x). The tokens' keys and values are in the cache afterwards.
  template <class Where, class Cache, class Tap = no_tap>
  static status forward(Where& where, attention_weights const& w, view<const scalar> x, row_sites sites, Cache const& cache, scratch const& s, Tap&& tap = {},
                        int layer = 0) {
    constexpr std::int64_t q_width = mixed ? 0 : shape.q_width, k_width = shape.k_width, v_width = shape.v_width, gate_width = shape.gate_width;   // of qkv
    auto const columns = [&](std::int64_t first, std::int64_t width) { return view<scalar>(s.qkv.data + first, s.qkv.rows, width, s.qkv.stride); };
    auto const k = columns(q_width, k_width), v = columns(q_width + k_width, v_width), qk = columns(0, q_width + k_width);
    auto const q = [&] {
      if constexpr (mixed) return s.mixture.q;
      else return columns(0, q_width);
    }();
    auto const show = [&](stage what, view<scalar> values) { tap(tap_point{layer, what}, view<const scalar>(values)); };

    if (auto done = check(where, cache, shape.kv_heads, shape.key_dim, shape.value_dim); !done) return done;

    auto const read = inputs::of(where, x, s.codes);
    if constexpr (mixed)
      if (auto done = experts::queries(where, w, x, read, s.mixture, sites.flags, tap, layer); !done) return done;
    linear<stored>(where, w.qkv, read, w.qkv_bias, s.qkv);
    if constexpr (config.qkv_clip != 0) clip<scalar>(where, config.qkv_clip, columns(0, q_width + k_width + v_width));
    show(stage::q, q), show(stage::k, k), show(stage::v, v);
    constexpr bool norms = config.qk_norm != qk_norm::none, late = config.qk_norm_after_rope, heads_turn = config.rotary;
    if constexpr (norms && !late) {
      normalize_queries_and_keys(where, w, q, k);
      show(stage::q_norm, q), show(stage::k_norm, k);
    }
    constexpr int turning_heads = (mixed ? 0 : shape.heads) + shape.kv_heads;   // of qkv
    auto const table = [&] { return rope_of<scalar>(where, config, shape.key_dim, {w.rope.data + rope_parameter_count, rope_frequency_count(config, shape.rotary_dim)}); };
    if constexpr (heads_turn && mixed) rotate<scalar>(where, table(), sites.position, q, shape.heads, sites.sequence);
    if constexpr (heads_turn && !(norms && late)) {
      auto const done = rotate_and_append<scalar, shape.cache>(where, table(), qk, turning_heads, cache, k, v, sites.sequence, sites.position, sites.flags);
      if (!done) return done;
    } else {
      if constexpr (heads_turn) rotate<scalar>(where, table(), sites.position, qk, turning_heads, sites.sequence);
      if constexpr (norms && late) normalize_queries_and_keys(where, w, q, k);
      if (auto done = append<scalar, shape.cache>(where, cache, k, v, sites.sequence, sites.position, sites.flags); !done) return done;
    }
    if constexpr (config.temperature.scale != 0) scale_queries<scalar>(where, config.temperature, sites.position, q);
    show(stage::q_rope, q), show(stage::k_rope, k);

    auto const rule = attention_rule_of(config, attention_scale(config, shape.key_dim), w.sinks);
    if (auto done = attend<scalar, shape.cache, shape.key_dim, shape.value_dim, plain_attention(config)>(where, rule, cache, q, sites.sequence, sites.position,
                                                                                                        s.heads); !done) return done;
    if constexpr (requires { tap.attention_probabilities(int{}, std::int64_t{}); })
      if (auto const probs = tap.attention_probabilities(shape.heads, x.rows); probs.data != nullptr) {
        if (auto done = attention_probabilities<scalar, shape.cache>(where, rule, cache, q, sites.sequence, sites.position, probs); !done) return done;
        tap(tap_point{layer, stage::attn_probs}, view<const accumulator<scalar>>(probs));
      }
    if constexpr (gate_width != 0) gate_heads<scalar>(where, columns(q_width + k_width + v_width, gate_width), s.heads);
    show(stage::attn_heads, s.heads);

    if constexpr (mixed) experts::out(where, w, s.heads, s.mixture, s.codes, s.out);
    else linear<stored>(where, w.out, inputs::of(where, s.heads, s.codes), w.out_bias, s.out);
    show(stage::attn_out, s.out);
    return finish(where);
  }

  /// RMS norm in place, of each head or of the whole width.
  template <class Where>
  static void normalize_queries_and_keys(Where& where, attention_weights const& w, view<scalar> q, view<scalar> k) {
    constexpr bool full = config.qk_norm == qk_norm::full_width;
    normalize_heads(where, whole.norm, w.q_norm, q, full ? 1 : shape.heads, full ? shape.q_width : shape.key_dim);
    normalize_heads(where, whole.norm, w.k_norm, k, full ? 1 : shape.kv_heads, full ? shape.k_width : shape.key_dim);
  }

  static constexpr attention_weights carve_weights(arena& memory) {
    constexpr bool per_head = config.qk_norm == qk_norm::per_head, full = config.qk_norm == qk_norm::full_width;
    attention_weights w{take_matrix(memory, shape.attention_format, shape.qkv_width, shape.hidden),
                        take_matrix(memory, shape.attention_format, shape.hidden, shape.heads_width / shape.attention_slots, 1, shape.attention_experts),
                        memory.take<float>(config.qkv_bias ? shape.qkv_width : 0),
                        memory.take<float>(config.out_bias ? shape.hidden : 0),
                        memory.take<float>(per_head ? shape.head_dim : full ? shape.q_width : 0),
                        memory.take<float>(per_head ? shape.head_dim : full ? shape.k_width : 0),
                        memory.take<double>(rope_parameter_count + rope_frequency_count(config, shape.rotary_dim)),
                        memory.take<float>(config.sinks ? shape.heads : 0)};
    if constexpr (mixed) experts::carve_weights(w, memory);
    return w;
  }
  /// A checkpoint's rows of q, k and v are three tensors, or, where nothing stands between them, one. With an output gate, each head's gate
  /// rows follow its query rows (Qwen3-Next); here they are the last.
  template <class Loader>
  static void load(attention_weights const& w, Loader& from) {
    auto const& n = from.names;
    constexpr std::int64_t hidden = shape.hidden, q = shape.q_width, k = shape.k_width, v = shape.v_width, gate = shape.gate_width, heads = shape.heads_width;
    auto const rows = [&](spellings const& name, std::int64_t count) { return from.find(name, ".weight", {count, hidden}); };
    auto const bias = [&](std::int64_t first, std::int64_t count) { return list<const float>(w.qkv_bias.data + first, count); };
    constexpr std::int64_t key_rows = shape.key_dim, gate_rows = shape.value_dim, both = key_rows + gate_rows;
    if constexpr (mixed) {
      experts::load(w, from);
      if (from.has(n.kv, ".weight")) from.template matrix<stored>(w.qkv, 0, {rows(n.kv, k + v)});
      else from.template matrix<stored>(w.qkv, 0, {rows(n.k, k), rows(n.v, v)});
    } else if constexpr (gate != 0) {
      auto const* const stored_q = rows(n.q, q + gate).stored;
      from.template matrix<stored>(w.qkv, 0, {{stored_q, q, 0, key_rows, both}, rows(n.k, k), rows(n.v, v), {stored_q, gate, key_rows, gate_rows, both}});
      if (config.qkv_bias) {
        from.vector(n.q, ".bias", bias(0, q), q + gate, {nullptr, q, 0, key_rows, both});
        from.vector(n.q, ".bias", bias(q + k + v, gate), q + gate, {nullptr, gate, key_rows, gate_rows, both});
      }
    } else if (from.has(n.qkv, ".weight")) {
      from.template matrix<stored>(w.qkv, 0, {rows(n.qkv, q + k + v)});
      if (config.qkv_bias) from.vector(n.qkv, ".bias", w.qkv_bias);
    } else {
      from.template matrix<stored>(w.qkv, 0, {rows(n.q, q), rows(n.k, k), rows(n.v, v)});
      if (config.qkv_bias) from.vector(n.q, ".bias", bias(0, q));
    }
    if (config.qkv_bias && (gate != 0 || !from.has(n.qkv, ".weight"))) {
      from.vector(n.k, ".bias", bias(q, k));
      from.vector(n.v, ".bias", bias(q + k, v));
    }
    if constexpr (!mixed) {
      from.template matrix<stored>(w.out, 0, {from.find(n.out, ".weight", {hidden, heads})});
      if (config.out_bias) from.vector(n.out, ".bias", w.out_bias);
    }
    if (config.sinks) from.vector(n.sinks, "", w.sinks);
    if (config.qk_norm != qk_norm::none && config.qk_norm != qk_norm::weightless) {
      from.vector(n.q_norm, "", w.q_norm);
      from.vector(n.k_norm, "", w.k_norm);
    }
    from.rotary(config, shape.rotary_dim, w.rope);
  }
};

}  // namespace moesaic
