// Mixtral 8x7B for one architecture: what a configuration costs in nvcc's time and in bytes of machine code.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda.cuh>

struct mixtral {
  static constexpr moesaic::block_config config{
    .hidden = 4096,
    .attention = {.heads = 32, .kv_heads = 8, .head_dim = 128, .rope_theta = 1e6},
    .router = {.experts = 8, .top_k = 2, .renormalize = true},
    .expert = {.intermediate = 14336},
    .storage = {.weights = moesaic::dtype::bf16, .activations = moesaic::dtype::bf16}};
};
MOESAIC_INSTANTIATE(mixtral)
