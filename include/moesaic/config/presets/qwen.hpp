// Qwen3-MoE (128 experts, queries and keys normalised a head) and Qwen1.5-MoE (60 experts beside a gated shared one, biased q, k and v).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// Qwen/Qwen3-30B-A3B; arXiv 2505.09388.
struct qwen3_30b_a3b {
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 32, .kv_heads = 4, .head_dim = 128, .rope_theta = 1e6, .qk_norm = qk_norm::per_head},
        .router = {.experts = 128, .top_k = 8, .score = score::softmax, .renormalize = true},
        .expert = {.intermediate = 768},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 151936, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<repeat<layer, 48>>;
};

/// Qwen/Qwen3-235B-A22B; arXiv 2505.09388.
struct qwen3_235b_a22b {
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = {.heads = 64, .kv_heads = 4, .head_dim = 128, .rope_theta = 1e6, .qk_norm = qk_norm::per_head},
        .router = {.experts = 128, .top_k = 8, .score = score::softmax, .renormalize = true},
        .expert = {.intermediate = 1536},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 151936, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<repeat<layer, 94>>;
};

/// Qwen/Qwen1.5-MoE-A2.7B. The shared expert is as wide as four routed ones.
struct qwen1_5_moe_a2_7b {
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 16, .head_dim = 128, .rope_theta = 1e6, .qkv_bias = true},
        .router = {.experts = 60, .top_k = 4, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 1408},
        .shared = {.intermediate = 5632, .sigmoid_gate = true},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 151936, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<repeat<layer, 24>>;
};

}  // namespace moesaic::presets
