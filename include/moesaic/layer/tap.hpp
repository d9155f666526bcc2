// Looking inside a call: named intermediates, in the order the data flows. Compiled out by default.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/view.hpp>

namespace moesaic {

enum class stage : std::uint8_t {
  attn_norm, q_a, q_a_norm, q, k, v, kv_a, kv_a_norm, kv_b, q_norm, k_norm, q_rope, k_rope, attn_probs, attn_heads,
  attn_router_logits, attn_router_scores, attn_router_choice, attn_topk_index, attn_topk_weight, attn_topk_count, attn_out, attn_post_norm, attn_residual,
  ffn_norm, router_logits, router_scores, router_choice, topk_index, topk_weight, topk_count,
  expert_out, moe_out, shared_gate, shared_out, ffn_out, ffn_post_norm, block_out, final_norm, logits
};

constexpr const char* name(stage s) {
  constexpr const char* names[] = {"attn_norm", "q_a", "q_a_norm", "q", "k", "v", "kv_a", "kv_a_norm", "kv_b", "q_norm", "k_norm", "q_rope", "k_rope", "attn_probs", "attn_heads",
                                   "attn_router_logits", "attn_router_scores", "attn_router_choice", "attn_topk_index", "attn_topk_weight", "attn_topk_count", "attn_out",
                                   "attn_post_norm", "attn_residual", "ffn_norm", "router_logits", "router_scores", "router_choice", "topk_index", "topk_weight",
                                   "topk_count", "expert_out", "moe_out", "shared_gate", "shared_out", "ffn_out", "ffn_post_norm", "block_out", "final_norm", "logits"};
  return names[static_cast<int>(s)];
}

/// What a tap is told besides the values.
struct tap_point {
  int layer = 0;
  moesaic::stage stage = stage::attn_norm;
};

/// A tap is called as tap(tap_point, view<const X>), X the activation scalar, its accumulator or std::int32_t; rows are tokens but for
///   expert_out  [tokens · slots, hidden] (of latent experts: their width), unweighted, slot by slot of each token, zero where a slot is unused
///   topk_count  [tokens, 1] expert slots that were filled; a −1 among these is a choice that was dropped
///   attn_router_logits to attn_topk_count: the same of attention's router, where it has one; q is then by a token's choices
///   kv_b        [tokens, heads · (head_dim + value_dim)] of latent attention, a head's key before its value; only where the tap offers memory:
///               `view<X> expanded_latents(std::int64_t tokens, std::int64_t columns)`. Its k_rope is the one key that all heads share
///   attn_probs  [heads · tokens, keys], only where the tap offers memory: `view<sum> attention_probabilities(int heads, std::int64_t tokens)`
/// The views are valid during the call only, and lie where the call runs: a tap that reads them on the host says `static constexpr bool reads = true`, so that
/// a device's call refuses it when it is compiled. A tap may have `static constexpr bool wants(stage)`; what it does not want is not computed for
/// its sake. With no_tap nothing of it is compiled.
struct no_tap {
  static constexpr bool wants(stage) { return false; }
  template <class X>
  constexpr void operator()(tap_point, view<const X>) const {}
};

/// Whether a tap may be given to a call of `Where`.
template <class Where, class Tap>
constexpr bool may_tap() {
  if constexpr (requires { requires Where::on_device; requires Tap::reads; }) return false;
  else return true;
}

template <class Tap>
constexpr bool wants(stage s) {
  if constexpr (requires { Tap::wants(s); }) return Tap::wants(s);
  return true;
}

}  // namespace moesaic
