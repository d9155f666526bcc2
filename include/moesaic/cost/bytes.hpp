// A configuration into bytes: of its weights in a file and in memory, of its cache, and of what a decoding step reads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/packed.hpp>
#include <moesaic/cost/experts.hpp>
#include <moesaic/cost/keys.hpp>
#include <moesaic/cost/tensors.hpp>

namespace moesaic {

/// Weights as numbers and their scales, nothing between; or packed as kernels read them: whole panels, each part padded to 64 bytes.
enum class layout : std::uint8_t { stored, packed };

/// Bytes of a matrix [outputs, inputs], scales and zero points included. A row of 4-bit numbers ends on a whole byte.
constexpr std::int64_t stored_bytes(format f, std::int64_t outputs, std::int64_t inputs) {
  auto const groups = packed::groups(f, inputs);
  auto const scaled_rows = f.type == dtype::e4m3 ? packed::ceil_div(outputs, f.group) : outputs;  // e4m3 scales square blocks
  auto const scale = f.type == dtype::mxfp4 ? 1 : 4;
  return outputs * packed::ceil_div(inputs * bits(f.type), 8) + scaled_rows * groups * scale + (f.zero_point ? outputs * groups : 0);
}

namespace detail {
// Copies: whether a matrix that is packed twice counts twice.
constexpr auto price_in_bytes(layout l, bool copies = true) {
  return [=](weight_tensor const& t) -> std::int64_t {
    if (t.copy && !copies) return 0;
    if (l == layout::packed && t.matrix) return packed::matrix_bytes({t.stored, t.outputs, t.inputs, t.parts, 1, nullptr});
    if (t.copy) return 0;
    return t.parts * stored_bytes(t.stored, t.outputs, t.inputs);
  };
}
}  // namespace detail

/// Of a layer's weights. Router, norms and biases are fp32.
constexpr block_cost weight_bytes(block_config const& c, layout l = layout::stored) { return cost_of(c, detail::price_in_bytes(l)); }
template <block_spec Spec>
constexpr block_cost weight_bytes(layout l = layout::stored) {
  return weight_bytes(validated<Spec>::config, l);
}
/// Of a decoder's.
constexpr decoder_cost weight_bytes(decoder_config const& c, list<const block_config> layers, layout l = layout::stored) {
  return cost_of(c, layers, detail::price_in_bytes(l));
}
template <decoder_spec Model>
constexpr decoder_cost weight_bytes(layout l = layout::stored) {
  return weight_bytes(validated<Model>::config, layer_configs<Model>, l);
}

/// Of routed expert `e` alone.
constexpr std::int64_t expert_bytes(block_config const& c, int e, layout l = layout::stored) {
  return cost_of_expert(c, e, detail::price_in_bytes(l));
}
/// Of the routed experts that a call reads, exactly: those that any choice fell on. tokens_of_expert [experts].
constexpr std::int64_t bytes_of_counts(block_config const& c, list<const std::int64_t> tokens_of_expert, layout l = layout::stored) {
  std::int64_t sum = 0;
  for (std::int64_t e = 0; e < tokens_of_expert.size; ++e)
    if (tokens_of_expert[e] != 0) sum += expert_bytes(c, static_cast<int>(e), l);
  return sum;
}

/// Of what is kept of one token, keys and values or the latent and its rotated key, in a layer or in all.
constexpr std::int64_t cache_bytes(block_config const& c) {
  auto const s = shapes(c);
  auto const& latent = c.attention.latent;
  auto const elements = latent.kv_rank != 0 ? 0ll + latent.kv_rank + latent.rope_dim : 0ll + s.k_width + s.v_width;
  return elements * bits(s.cache) / 8;
}
constexpr std::int64_t cache_bytes(list<const block_config> layers) {
  std::int64_t sum = 0;
  for (auto const& layer : layers) sum += cache_bytes(layer);
  return sum;
}
template <block_spec Spec>
constexpr std::int64_t cache_bytes() {
  return cache_bytes(validated<Spec>::config);
}
template <decoder_spec Model>
constexpr std::int64_t cache_bytes() {
  return cache_bytes(list<const block_config>(layer_configs<Model>));
}

/// What one decoding step reads.
struct step_bytes {
  double weights = 0;                  ///< each weight once, of the experts the distinct ones; of the embedding the tokens' rows
  double cache = 0;                    ///< keys and values, those that a token sees
  constexpr double total() const { return weights + cache; }
};

/// Of `batch` sequences that have `keys` keys each, routed independently and evenly (cost/experts.hpp).
constexpr step_bytes decode_bytes(decoder_config const& c, list<const block_config> layers, std::int64_t batch, std::int64_t keys,
                                  layout l = layout::stored) {
  auto const besides = weight_bytes(c, layers, l);
  auto const row = layers.empty() ? 0 : stored_bytes(c.embedding, 1, layers[0].hidden);
  step_bytes step;
  step.weights = static_cast<double>(besides.norm + besides.head + (besides.tied ? besides.embedding : 0) + batch * row);
  for (auto const& layer : layers) {
    step.weights += cost_of(layer, detail::price_in_bytes(l, false)).with_experts(distinct_experts(layer.router, batch), distinct_experts(layer.attention.router, batch));
    step.cache += static_cast<double>(batch * keys_read(layer.attention, 1, keys) * cache_bytes(layer));
  }
  return step;
}
template <decoder_spec Model>
constexpr step_bytes decode_bytes(std::int64_t batch, std::int64_t keys, layout l = layout::stored) {
  return decode_bytes(validated<Model>::config, layer_configs<Model>, batch, keys, l);
}

}  // namespace moesaic
