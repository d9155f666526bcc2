// Switch-Base: T5-Base with experts in every other layer, one a token. arXiv 2101.03961.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/spec.hpp>

namespace moesaic::presets {

/// google/switch-base-8 to -256: the feed-forward of its layers, of which every other is a mixture. An expert's weight is its probability, not
/// renormalised; how many tokens an expert takes is the call's (route/capacity.hpp). No decoder_config: attention has no bias of the relative
/// position (which these add to scores), and none reads the encoder's output.
template <int Experts>
struct switch_base {
  static constexpr attention_config attention{
      .heads = 12, .head_dim = 64, .rotary = false, .scale = 1};
  struct dense_layer {
    static constexpr block_config config{
        .hidden = 768,
        .attention = attention,
        .expert = {.intermediate = 3072, .activation = activation::relu},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
  struct layer {
    static constexpr block_config config{
        .hidden = 768,
        .attention = attention,
        .router = {.experts = Experts, .top_k = 1, .score = score::softmax, .renormalize = false},
        .expert = {.intermediate = 3072, .activation = activation::relu},
        .norm = {.epsilon = 1e-6},
        .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
  };
};

using switch_base_8 = switch_base<8>;
using switch_base_16 = switch_base<16>;
using switch_base_32 = switch_base<32>;
using switch_base_64 = switch_base<64>;
using switch_base_128 = switch_base<128>;
using switch_base_256 = switch_base<256>;

}  // namespace moesaic::presets
