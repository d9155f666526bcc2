// Grok-1: norms on both sides of attention and experts, soft-capped scores, weights not renormalised.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// xai-org/grok-1, as its JAX code computes it. The embedding is the head; its rows are scaled by √hidden, and logits by 1 / √3.
struct grok_1 {
  struct layer {
    static constexpr block_config config{
        .hidden = 6144,
        .attention = {.heads = 48, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e4, .scale = 0.08838834764831845, .softcap = 30},
        .router = {.experts = 8, .top_k = 2, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 32768, .activation = activation::geglu_tanh},
        .norm = {.epsilon = 1e-5, .cast = norm_cast::after_weight},
        .norms = norm_placement::sandwich,
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 131072,
                                         .norm = {.epsilon = 1e-5, .cast = norm_cast::after_weight},
                                         .tied_head = true,
                                         .embedding_scale = 78.38367176906169,
                                         .logit_scale = 0.5773502691896257};
  using layers = moesaic::layers<repeat<layer, 64>>;
};

}  // namespace moesaic::presets
