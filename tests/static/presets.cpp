// Published models: their parameters as the published counts say, to the unit; their active ones to the digits that are printed of them.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/parameters.hpp>

#include "static/printed.hpp"

using namespace moesaic;
using namespace moesaic::presets;

template <class Model>
constexpr auto total = parameters<Model>().total();
template <class Model>
constexpr double active_billion = static_cast<double>(parameters<Model>().active()) * 1e-9;

// Counted by instantiating the HuggingFace classes of these configurations.
static_assert(total<llama2_7b> == 6'738'415'616);
static_assert(total<llama3_8b> == 8'030'261'248);
static_assert(total<smollm2_135m> == 134'515'008);
static_assert(total<mixtral_8x7b> == 46'702'792'704);
static_assert(total<mixtral_8x22b> == 140'630'071'296);
static_assert(total<qwen3_30b_a3b> == 30'532'122'624);
static_assert(total<qwen3_235b_a22b> == 235'093'634'560);
static_assert(total<olmoe_1b_7b> == 6'919'161'856);
static_assert(total<qwen1_5_moe_a2_7b> == 14'315'784'192);
static_assert(prints(static_cast<double>(total<deepseek_moe_16b>) * 1e-9, 16.376, 3));

// The embedding among them.
static_assert(parameters<llama2_7b>().active() == total<llama2_7b>);
static_assert(prints(active_billion<mixtral_8x7b>, 12.880, 3));
static_assert(prints(active_billion<qwen3_30b_a3b>, 3.35, 2));
static_assert(prints(active_billion<qwen3_235b_a22b>, 22.19, 2));
static_assert(prints(active_billion<olmoe_1b_7b>, 1.282, 3));
static_assert(prints(active_billion<qwen1_5_moe_a2_7b>, 2.689, 3));
static_assert(prints(active_billion<deepseek_moe_16b>, 2.829, 3));

// Mixtral 8x22B is printed with the first release's vocabulary.
struct mixtral_8x22b_v0_1 : mixtral_8x22b {
  static constexpr decoder_config config{.vocabulary = 32000, .norm = {.epsilon = 1e-5}};
};
static_assert(prints(static_cast<double>(total<mixtral_8x22b_v0_1>) * 1e-9, 140.62, 2));
static_assert(prints(active_billion<mixtral_8x22b_v0_1>, 39.15, 2));

// The input embedding is looked up, not multiplied; a tied one is the head too.
static_assert(parameters<mixtral_8x7b>().active_without_embedding() == parameters<mixtral_8x7b>().active() - 32000ll * 4096);
static_assert(parameters<mixtral_8x7b>().total_without_embedding() == total<mixtral_8x7b> - 32000ll * 4096);
static_assert(parameters<smollm2_135m>().total_without_embedding() == total<smollm2_135m>);

// A layer by itself: attention and one expert of Mixtral 8x7B, 41.94 M and 176.16 M.
static_assert(parameters<mixtral_8x7b::layer>().attention == 41'943'040 && parameters<mixtral_8x7b::layer>().expert == 176'160'768);
static_assert(parameters<mixtral_8x7b::layer>().router == 8 * 4096 && parameters<mixtral_8x7b::layer>().norm == 2 * 4096);

// Of SmolLM2: embedding 28.31 M, attention 26.54 M, feed-forward 79.63 M, norms 35,136.
static_assert(parameters<smollm2_135m>().embedding == 28'311'552 && 30 * parameters<smollm2_135m::layer>().attention == 26'542'080);
static_assert(30 * parameters<smollm2_135m::layer>().expert == 79'626'240);
static_assert(30 * parameters<smollm2_135m::layer>().norm + parameters<smollm2_135m>().norm == 35'136);

static_assert(layer_count<deepseek_moe_16b::layers> == 28);
static_assert(layer_configs<deepseek_moe_16b>[0].router.experts == 0 && layer_configs<deepseek_moe_16b>[1].router.experts == 64);

TEST_CASE("the price of a model given as values is that of its type") {
  block_config const layers[] = {deepseek_moe_16b::dense_layer::config, deepseek_moe_16b::layer::config};
  auto two = parameters(deepseek_moe_16b::config, layers);
  two.layers += 26 * parameters(layers[1]).total();
  two.layers_active += 26 * parameters(layers[1]).active();
  CHECK(two.total() == total<deepseek_moe_16b>);
  CHECK(two.active() == parameters<deepseek_moe_16b>().active());
}
