// LongCat-Flash: a mixture's output joins the stream a layer later; a third of its experts return their input. arXiv 2509.01322.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// meituan-longcat/LongCat-Flash-Chat: each of its 28 layers is a mixture's and a dense one here.
struct longcat_flash {
  static constexpr attention_config attention{
      .heads = 64, .head_dim = 128, .value_dim = 128, .rope_theta = 1e7, .layout = rope_layout::interleaved,
      .latent = {.kv_rank = 512, .q_rank = 1536, .rope_dim = 64, .q_scale = 2, .kv_scale = 3.4641016151377544}};
  struct layer {
    static constexpr block_config config{
        .hidden = 6144,
        .attention = attention,
        .router = {.experts = 512 + 256, .top_k = 12, .score = score::softmax, .renormalize = false, .routed_scale = 6, .score_bias = true},
        .expert = {.intermediate = 2048, .copy = 256},
        .shared = {.intermediate = 12288},
        .norm = {.epsilon = 1e-5},
        .shortcut = shortcut::opens,
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config{
        .hidden = 6144,
        .attention = attention,
        .expert = {.intermediate = 12288},
        .norm = {.epsilon = 1e-5},
        .shortcut = shortcut::closes,
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  static constexpr decoder_config config{.vocabulary = 131072, .norm = {.epsilon = 1e-5}};
  using layers = moesaic::layers<repeat<pattern<layer, dense_layer>, 28>>;
};

}  // namespace moesaic::presets
