// Phi-3.5-MoE: 16 experts, two a token by SparseMixer; LayerNorm and biases. arXiv 2404.14219.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// microsoft/Phi-3.5-MoE-instruct. A layer derived from this one says the rest: `using routing = routing::sparse_mixer<>`, which has no weights,
/// and LongRoPE's two lists of factors, which stand in the release's config.json, with magnitudes of 1.243163121016122 (attention.scaling).
struct phi_3_5_moe {
  struct layer {
    static constexpr block_config config{
        .hidden = 4096,
        .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e4, .qkv_bias = true, .out_bias = true},
        .router = {.experts = 16, .top_k = 2, .score = score::softmax},
        .expert = {.intermediate = 6400},
        .norm = {.kind = norm_kind::layer, .epsilon = 1e-5, .bias = true},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 32064, .norm = {.kind = norm_kind::layer, .epsilon = 1e-5, .bias = true}, .head_bias = true};
  using layers = moesaic::layers<repeat<layer, 32>>;
};

}  // namespace moesaic::presets
