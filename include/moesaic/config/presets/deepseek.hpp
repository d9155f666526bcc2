// DeepSeekMoE (many narrow experts beside shared ones, after dense layers; arXiv 2401.06066), V2 and V3, whose attention is by latents.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// deepseek-ai/deepseek-moe-16b-base. The two shared experts are one of their summed width.
struct deepseek_moe_16b {
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = {.heads = 16, .head_dim = 128, .rope_theta = 1e4},
        .router = {.experts = 64, .top_k = 6, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 1408},
        .shared = {.intermediate = 2 * 1408},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 10944);
  };
  static constexpr decoder_config config{.vocabulary = 102400, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 27>>;
};

/// deepseek-ai/DeepSeek-V2-Lite; arXiv 2405.04434. Queries are projected from x. Scores are scaled by (0.0707 ln 40 + 1)² / √192.
struct deepseek_v2_lite {
  static constexpr attention_config attention{
      .heads = 16, .head_dim = 128, .value_dim = 128, .rope_theta = 1e4, .layout = rope_layout::interleaved,
      .scaling = {.kind = rope_scaling_kind::yarn, .factor = 40, .original_positions = 4096, .magnitude = 1},
      .scale = 0.11472138679292612, .latent = {.kv_rank = 512, .rope_dim = 64}};
  struct layer {
    static constexpr block_config config{
        .hidden = 2048,
        .attention = attention,
        .router = {.experts = 64, .top_k = 6, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 1408},
        .shared = {.intermediate = 2 * 1408},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 10944);
  };
  static constexpr decoder_config config{.vocabulary = 102400, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 26>>;
};

/// deepseek-ai/DeepSeek-V2; arXiv 2405.04434. A token's experts come from 3 of 8 groups, by the best of each.
struct deepseek_v2 {
  static constexpr attention_config attention{
      .heads = 128, .head_dim = 128, .value_dim = 128, .rope_theta = 1e4, .layout = rope_layout::interleaved,
      .scaling = {.kind = rope_scaling_kind::yarn, .factor = 40, .original_positions = 4096, .magnitude = 1},
      .scale = 0.11472138679292612, .latent = {.kv_rank = 512, .q_rank = 1536, .rope_dim = 64}};
  struct layer {
    static constexpr block_config config{
        .hidden = 5120,
        .attention = attention,
        .router = {.experts = 160, .top_k = 6, .score = score::softmax, .groups = 8, .top_groups = 3, .group_worth = group_worth::max,
                   .renormalize = false, .routed_scale = 16},
        .expert = {.intermediate = 1536},
        .shared = {.intermediate = 2 * 1536},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 12288);
  };
  static constexpr decoder_config config{.vocabulary = 102400, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<dense_layer, repeat<layer, 59>>;
};

/// deepseek-ai/DeepSeek-V3, without its prediction layer; arXiv 2412.19437. Scores are scaled by (0.1 ln 40 + 1)² / √192.
struct deepseek_v3 {
  static constexpr attention_config attention{
      .heads = 128, .head_dim = 128, .value_dim = 128, .rope_theta = 1e4, .layout = rope_layout::interleaved,
      .scaling = {.kind = rope_scaling_kind::yarn, .factor = 40, .original_positions = 4096, .magnitude = 1},
      .scale = 0.1352337788608801, .latent = {.kv_rank = 512, .q_rank = 1536, .rope_dim = 64}};
  struct layer {
    static constexpr block_config config{
        .hidden = 7168,
        .attention = attention,
        .router = {.experts = 256, .top_k = 8, .score = score::sigmoid, .groups = 8, .top_groups = 4, .group_worth = group_worth::top2_sum,
                   .renormalize = true, .routed_scale = 2.5, .score_bias = true},
        .expert = {.intermediate = 2048},
        .shared = {.intermediate = 2048},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = {dtype::e4m3, 128}, .activations = dtype::bf16, .inputs = input_codes::e4m3}};
  };
  struct dense_layer {
    static constexpr block_config config = dense_of(layer::config, 18432);
  };
  static constexpr decoder_config config{.vocabulary = 129280, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<repeat<dense_layer, 3>, repeat<layer, 58>>;
};

/// deepseek-ai/DeepSeek-R1: V3 trained further; arXiv 2501.12948.
using deepseek_r1 = deepseek_v3;

/// deepseek-ai/DeepSeek-V3.1: V3 trained further, with scales that are powers of two.
struct deepseek_v3_1 {
  template <class Layer>
  struct by_powers_of_two {
    static constexpr block_config config = [] {
      auto c = Layer::config;
      c.storage.inputs = input_codes::e4m3_power_of_two;
      return c;
    }();
  };
  using dense_layer = by_powers_of_two<deepseek_v3::dense_layer>;
  using layer = by_powers_of_two<deepseek_v3::layer>;
  static constexpr decoder_config config = deepseek_v3::config;
  using layers = moesaic::layers<repeat<dense_layer, 3>, repeat<layer, 58>>;
};

}  // namespace moesaic::presets
