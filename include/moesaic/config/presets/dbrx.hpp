// DBRX: 16 experts, four a token; LayerNorm without bias; queries, keys and values clamped.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// databricks/dbrx-base.
struct dbrx {
  struct layer {
    static constexpr block_config config{
        .hidden = 6144,
        .attention = {.heads = 48, .kv_heads = 8, .head_dim = 128, .rope_theta = 5e5, .qkv_clip = 8},
        .router = {.experts = 16, .top_k = 4, .score = score::softmax, .renormalize = true},
        .expert = {.intermediate = 10752},
        .norm = {.kind = norm_kind::layer, .epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 100352, .norm = {.kind = norm_kind::layer, .epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<layer, 40>>;
};

}  // namespace moesaic::presets
