// ERNIE-4.5: softmax scores with a bias for selection, renormalised over at least 1e-12; two shared experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// baidu/ERNIE-4.5-21B-A3B-PT. The two shared experts are one of their summed width; the embedding is the head.
struct ernie_4_5_21b_a3b {
  static constexpr attention_config attention{
      .heads = 20, .kv_heads = 4, .head_dim = 128, .rope_theta = 5e5, .layout = rope_layout::interleaved};
  struct layer {
    static constexpr block_config config{
        .hidden = 2560,
        .attention = attention,
        .router = {.experts = 64, .top_k = 6, .score = score::softmax, .renormalize = true, .sum_epsilon = 0, .sum_floor = 1e-12,
                   .score_bias = true},
        .expert = {.intermediate = 1536},
        .shared = {.intermediate = 2 * 1536},
        .norm = {.epsilon = 1e-5},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 12288);
  };
  static constexpr decoder_config config{.vocabulary = 103424, .norm = {.epsilon = 1e-5}, .tied_head = true};
  using layers = moesaic::layers<dense_layer, repeat<layer, 27>>;
};

}  // namespace moesaic::presets
