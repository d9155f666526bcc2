// The packed size that cost/ computes is the one that the layers carve.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/gpt_oss.hpp>
#include <moesaic/config/presets/grok.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/longcat.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/layer/decoder.hpp>

using namespace moesaic;

// Beside its weights a layer keeps the frequencies of its rotary embedding, which no checkpoint has.
template <class Spec>
constexpr std::size_t rope_bytes = packed::align64(8 * (rope_parameter_count + shapes(Spec::config).rotary_dim / 2));

template <class Model>
constexpr bool same_footprint = [] {
  std::size_t rope = 0;
  for_each_layer<typename Model::layers>([&]<class Spec>(int) { rope += rope_bytes<Spec>; });
  return decoder<Model>::weights_bytes() == weight_bytes<Model>(layout::packed).total() + rope;
}();

static_assert(same_footprint<presets::llama2_7b> && same_footprint<presets::llama3_8b> && same_footprint<presets::smollm2_135m>);
static_assert(same_footprint<presets::mixtral_8x7b> && same_footprint<presets::mixtral_8x22b> && same_footprint<presets::olmoe_1b_7b>);
static_assert(same_footprint<presets::qwen3_30b_a3b> && same_footprint<presets::qwen3_235b_a22b>);
static_assert(same_footprint<presets::qwen1_5_moe_a2_7b> && same_footprint<presets::deepseek_moe_16b>);

// Latents with their matrices for both forms; sinks and biases; four norms; experts that are none.
template <class... Specs>
constexpr bool same_layers = ((block<Specs>::weights_bytes() == weight_bytes<Specs>(layout::packed).total() + rope_bytes<Specs>) && ...);
static_assert(same_layers<presets::deepseek_v2_lite::layer, presets::deepseek_v3::layer, presets::gpt_oss_20b::layer, presets::grok_1::layer,
                          presets::longcat_flash::layer, presets::llama_4_scout::global_layer>);

// Widths that leave panels, lanes and groups half empty; no vectors but the norms, whose 32 floats fill whole lines of 64 bytes.
template <dtype Type, int Group, bool ZeroPoint = false>
struct ragged {
  static constexpr block_config config{
      .hidden = 32,
      .attention = {.heads = 3, .kv_heads = 1, .head_dim = 6},
      .router = {.experts = 5, .top_k = 2},
      .expert = {.intermediate = 21, .activation = activation::geglu_tanh},
      .shared = {.intermediate = 9, .sigmoid_gate = true},
      .storage = {.weights = {Type, Group, ZeroPoint}}};
};

// Experts of several widths, and some that are none; biases of whole lines.
struct unequal {
  static constexpr block_config config{
      .hidden = 32,
      .attention = {.heads = 2},
      .router = {.experts = 12, .top_k = 2},
      .expert = {.bias = true, .widths = {{4, 48}, {1, 16}, {2, 64}}, .zero = 1, .copy = 1, .constant = 3},
      .storage = {.weights = dtype::bf16, .ffn = dtype::int4}};
};
static_assert(block<unequal>::weights_bytes() == weight_bytes<unequal>(layout::packed).total() + rope_bytes<unequal>);

TEST_CASE_TEMPLATE("whatever the format", Layer, ragged<dtype::fp32, 0>, ragged<dtype::bf16, 0>, ragged<dtype::fp16, 0>, ragged<dtype::e4m3, 16>,
                   ragged<dtype::int8, 0>, ragged<dtype::int8, 8>, ragged<dtype::int4, 32>, ragged<dtype::int4, 8, true>, ragged<dtype::mxfp4, 32>) {
  CHECK(block<Layer>::weights_bytes() == weight_bytes<Layer>(layout::packed).total() + rope_bytes<Layer>);
}
