// Kimi K2: DeepSeek-V3's layer with half the heads, 384 experts and no groups. arXiv 2507.20534.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// moonshotai/Kimi-K2-Instruct-0905; the first release stretches positions by 32, not 64. Scores are scaled by (0.1 ln 64 + 1)² / √192.
struct kimi_k2 {
  static constexpr attention_config attention{
      .heads = 64, .head_dim = 128, .value_dim = 128, .rope_theta = 5e4, .layout = rope_layout::interleaved,
      .scaling = {.kind = rope_scaling_kind::yarn, .factor = 64, .original_positions = 4096, .beta_fast = 1, .beta_slow = 1,
                  .magnitude = 1},
      .scale = 0.14467962580268925, .latent = {.kv_rank = 512, .q_rank = 1536, .rope_dim = 64}};
  struct layer {
    static constexpr block_config config{
        .hidden = 7168,
        .attention = attention,
        .router = {.experts = 384, .top_k = 8, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.827, .score_bias = true},
        .expert = {.intermediate = 2048},
        .shared = {.intermediate = 2048},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = {dtype::e4m3, 128}, .activations = dtype::bf16, .inputs = input_codes::e4m3}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 18432);
  };
  static constexpr decoder_config config{.vocabulary = 163840, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 60>>;
};

}  // namespace moesaic::presets
