// JetMoE: two of eight experts of attention a token, beside two of eight feed-forwards.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// jetmoe/jetmoe-8b (arXiv:2404.07413). The class's norms of a layer have an epsilon of 1e-6 whatever the configuration says, and the last one this by
/// default. The embedding is the head.
struct jetmoe_8b {
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 32, .kv_heads = 16, .head_dim = 128, .tiled_kv = true, .rope_theta = 1e4, .out_bias = true,
                      .router = {.experts = 8, .top_k = 2, .score = score::softmax, .position = score_position::after_top_k}},
        .router = {.experts = 8, .top_k = 2, .score = score::softmax, .position = score_position::after_top_k},
        .expert = {.intermediate = 5632, .mixture_bias = true},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 32000, .norm = {.epsilon = 1e-6}, .tied_head = true};
  using layers = moesaic::layers<repeat<layer, 24>>;
};

}  // namespace moesaic::presets
