// Whole layers and a whole model on the CUDA backend, against the host's: expert ids exactly, values within the format's bound.
// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

template <dtype Activations, dtype Weights>
constexpr storage_config storage{.weights = Weights, .activations = Activations};

template <storage_config Storage>
struct dense {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16}, .expert = {.intermediate = 96}, .storage = Storage};
};
/// Attention by more than a scale, of heads that turn in part and are changed before and after.
struct ruled {
  static constexpr block_config config{.hidden = 64,
                                       .attention = {.heads = 4,
                                                     .kv_heads = 2,
                                                     .head_dim = 16,
                                                     .value_dim = 32,
                                                     .tiled_kv = true,
                                                     .rotary_dim = 8,
                                                     .scaling = {.kind = rope_scaling_kind::yarn, .factor = 4, .original_positions = 16, .rounded = false},
                                                     .qk_norm = qk_norm::weightless,
                                                     .qk_norm_after_rope = true,
                                                     .qkv_clip = 0.75,
                                                     .softcap = 3,
                                                     .window = 6,
                                                     .chunk = 8,
                                                     .sinks = true,
                                                     .output_gate = true,
                                                     .temperature = {0.3, 4}},
                                       .expert = {.intermediate = 96},
                                       .storage = storage<dtype::bf16, dtype::bf16>};
};
template <storage_config Storage>
struct mixtral {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16, .rope_theta = 1e6},
                                       .router = {.experts = 8, .top_k = 2, .renormalize = true}, .expert = {.intermediate = 80}, .storage = Storage};
};
template <storage_config Storage>
struct qwen3 {
  static constexpr block_config config{.hidden = 48, .attention = {.heads = 4, .kv_heads = 1, .head_dim = 32, .qk_norm = qk_norm::per_head},
                                       .router = {.experts = 16, .top_k = 4, .renormalize = true}, .expert = {.intermediate = 32},
                                       .shared = {.intermediate = 64, .sigmoid_gate = true}, .norm = {.epsilon = 1e-6}, .storage = Storage};
};
/// Attention whose queries and output are projected by experts of a token's choice.
struct mixed_heads {
  static constexpr block_config config{.hidden = 64,
                                       .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16, .tiled_kv = true, .qk_norm = qk_norm::per_head, .out_bias = true,
                                                     .router = {.experts = 6, .top_k = 2, .position = score_position::after_top_k, .bias = true}},
                                       .router = {.experts = 8, .top_k = 2, .position = score_position::after_top_k},
                                       .expert = {.intermediate = 48, .mixture_bias = true},
                                       .storage = storage<dtype::bf16, dtype::bf16>};
};
/// Experts with weights on their input, which is a projection of x, and whose gates are clamped.
struct weighed {
  static constexpr block_config config{.hidden = 64,
                                       .attention = {.heads = 4, .kv_heads = 2, .head_dim = 16},
                                       .router = {.experts = 8, .top_k = 2, .score = score::sigmoid, .position = score_position::after_top_k,
                                                  .weights = combine_weight::on_input},
                                       .expert = {.intermediate = 48, .limit = 0.5, .alpha = 1.702, .up_offset = 1, .bias = true, .mixture_bias = true, .latent = 32},
                                       .shared = {.intermediate = 32},
                                       .storage = storage<dtype::bf16, dtype::bf16>};
};
/// OLMoE, with experts that cost.
template <storage_config Storage>
struct olmoe {
  static constexpr block_config config{.hidden = 64, .attention = {.heads = 4, .head_dim = 16, .qk_norm = qk_norm::full_width},
                                       .router = {.experts = 16, .top_k = 4}, .expert = {.intermediate = 48}, .storage = Storage};
  using routing = moesaic::routing::cost_aware<moesaic::costs::table>;
};

}  // namespace

TEST_CASE("a dense layer") {
  check_layer<dense<storage<dtype::bf16, dtype::bf16>>>();
  check_layer<dense<storage<dtype::fp32, dtype::bf16>>>();
}
TEST_CASE("a layer whose attention has a rule") { check_layer<ruled>(); }
TEST_CASE("a layer whose attention has experts") { check_layer<mixed_heads>(); }
TEST_CASE("a layer whose experts read a weighed projection of x") { check_layer<weighed>(); }
TEST_CASE("a Mixtral layer") {
  check_layer<mixtral<storage<dtype::bf16, dtype::bf16>>>();
  check_layer<mixtral<storage<dtype::bf16, dtype::int4>>>();
}
TEST_CASE("a Qwen3 layer with a gated shared expert") { check_layer<qwen3<storage<dtype::bf16, dtype::bf16>>>(); }
TEST_CASE("an OLMoE layer with experts that cost") {
  using spec = olmoe<storage<dtype::bf16, dtype::bf16>>;
  std::vector<float> const cost{1, 2, 1, 3, 1, 1, 4, 1, 1, 2, 1, 1, 1, 1, 5, 1};
  typename policy_of<spec>::state state{};
  state.cost = moesaic::costs::table::of_experts(cost);
  state.price = 0.02f;
  check_layer<spec>(state);
}
