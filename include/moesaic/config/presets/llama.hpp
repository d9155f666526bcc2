// Llama 2 and 3, and SmolLM2, which has Llama's shape: dense, grouped-query attention, SwiGLU. Llama 4: mixtures of one expert a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// meta-llama/Llama-2-7b-hf; arXiv 2307.09288.
struct llama2_7b {
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = {.heads = 32, .head_dim = 128, .rope_theta = 1e4},
        .expert = {.intermediate = 11008},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 32000, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<layer, 32>>;
};

/// meta-llama/Meta-Llama-3-8B; arXiv 2407.21783.
struct llama3_8b {
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .rope_theta = 5e5},
        .expert = {.intermediate = 14336},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 128256, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<layer, 32>>;
};

/// HuggingFaceTB/SmolLM2-135M; arXiv 2502.02737. The embedding is the head.
struct smollm2_135m {
  struct layer {
    static constexpr block_config config{
        .hidden = 576,
        .attention = {.heads = 9, .kv_heads = 3, .head_dim = 64, .rope_theta = 1e5},
        .expert = {.intermediate = 1536},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 49152, .norm = {.epsilon = 1e-5}, .tied_head = true};
  using layers = moesaic::layers<repeat<layer, 30>>;
};

/// Of Llama 4: one routed expert a token, whose weight is on its input, beside a shared one.
constexpr block_config llama_4_layer(int experts, attention_config const& attention) {
  return {.hidden = 5120,
          .attention = attention,
          .router = {.experts = experts, .top_k = 1, .score = score::sigmoid, .position = score_position::after_top_k,
                     .weights = combine_weight::on_input},
          .expert = {.intermediate = 8192},
          .shared = {.intermediate = 8192},
          .norm = {.epsilon = 1e-5},
          .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
}
/// Of every fourth layer of it: all positions are seen, without rotation.
inline constexpr attention_config llama_4_global_attention{
    .heads = 40, .kv_heads = 8, .head_dim = 128, .rotary = false, .temperature = {.scale = 0.1, .floor = 8192}};

/// The text model of meta-llama/Llama-4-Scout-17B-16E. Three layers in four see chunks of 8192 positions.
struct llama_4_scout {
  struct layer {
    static constexpr block_config config = llama_4_layer(
        16, {.heads = 40, .kv_heads = 8, .head_dim = 128, .rope_theta = 5e5, .layout = rope_layout::interleaved,
             .scaling = {.kind = rope_scaling_kind::llama3, .factor = 16, .low_freq_factor = 1, .high_freq_factor = 1, .original_positions = 8192},
             .qk_norm = qk_norm::weightless, .qk_norm_after_rope = true, .chunk = 8192});
  };
  struct global_layer {
    static constexpr block_config config = llama_4_layer(16, llama_4_global_attention);
  };
  static constexpr decoder_config config{.vocabulary = 202048, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<pattern<repeat<layer, 3>, global_layer>, 12>>;
};

/// The text model of meta-llama/Llama-4-Maverick-17B-128E: every other layer is dense, queries and keys are not normalised.
struct llama_4_maverick {
  struct layer {
    static constexpr block_config config = llama_4_layer(
        128, {.heads = 40, .kv_heads = 8, .head_dim = 128, .rope_theta = 5e5, .layout = rope_layout::interleaved, .chunk = 8192});
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 16384);
  };
  struct global_layer {
    static constexpr block_config config = llama_4_layer(128, llama_4_global_attention);
  };
  static constexpr decoder_config config = llama_4_scout::config;
  using layers = moesaic::layers<repeat<pattern<dense_layer, layer, dense_layer, global_layer>, 12>>;
};

}  // namespace moesaic::presets
