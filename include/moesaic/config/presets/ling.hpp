// Ling 2.0: DeepSeek-V3's routing with grouped-query attention; half of each head turns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// inclusionAI/Ling-mini-2.0, without its prediction layer. Queries and keys are normalised a head.
struct ling_mini_2_0 {
  static constexpr attention_config attention{
      .heads = 16, .kv_heads = 4, .head_dim = 128, .rotary_dim = 64, .rope_theta = 6e5, .qk_norm = qk_norm::per_head};
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = attention,
        .router = {.experts = 256, .top_k = 8, .score = score::sigmoid, .groups = 8, .top_groups = 4, .group_worth = group_worth::top2_sum,
                   .renormalize = true, .routed_scale = 2.5, .score_bias = true},
        .expert = {.intermediate = 512},
        .shared = {.intermediate = 512},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 5120);
  };
  static constexpr decoder_config config{.vocabulary = 157184, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 19>>;
};

}  // namespace moesaic::presets
