// What is compared with the presets: a dense model, caches of other attention, bytes of a quantisation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/cost/parameters.hpp>

/// Numbers that a model of latent attention would keep for a token if every head had its own key (`key` wide) and value.
template <class Model>
constexpr std::int64_t cache_of_all_heads(int key) {
  std::int64_t sum = 0;
  for (auto const& layer : moesaic::layer_configs<Model>) sum += layer.attention.heads * (key + std::int64_t{layer.attention.value_dim});
  return sum;
}

/// deepseek-ai/deepseek-llm-67b-base (arXiv 2401.02954), dense: what DeepSeek-V2 compares its cache with.
struct deepseek_67b {
  struct layer {
    static constexpr moesaic::block_config config{
        .hidden = 8192,
        .attention = {.heads = 64, .kv_heads = 8, .head_dim = 128},
        .expert = {.intermediate = 22016},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = moesaic::dtype::bf16, .activations = moesaic::dtype::bf16}};
  };
  static constexpr moesaic::decoder_config config{.vocabulary = 102400, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<moesaic::repeat<layer, 95>>;
};

/// Bytes of a model as EAC-MoE (arXiv 2508.01625) stores it, from shapes alone: feed-forwards in `expert_bits`, attention in 4, all else in
/// 16, and an fp16 scale and a zero point for every 128 weights.
template <class Model>
constexpr double eac_moe_bytes(int expert_bits) {
  using namespace moesaic;
  double bytes = 0, rest = static_cast<double>(parameters<Model>().total());
  auto const quantised = [&](std::int64_t weights, int bits) {
    bytes += static_cast<double>(weights) * (bits + (16.0 + bits) / 128) / 8;
    rest -= static_cast<double>(weights);
  };
  for (auto const& layer : layer_configs<Model>) {
    auto const work = flops(layer, 1);                        // two a weight of a matrix, biases left out
    quantised(work.projections / 2, 4);
    auto const width = shapes(layer).experts * layer.expert.intermediate + layer.shared.intermediate;
    quantised(3ll * layer.hidden * width, expert_bits);
  }
  return bytes + 2 * rest;
}
template <class Model>
constexpr double eac_moe_ratio(int expert_bits) {
  return 2 * static_cast<double>(moesaic::parameters<Model>().total()) / eac_moe_bytes<Model>(expert_bits);
}
