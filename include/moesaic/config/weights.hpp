// The weights of a layer as plain views. They depend on shapes and storage only: the same loaded weights serve every routing policy
// and every k.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// weight [width], and bias [width] or empty.
struct norm_weights {
  list<const float> weight, bias;
};

/// The two expert GEMMs' weights; a dense feed-forward and a shared expert have count == 1.
struct ffn_weights {
  packed_matrix gate_up;               ///< [experts] of [intermediate, hidden], parts 2 (gate, up) or 1
  packed_matrix down;                  ///< [experts] of [hidden, intermediate]
  list<const float> gate_up_bias;      ///< [experts, parts, intermediate] or empty
  list<const float> down_bias;         ///< [experts, hidden] or empty
};

struct router_weights {
  packed_matrix weight;                ///< [outputs, hidden], fp32; outputs: the experts, and the groups of a group gate
  list<const float> bias;              ///< [outputs] or empty
  list<const float> score_bias;        ///< [experts] or empty: added for selection only
  list<const double> length;           ///< [outputs] Euclidean, of the rows of weight, or empty without cosines
};

/// Of constant experts (expert_config::constant).
struct constant_weights {
  list<const float> gate;              ///< [constant, 2, hidden]: of x, of v
  list<const float> value;             ///< [constant, hidden]
};

/// Of a MoE layer; a dense one uses `experts` alone (one expert, no router).
struct moe_weights {
  router_weights router;
  ffn_weights experts;                                         ///< the feed-forwards; of several widths, those of the first
  ffn_weights more_experts[width_runs::most - 1] = {};         ///< of the other widths, a run each; empty without
  constant_weights constant = {};                              ///< empty without constant experts
  packed_matrix latent_down = {}, latent_up = {};              ///< [latent, hidden] and [hidden, latent] around latent experts, or empty
  list<const float> mixture_bias = {};                         ///< [hidden] added once to the weighted sum, or empty
  ffn_weights shared;                  ///< empty without shared expert
  packed_matrix shared_gate;           ///< [1, hidden], fp32; empty without gate
};
/// The feed-forwards of run `r` of shapes(config).widths.
template <class Weights>
constexpr auto& run_of(Weights& w, int r) { return r == 0 ? w.experts : w.more_experts[r - 1]; }

struct attention_weights {
  packed_matrix qkv;                   ///< [qkv_width, hidden]: q rows, then k, then v, then those of the output gate
  packed_matrix out;                   ///< [hidden, heads_width], or [experts] of [hidden, heads_width / top_k]
  list<const float> qkv_bias, out_bias;
  list<const float> q_norm, k_norm;    ///< [head_dim], or [q_width] and [k_width], or empty
  list<const double> rope;             ///< rope_parameters, then [rope_frequency_count] radians a position of each rotated pair
  list<const float> sinks = {};        ///< [heads] or empty
  // Of latent attention, whose qkv is [q_rank (or q_width) + kv_rank + rope_dim, hidden] and whose norms are of the latents: [q_rank], [kv_rank].
  packed_matrix q_up = {};             ///< [q_width, q_rank]; empty where queries are projected from x
  packed_matrix key_up = {};           ///< [heads] of [head_dim, kv_rank]: keys of a head from latents
  packed_matrix key_up_transposed = {};  ///< [heads] of [kv_rank, head_dim]: the same weights for the absorbed form, packed once more as turned() says
  packed_matrix value_up = {};         ///< [heads] of [value_dim, kv_rank]
  // Of experts of attention, whose qkv has no q rows.
  packed_matrix q = {};                ///< [experts] of [q_width / top_k, hidden]
  router_weights router = {};
};

struct block_weights {
  norm_weights attention_norm, ffn_norm;                       ///< before attention and feed-forward; empty where norms are post
  norm_weights attention_post_norm, ffn_post_norm;             ///< after them; empty where norms are pre
  attention_weights attention;
  moe_weights ffn;
};

/// f(name, part...) for every matrix and every list of a layer's weights (of one layer, or of several side by side), in the order in which
/// they lie in memory; a part is a packed_matrix const& or a list const&. What a configuration does not have is empty.
template <class F, std::same_as<ffn_weights>... Weights>
constexpr void for_each_weight(F&& f, Weights const&... w) {
  f("gate_up", w.gate_up...), f("down", w.down...), f("gate_up.bias", w.gate_up_bias...), f("down.bias", w.down_bias...);
}
template <class F, std::same_as<block_weights>... Weights>
constexpr void for_each_weight(F&& f, Weights const&... w) {
  f("attention_norm", w.attention_norm.weight...), f("attention_norm.bias", w.attention_norm.bias...);
  f("ffn_norm", w.ffn_norm.weight...), f("ffn_norm.bias", w.ffn_norm.bias...);
  f("attention_post_norm", w.attention_post_norm.weight...), f("attention_post_norm.bias", w.attention_post_norm.bias...);
  f("ffn_post_norm", w.ffn_post_norm.weight...), f("ffn_post_norm.bias", w.ffn_post_norm.bias...);
  f("qkv", w.attention.qkv...), f("out", w.attention.out...);
  f("qkv.bias", w.attention.qkv_bias...), f("out.bias", w.attention.out_bias...);
  f("q_norm", w.attention.q_norm...), f("k_norm", w.attention.k_norm...), f("rope", w.attention.rope...);
  f("sinks", w.attention.sinks...);
  f("q_up", w.attention.q_up...), f("key_up", w.attention.key_up...), f("key_up_transposed", w.attention.key_up_transposed...);
  f("value_up", w.attention.value_up...);
  f("q", w.attention.q...), f("attention_router", w.attention.router.weight...), f("attention_router.bias", w.attention.router.bias...);
  for_each_weight(f, w.ffn.experts...);
  for (int r = 0; r < width_runs::most - 1 && ((w.ffn.more_experts[r].down.outputs != 0) || ...); ++r)
    for_each_weight(f, w.ffn.more_experts[r]...);
  f("constant.gate", w.ffn.constant.gate...), f("constant.value", w.ffn.constant.value...);
  f("router", w.ffn.router.weight...), f("router.bias", w.ffn.router.bias...), f("score_bias", w.ffn.router.score_bias...);
  f("router.length", w.ffn.router.length...);
  for_each_weight(f, w.ffn.shared...);
  f("shared_gate", w.ffn.shared_gate...);
  f("latent_down", w.ffn.latent_down...), f("latent_up", w.ffn.latent_up...), f("mixture_bias", w.ffn.mixture_bias...);
}

/// Whether one part is there and of the shape and format of another, wherever both lie.
constexpr bool same_shape(packed_matrix const& given, packed_matrix wanted) {
  wanted.data = given.data;
  return given == wanted && (given.data != nullptr || given.outputs == 0);
}
template <class T>
constexpr bool same_shape(list<T> const& given, list<T> const& wanted) {
  return given.size == wanted.size && (given.data != nullptr || given.size == 0);
}
/// Whether all parts are.
inline bool same_shapes(block_weights const& given, block_weights const& wanted) {
  bool same = true;
  for_each_weight([&](const char*, auto const& g, auto const& w) __attribute__((noinline)) { same = same && same_shape(g, w); }, given, wanted);
  return same;
}

}  // namespace moesaic
