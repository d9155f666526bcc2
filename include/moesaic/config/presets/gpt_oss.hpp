// gpt-oss: experts with biases and clamped gates, a learned sink a head, every other layer sliding. arXiv 2508.10925.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// Experts are stored in mxfp4. window: positions that a layer sees back to, 0 for all.
constexpr block_config gpt_oss_layer(int experts, int window) {
  return {.hidden = 2880,
          .attention = {.heads = 64, .kv_heads = 8, .head_dim = 64, .rope_theta = 1.5e5,
                        .scaling = {.kind = rope_scaling_kind::yarn, .factor = 32, .original_positions = 4096, .rounded = false},
                        .qkv_bias = true, .out_bias = true, .window = window, .sinks = true},
          .router = {.experts = experts, .top_k = 4, .score = score::softmax, .position = score_position::after_top_k, .bias = true},
          .expert = {.intermediate = 2880, .activation = activation::swiglu, .limit = 7, .alpha = 1.702, .up_offset = 1, .bias = true},
          .norm = {.epsilon = 1e-5, .cast = norm_cast::after_weight},
          .storage = {.weights = dtype::bf16, .ffn = {dtype::mxfp4, 32}, .activations = dtype::bf16}};
}

/// openai/gpt-oss-20b. Even layers see the last 128 positions.
struct gpt_oss_20b {
  struct sliding_layer {
    static constexpr block_config config = gpt_oss_layer(32, 128);
  };
  struct layer {
    static constexpr block_config config = gpt_oss_layer(32, 0);
  };
  static constexpr decoder_config config{.vocabulary = 201088, .norm = {.epsilon = 1e-5, .cast = norm_cast::after_weight}};
  using layers = moesaic::layers<repeat<pattern<sliding_layer, layer>, 12>>;
};

/// openai/gpt-oss-120b. Even layers see the last 128 positions.
struct gpt_oss_120b {
  struct sliding_layer {
    static constexpr block_config config = gpt_oss_layer(128, 128);
  };
  struct layer {
    static constexpr block_config config = gpt_oss_layer(128, 0);
  };
  static constexpr decoder_config config = gpt_oss_20b::config;
  using layers = moesaic::layers<repeat<pattern<sliding_layer, layer>, 18>>;
};

}  // namespace moesaic::presets
