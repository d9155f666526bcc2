// MiniMax-M2: 256 experts by sigmoid scores with a bias for selection; queries and keys normalised over their whole width.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// MiniMaxAI/MiniMax-M2.
struct minimax_m2 {
  struct layer {
    static constexpr block_config config{
        .hidden = 3072,
        .attention = {.heads = 48, .kv_heads = 8, .head_dim = 128, .rotary_dim = 64, .rope_theta = 5e6, .qk_norm = qk_norm::full_width},
        .router = {.experts = 256, .top_k = 8, .score = score::sigmoid, .renormalize = true, .sum_epsilon = 0, .score_bias = true},
        .expert = {.intermediate = 1536},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = {dtype::e4m3, 128}, .activations = dtype::bf16, .inputs = input_codes::e4m3}};
  };
  static constexpr decoder_config config{.vocabulary = 200064, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<repeat<layer, 62>>;
};

}  // namespace moesaic::presets
