// The layer and the model that kernels.cu compiles and program.cpp calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cuda/cuda.hpp>
#include <moesaic/moesaic.hpp>

struct small_mixture {
  static constexpr moesaic::block_config config{
    .hidden = 256,
    .attention = {.heads = 4, .kv_heads = 2, .head_dim = 64},
    .router = {.experts = 8, .top_k = 2, .renormalize = true},
    .expert = {.intermediate = 512},
    .storage = {.weights = moesaic::dtype::bf16, .activations = moesaic::dtype::bf16}};
};
struct small_dense : small_mixture {
  static constexpr moesaic::block_config config{.hidden = 256,
                                                .attention = {.heads = 4, .kv_heads = 2, .head_dim = 64},
                                                .expert = {.intermediate = 512},
                                                .storage = {.weights = moesaic::dtype::bf16, .activations = moesaic::dtype::bf16}};
};
struct small_model {
  static constexpr moesaic::decoder_config config{.vocabulary = 512};
  using layers = moesaic::layers<small_dense, moesaic::repeat<small_mixture, 2>>;
};
