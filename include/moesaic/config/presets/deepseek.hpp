// DeepSeekMoE: many narrow experts beside two shared ones, after one dense layer. arXiv 2401.06066.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// deepseek-ai/deepseek-moe-16b-base. The two shared experts are one of their summed width.
struct deepseek_moe_16b {
  struct dense_layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 16, .head_dim = 128, .rope_theta = 1e4},
        .expert = {.intermediate = 10944},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 16, .head_dim = 128, .rope_theta = 1e4},
        .router = {.experts = 64, .top_k = 6, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 1408},
        .shared = {.intermediate = 2 * 1408},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 102400, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 27>>;
};

}  // namespace moesaic::presets
