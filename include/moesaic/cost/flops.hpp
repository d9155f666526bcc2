// A configuration into the floating-point operations of one token's way forward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cost/tensors.hpp>

namespace moesaic {

/// A multiplication and an addition are two. Matrices and attention scores only; norms, rotation, softmax and activations are not counted.
struct block_flops {
  std::int64_t projections = 0;        ///< q, k, v and out
  std::int64_t scores = 0;             ///< q · k and p · v over the keys
  std::int64_t router = 0;
  std::int64_t experts = 0;            ///< those that a token uses
  std::int64_t shared = 0;             ///< with its gate

  constexpr std::int64_t ffn() const { return experts + shared; }
  constexpr std::int64_t total() const { return projections + scores + router + ffn(); }
};
struct decoder_flops {
  block_flops layers;                  ///< all of them
  std::int64_t head = 0;
  constexpr std::int64_t total() const { return layers.total() + head; }
};

/// Of one layer. `keys`: how many keys the token sees, itself among them; the mean over a prompt of n tokens is (n + 1) / 2.
constexpr block_flops flops(block_config const& c, std::int64_t keys) {
  auto const cost = cost_of(c, [](weight_tensor const& t) { return t.matrix ? 2 * t.outputs * t.inputs * t.parts : 0; });
  return {cost.attention, 4 * shapes(c).q_width * keys, cost.router, cost.slots * cost.expert, cost.shared};
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
  }
  sum.head = layers.empty() ? 0 : 2ll * c.vocabulary * layers[0].hidden;
  return sum;
}
template <decoder_spec Model>
constexpr decoder_flops flops(std::int64_t keys) {
  return flops(validated<Model>::config, layer_configs<Model>, keys);
}

}  // namespace moesaic
