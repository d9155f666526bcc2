// Hunyuan-A13B: 64 experts beside one of their width; queries and keys normalised a head after rotation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// tencent/Hunyuan-A13B-Instruct. The embedding is the head.
struct hunyuan_a13b {
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e4,
                      .scaling = {.kind = rope_scaling_kind::ntk, .factor = 1000}, .qk_norm = qk_norm::per_head, .qk_norm_after_rope = true},
        .router = {.experts = 64, .top_k = 8, .score = score::softmax, .renormalize = true},
        .expert = {.intermediate = 3072},
        .shared = {.intermediate = 3072},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 128167, .norm = {.epsilon = 1e-5}, .tied_head = true};
  using layers = moesaic::layers<repeat<layer, 32>>;
};

}  // namespace moesaic::presets
