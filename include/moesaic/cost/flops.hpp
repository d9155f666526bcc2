// A configuration into the floating-point operations of one token's way forward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/latent.hpp>
#include <moesaic/cost/keys.hpp>
#include <moesaic/cost/tensors.hpp>

namespace moesaic {

namespace detail {
constexpr std::int64_t count_flops(weight_tensor const& t) { return t.matrix && !t.copy ? 2 * t.outputs * t.inputs * t.parts : 0; }
constexpr std::int64_t copy_flops(block_config const& c) { return c.hidden; }
constexpr std::int64_t constant_flops(block_config const& c) { return 4ll * c.hidden; }
}  // namespace detail

/// Of routed expert `e` for one token, F_e: of a feed-forward two a weight, which is 6 · hidden · width where it is gated and 4 · hidden ·
/// width where not; of a zero expert 0; of a copy expert hidden, an element each; of a constant one 4 · hidden, its two gate rows.
constexpr std::int64_t expert_flops(block_config const& c, int e) {
  auto const kind = kind_of(c, e);
  return kind == expert_kind::copy       ? detail::copy_flops(c)
         : kind == expert_kind::constant ? detail::constant_flops(c)
                                         : cost_of_expert(c, e, detail::count_flops);
}
/// Of the choices that were made, exactly: Σ_t Σ_i F_i. ids [tokens, slots], −1 = unused.
constexpr std::int64_t flops_of_choices(block_config const& c, view<const std::int32_t> ids) {
  std::int64_t sum = 0;
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= 0) sum += expert_flops(c, ids(t, i));
  return sum;
}
/// The same from how many choices fell on each expert: [experts].
constexpr std::int64_t flops_of_counts(block_config const& c, list<const std::int64_t> tokens_of_expert) {
  std::int64_t sum = 0;
  for (std::int64_t e = 0; e < tokens_of_expert.size; ++e)
    if (tokens_of_expert[e] != 0) sum += tokens_of_expert[e] * expert_flops(c, static_cast<int>(e));
  return sum;
}

/// A multiplication and an addition are two. Matrices and attention scores only; norms, rotation, softmax and activations are not counted.
struct block_flops {
  std::int64_t projections = 0;        ///< q, k, v and out (of the experts of attention that a token uses); of latent attention all of its matrices, once a token
  std::int64_t scores = 0;             ///< q · k and p · v over the keys that the token sees
  std::int64_t router = 0;             ///< of the feed-forward
  std::int64_t experts = 0;            ///< those that a token uses; where they differ, the mean of even routing, rounded down
  std::int64_t shared = 0;             ///< with its gate
  std::int64_t attention_router = 0;   ///< of experts of attention

  constexpr std::int64_t ffn() const { return experts + shared; }
  constexpr std::int64_t total() const { return projections + scores + attention_router + router + ffn(); }
};
struct decoder_flops {
  block_flops layers;                  ///< all of them
  std::int64_t head = 0;
  constexpr std::int64_t total() const { return layers.total() + head; }
};

/// Of a token and one key that it sees. Latent attention in the absorbed form, as it decodes: queries and keys are latents with the turned
/// elements, and values are latents.
constexpr std::int64_t score_flops(block_config const& c) {
  auto const s = shapes(c);
  auto const& latent = c.attention.latent;
  return 2ll * (latent.kv_rank != 0 ? s.heads * (2 * latent.kv_rank + latent.rope_dim) : s.q_width + s.heads_width);
}

/// Of one layer. `keys`: how many keys the token has, itself among them (where no window or chunk hides some, the mean over a prompt of n
/// tokens is that of (n + 1) / 2).
constexpr block_flops flops(block_config const& c, std::int64_t keys) {
  auto const cost = cost_of(c, detail::count_flops);
  auto const all = cost.routed + c.expert.copy * detail::copy_flops(c) + c.expert.constant * detail::constant_flops(c);
  return {cost.attention_active(), score_flops(c) * keys_seen(c.attention, keys), cost.router, cost.slots * all / cost.experts, cost.shared,
          cost.attention_router};
}
template <block_spec Spec>
constexpr block_flops flops(std::int64_t keys) {
  return flops(validated<Spec>::config, keys);
}

/// Of a decoder, for a token whose logits are wanted (`head` is what the others save).
constexpr decoder_flops flops(decoder_config const& c, list<const block_config> layers, std::int64_t keys) {
  decoder_flops sum;
  for (auto const& layer : layers) {
    auto const one = flops(layer, keys);
    sum.layers.projections += one.projections;
    sum.layers.scores += one.scores;
    sum.layers.router += one.router;
    sum.layers.experts += one.experts;
    sum.layers.shared += one.shared;
    sum.layers.attention_router += one.attention_router;
  }
  sum.head = layers.empty() ? 0 : 2ll * c.vocabulary * layers[0].hidden;
  return sum;
}
template <decoder_spec Model>
constexpr decoder_flops flops(std::int64_t keys) {
  return flops(validated<Model>::config, layer_configs<Model>, keys);
}

}  // namespace moesaic
