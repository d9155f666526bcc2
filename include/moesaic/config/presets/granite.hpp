// GraniteMoE: factors on embedding, scores, what joins the stream, and logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// ibm-granite/granite-3.0-3b-a800m-base. The embedding is the head.
struct granite_3_0_3b_a800m {
  struct layer {
    static constexpr block_config config{
        .hidden = 1536,
        .attention = {.heads = 24, .kv_heads = 8, .head_dim = 64, .rope_theta = 1e4, .scale = 0.015625},
        .router = {.experts = 40, .top_k = 8, .score = score::softmax, .position = score_position::after_top_k},
        .expert = {.intermediate = 512},
        .norm = {.epsilon = 1e-6},
        .residual_scale = 0.22,
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{
      .vocabulary = 49155, .norm = {.epsilon = 1e-6}, .tied_head = true, .embedding_scale = 12, .logit_scale = 1.0 / 6};
  using layers = moesaic::layers<repeat<layer, 32>>;
};

}  // namespace moesaic::presets
