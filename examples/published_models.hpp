// Sizes of published models: those that no block_config says yet (latent attention, norms after each half), and a few beside them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/cost/parameters.hpp>

/// Multi-head latent attention and experts, as DeepSeek-V2 (arXiv 2405.04434 §3.1.2) and -V3 (2412.19437 §4.2) have them.
struct latent_model {
  char const* name = "";
  std::int64_t layers = 0, dense_layers = 0, hidden = 0, vocabulary = 0;
  std::int64_t heads = 0, query_rank = 0, cache_rank = 0;        ///< query_rank 0: queries by one matrix
  std::int64_t plain = 128, rotated = 64, value = 128;           ///< width of a head: without position, with it, of its values
  std::int64_t dense_intermediate = 0, experts = 0, top_k = 0, shared = 0, intermediate = 0;

  constexpr std::int64_t attention() const {
    auto const q = heads * (plain + rotated);
    return (query_rank > 0 ? hidden * query_rank + query_rank + query_rank * q : hidden * q) + hidden * (cache_rank + rotated) +
           cache_rank + cache_rank * heads * (plain + value) + heads * value * hidden;
  }
  /// Parameters, with so many routed experts in each layer. Biases that balance the load are left out, as in published counts.
  constexpr std::int64_t parameters(std::int64_t routed) const {
    auto const mixture = 3 * hidden * intermediate * (routed + shared) + hidden * experts;
    return 2 * vocabulary * hidden + hidden + layers * (attention() + 2 * hidden) + dense_layers * 3 * hidden * dense_intermediate +
           (layers - dense_layers) * mixture;
  }
  constexpr std::int64_t total() const { return parameters(experts); }
  constexpr std::int64_t active() const { return parameters(top_k); }
  /// Numbers kept for a token: the latent vector and the rotated part of the key, which all heads share.
  constexpr std::int64_t cache() const { return layers * (cache_rank + rotated); }
  /// The same if every head kept its own key (`key` wide) and value.
  constexpr std::int64_t cache_of_all_heads(std::int64_t key) const { return layers * heads * (key + value); }
};

inline constexpr latent_model deepseek_v2{.name = "DeepSeek-V2", .layers = 60, .dense_layers = 1, .hidden = 5120, .vocabulary = 102400,
                                          .heads = 128, .query_rank = 1536, .cache_rank = 512, .dense_intermediate = 12288, .experts = 160,
                                          .top_k = 6, .shared = 2, .intermediate = 1536};
inline constexpr latent_model deepseek_v3{.name = "DeepSeek-V3", .layers = 61, .dense_layers = 3, .hidden = 7168, .vocabulary = 129280,
                                          .heads = 128, .query_rank = 1536, .cache_rank = 512, .dense_intermediate = 18432, .experts = 256,
                                          .top_k = 8, .shared = 1, .intermediate = 2048};
inline constexpr latent_model kimi_k2{.name = "Kimi-K2", .layers = 61, .dense_layers = 1, .hidden = 7168, .vocabulary = 163840,
                                      .heads = 64, .query_rank = 1536, .cache_rank = 512, .dense_intermediate = 18432, .experts = 384,
                                      .top_k = 8, .shared = 1, .intermediate = 2048};

/// xai-org/grok-1, but for the two norms a layer that follow attention and experts: 2 · 6144 parameters more a layer.
struct grok_1 {
  struct layer {
    static constexpr moesaic::block_config config{
        .hidden = 6144,
        .attention = {.heads = 48, .kv_heads = 8, .head_dim = 128},
        .router = {.experts = 8, .top_k = 2},
        .expert = {.intermediate = 32768, .activation = moesaic::activation::geglu_tanh},
        .storage = {.weights = moesaic::dtype::bf16, .activations = moesaic::dtype::bf16}};
  };
  static constexpr moesaic::decoder_config config{.vocabulary = 131072, .tied_head = true};
  using layers = moesaic::layers<moesaic::repeat<layer, 64>>;
  static constexpr std::int64_t norms_after = 64 * 2 * 6144;
};

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

/// microsoft/Phi-3.5-MoE-instruct in sizes; its router's rule (SparseMixer) has no parameters of its own.
struct phi_3_5_moe {
  struct layer {
    static constexpr moesaic::block_config config{
        .hidden = 4096,
        .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .qkv_bias = true, .out_bias = true},
        .router = {.experts = 16, .top_k = 2},
        .expert = {.intermediate = 6400},
        .norm = {.kind = moesaic::norm_kind::layer, .bias = true},
        .storage = {.weights = moesaic::dtype::bf16, .activations = moesaic::dtype::bf16}};
  };
  static constexpr moesaic::decoder_config config{
      .vocabulary = 32064, .norm = {.kind = moesaic::norm_kind::layer, .bias = true}, .head_bias = true};
  using layers = moesaic::layers<moesaic::repeat<layer, 32>>;
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
