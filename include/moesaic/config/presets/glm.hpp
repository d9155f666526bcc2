// GLM-4.5: sigmoid scores with a bias for selection; half of each head turns. arXiv 2508.06471.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// zai-org/GLM-4.5, without its prediction layer. Queries and keys are normalised a head.
struct glm_4_5 {
  static constexpr attention_config attention{
      .heads = 96, .kv_heads = 8, .head_dim = 128, .rotary_dim = 64, .rope_theta = 1e6, .qk_norm = qk_norm::per_head, .qkv_bias = true};
  struct layer {
    static constexpr block_config config{
        .hidden = 5120,
        .attention = attention,
        .router = {.experts = 160, .top_k = 8, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5, .score_bias = true},
        .expert = {.intermediate = 1536},
        .shared = {.intermediate = 1536},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 12288);
  };
  static constexpr decoder_config config{.vocabulary = 151552, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<dense_layer, 3>, repeat<layer, 89>>;
};

/// zai-org/GLM-4.5-Air, without its prediction layer.
struct glm_4_5_air {
  static constexpr attention_config attention{
      .heads = 96, .kv_heads = 8, .head_dim = 128, .rotary_dim = 64, .rope_theta = 1e6, .qkv_bias = true};
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = attention,
        .router = {.experts = 128, .top_k = 8, .score = score::sigmoid, .renormalize = true, .score_bias = true},
        .expert = {.intermediate = 1408},
        .shared = {.intermediate = 1408},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 10944);
  };
  static constexpr decoder_config config{.vocabulary = 151552, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 45>>;
};

}  // namespace moesaic::presets
