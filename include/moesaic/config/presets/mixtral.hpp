// Mixtral 8x7B and 8x22B: eight experts, two a token, weights renormalised. arXiv 2401.04088.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// mistralai/Mixtral-8x7B-v0.1.
struct mixtral_8x7b {
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e6},
        .router = {.experts = 8, .top_k = 2, .score = score::softmax, .renormalize = true},
        .expert = {.intermediate = 14336, .activation = activation::swiglu},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 32000, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<layer, 32>>;
};

/// mistralai/Mixtral-8x22B-v0.3; v0.1 is the same with a vocabulary of 32000.
struct mixtral_8x22b {
  struct layer {
    static constexpr block_config config{
        .hidden = 6144,
        .attention = {.heads = 48, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e6},
        .router = {.experts = 8, .top_k = 2, .score = score::softmax, .renormalize = true},
        .expert = {.intermediate = 16384, .activation = activation::swiglu},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 32768, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<layer, 56>>;
};

}  // namespace moesaic::presets
