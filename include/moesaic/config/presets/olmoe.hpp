// OLMoE: 64 experts, eight a token, weights not renormalised; queries and keys normalised over their whole width. arXiv 2409.02060.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// allenai/OLMoE-1B-7B-0924.
struct olmoe_1b_7b {
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 16, .head_dim = 128, .rope_theta = 1e4, .qk_norm = qk_norm::full_width},
        .router = {.experts = 64, .top_k = 8, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 1024},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 50304, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<layer, 16>>;
};

}  // namespace moesaic::presets
