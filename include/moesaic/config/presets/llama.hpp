// Llama 2 and 3, and SmolLM2, which has Llama's shape: dense, grouped-query attention, SwiGLU.
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

}  // namespace moesaic::presets
