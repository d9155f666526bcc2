// The layers that are run on a GPU: layers.cu holds their kernels, layers.cpp calls them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cuda/cuda.hpp>
#include <moesaic/moesaic.hpp>

namespace on_gpu {

using namespace moesaic;
/// One rung alone, which keeps nvcc's work small.
using stream = moesaic::cuda::basic_stream_ref<moesaic::cuda::rungs<moesaic::cuda::rung::sm90>>;

constexpr storage_config bf16_weights{.weights = dtype::bf16, .activations = dtype::bf16};
struct dense {
  static constexpr block_config config{.hidden = 512, .attention = {.heads = 8, .kv_heads = 2, .head_dim = 64}, .expert = {.intermediate = 768},
                                       .storage = bf16_weights};
};
struct mixtral {
  static constexpr block_config config{.hidden = 512, .attention = {.heads = 8, .kv_heads = 2, .head_dim = 64, .rope_theta = 1e6},
                                       .router = {.experts = 8, .top_k = 2, .renormalize = true}, .expert = {.intermediate = 640}, .storage = bf16_weights};
};
template <dtype Weights>
struct qwen3 {
  static constexpr block_config config{.hidden = 384, .attention = {.heads = 4, .kv_heads = 1, .head_dim = 128, .qk_norm = qk_norm::per_head},
                                       .router = {.experts = 16, .top_k = 4, .renormalize = true}, .expert = {.intermediate = 256},
                                       .shared = {.intermediate = 256, .sigmoid_gate = true}, .norm = {.epsilon = 1e-6},
                                       .storage = {.weights = dtype::bf16, .ffn = Weights, .activations = dtype::bf16}};
};
struct olmoe {
  static constexpr block_config config{.hidden = 512, .attention = {.heads = 8, .head_dim = 64, .qk_norm = qk_norm::full_width},
                                       .router = {.experts = 16, .top_k = 4}, .expert = {.intermediate = 256}, .storage = bf16_weights};
  using routing = moesaic::routing::cost_aware<moesaic::costs::table>;
};

}  // namespace on_gpu
