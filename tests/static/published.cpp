// What is said of published models, recomputed from their shapes: sizes, caches, training costs, quantised bytes.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/dbrx.hpp>
#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/ernie.hpp>
#include <moesaic/config/presets/glm.hpp>
#include <moesaic/config/presets/gpt_oss.hpp>
#include <moesaic/config/presets/granite.hpp>
#include <moesaic/config/presets/grok.hpp>
#include <moesaic/config/presets/hunyuan.hpp>
#include <moesaic/config/presets/jetmoe.hpp>
#include <moesaic/config/presets/kimi.hpp>
#include <moesaic/config/presets/ling.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/longcat.hpp>
#include <moesaic/config/presets/minimax.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/phi.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/config/presets/switch.hpp>
#include <moesaic/cost/parameters.hpp>
#include <moesaic/cost/roofline.hpp>

#include "../../examples/published_models.hpp"
#include "static/printed.hpp"

using namespace moesaic;
using namespace moesaic::presets;

// ---- sizes: exact where a checkpoint was counted

template <class Model>
constexpr auto total = parameters<Model>().total();
// Biases that balance the load are in a checkpoint, and in no published count but ERNIE's.
template <class Model>
constexpr std::int64_t score_biases = [] {
  std::int64_t sum = 0;
  for (auto const& layer : layer_configs<Model>) sum += layer.router.score_bias ? layer.router.experts : 0;
  return sum;
}();
template <class Model>
constexpr auto counted = total<Model> - score_biases<Model>;
template <class Model>
constexpr bool billions(double all, int all_digits, double active, int active_digits) {
  return prints(static_cast<double>(counted<Model>) * 1e-9, all, all_digits) && prints(static_cast<double>(parameters<Model>().active()) * 1e-9, active, active_digits);
}

static_assert(counted<deepseek_v2_lite> == 15'706'484'224 && billions<deepseek_v2_lite>(15.706, 3, 2.661, 3));
static_assert(counted<deepseek_v2> == 235'741'434'880 && billions<deepseek_v2>(235.74, 2, 21.38, 2));
static_assert(counted<deepseek_v3> == 671'026'404'352 && billions<deepseek_v3>(671.03, 2, 37.55, 2) && score_biases<deepseek_v3> == 58 * 256);
static_assert(prints(static_cast<double>(parameters<deepseek_v3>().active_without_embedding()) * 1e-9, 36.6, 1));
static_assert(counted<kimi_k2> == 1'026'408'209'408 && billions<kimi_k2>(1026.4, 1, 32.86, 2));
static_assert(counted<gpt_oss_120b> == 116'829'156'672 && counted<gpt_oss_20b> == 20'914'757'184);   // all biases and sinks
static_assert(counted<phi_3_5_moe> == 41'873'153'344 && billions<phi_3_5_moe>(41.87, 2, 6.64, 2));
static_assert(counted<minimax_m2> == 228'689'748'992 && billions<minimax_m2>(228.7, 1, 11.0, 1));
static_assert(counted<dbrx> == 131'596'523'520 && billions<dbrx>(131.6, 1, 36.5, 1));
static_assert(counted<hunyuan_a13b> == 80'393'183'232);
static_assert(counted<llama_4_scout> == 107'769'861'120 && billions<llama_4_maverick>(400.7, 1, 17.2, 1));
static_assert(total<ernie_4_5_21b_a3b> == 21'825'437'888 && score_biases<ernie_4_5_21b_a3b> == 27 * 64);
static_assert(counted<granite_3_0_3b_a800m> == 3'298'793'472);
static_assert(counted<jetmoe_8b> == 8'522'237'952 && billions<jetmoe_8b>(8.52, 2, 2.33, 2));
static_assert(billions<grok_1>(315.685, 3, 83.76, 2) && prints(static_cast<double>(parameters<grok_1>().total() - 131072ll * 6144) * 1e-9, 314.88, 2));
static_assert(billions<glm_4_5>(352.8, 1, 33.6, 1) && billions<glm_4_5_air>(106.85, 2, 13.4, 1));
static_assert(billions<longcat_flash>(560.7, 1, 28.0, 1) && billions<ling_mini_2_0>(16.26, 2, 1.43, 2));

// Without biases, as gpt-oss is printed; with the embedding twice, as Hunyuan is.
template <class Model>
constexpr std::int64_t without_vectors = [] {
  std::int64_t sum = 0;
  auto const matrix = [](weight_tensor const& t) { return t.matrix ? t.count * t.outputs * t.inputs * t.parts : 0; };
  for (auto const& layer : layer_configs<Model>) for_each_tensor(layer, [&](weight_tensor const& t) { sum += matrix(t); });
  for_each_tensor(Model::config, layer_configs<Model>[0].hidden, [&](weight_tensor const& t) { sum += matrix(t); });
  return sum;
}();
static_assert(prints(static_cast<double>(without_vectors<gpt_oss_120b>) * 1e-9, 116.79, 2) && prints(static_cast<double>(without_vectors<gpt_oss_20b>) * 1e-9, 20.91, 2));
static_assert(prints(static_cast<double>(parameters<gpt_oss_120b>().active()) * 1e-9, 5.71, 2) && prints(static_cast<double>(parameters<gpt_oss_20b>().active()) * 1e-9, 4.19, 2));
static_assert(prints(static_cast<double>(counted<hunyuan_a13b> + 128167ll * 4096) * 1e-9, 80.92, 2) &&
              prints(static_cast<double>(parameters<hunyuan_a13b>().active() + 128167ll * 4096) * 1e-9, 13.27, 2));

// GLM-4.5 as its class counts it where nobody says how wide a head is: hidden / heads rounded down, 53 and 42, and of Air without biases.
template <class Spec, int HeadDim, bool Bias>
struct narrow {
  static constexpr block_config config = [] {
    auto c = Spec::config;
    c.attention.head_dim = HeadDim, c.attention.rotary_dim = HeadDim / 4 * 2, c.attention.qkv_bias = Bias;
    return c;
  }();
};
template <class Spec>
using narrow_glm = narrow<Spec, 53, true>;
template <class Spec>
using narrow_air = narrow<Spec, 42, false>;
template <class Model, template <class> class Change>
struct changed {
  static constexpr auto config = Model::config;
  using layers = change_layers_t<typename Model::layers, Change>;
};
static_assert(counted<changed<glm_4_5, narrow_glm>> == 345'448'804'184 && counted<changed<glm_4_5_air, narrow_air>> == 103'481'200'640);

// A mixture of Switch-Base-8: eight feed-forwards without a gate, and a router.
static_assert(parameters<switch_base_8::layer>().routed == 8 * 2 * 768 * 3072 && parameters<switch_base_256::layer>().router == 256 * 768);
static_assert(parameters<switch_base_8::dense_layer>().total() == 4 * 768 * 768 + 2 * 768 * 3072 + 2 * 768);

// ---- what a token costs: latents, windows, sinks

static_assert(flops<deepseek_v3::layer>(1).scores == 2 * 128 * (512 + 64 + 512));       // absorbed: one key of 576, one value of 512 a head
static_assert(flops<deepseek_v3::layer>(1).projections == 2 * (parameters<deepseek_v3::layer>().attention - 512 - 1536));
static_assert(cache_bytes<deepseek_v3::layer>() == 2 * 576 && cache_bytes<longcat_flash>() == 56 * 2 * 576);
static_assert(flops<gpt_oss_20b::sliding_layer>(4096).scores * 32 == flops<gpt_oss_20b::layer>(4096).scores);
static_assert(keys_seen(llama_4_scout::layer::config.attention, 8192) == 8192 && keys_seen(llama_4_scout::layer::config.attention, 8193) == 1 &&
              keys_seen(llama_4_scout::global_layer::config.attention, 8193) == 8193);
static_assert(parameters<grok_1::layer>().norm == 4 * 6144 && parameters<gpt_oss_20b::layer>().attention - 2880ll * (5120 + 4096) == 5120 + 2880 + 64);
// JetMoE's attention: keys and values (and a bias) of every token, queries and output of 2 experts of 8. Two routers.
static_assert(parameters<jetmoe_8b::layer>().attention == 2048ll * 4096 + 2048 && parameters<jetmoe_8b::layer>().attention_routed == 8 * 2 * 2048ll * 2048);
static_assert(parameters<jetmoe_8b::layer>().router == 8 * 2048 && flops<jetmoe_8b::layer>(1).router == 2 * 8 * 2048);
static_assert(parameters<jetmoe_8b::layer>().attention_router == 8 * 2048 && flops<jetmoe_8b>(1).layers.attention_router == 24 * 2 * 8 * 2048);
static_assert(flops<jetmoe_8b::layer>(1).projections == 2 * (2048ll * 4096 + 2 * 2 * 2048ll * 2048) && flops<jetmoe_8b::layer>(1).scores == 2 * 2 * 32 * 128);
static_assert(cache_bytes<jetmoe_8b::layer>() == 2 * 2 * 16 * 128);
static_assert(weight_bytes<jetmoe_8b::layer>().with_experts(8, 8) == static_cast<double>(weight_bytes<jetmoe_8b::layer>().total()));
static_assert(weight_bytes<jetmoe_8b::layer>().with_experts(2, 2) == static_cast<double>(weight_bytes<jetmoe_8b::layer>().active()));
// One sequence reads 2 experts of attention, and its whole cost but the experts that it does not use.
static_assert(decode_bytes<jetmoe_8b>(1, 1).weights == static_cast<double>(weight_bytes<jetmoe_8b>().active() + 2 * 2048));
// 64 read nearly all: 8 · 8.4 M and 8.4 M parameters for 2 · 8.4 M and 8.4 M.
static_assert(roofline<jetmoe_8b::layer>(devices::h200, decoding(64, 1)).projections.seconds >
              2.99 * roofline<jetmoe_8b::layer>(devices::h200, decoding(1, 1)).projections.seconds);
static_assert(expert_parameters(longcat_flash::layer::config, 511) == 3 * 6144 * 2048 && expert_parameters(longcat_flash::layer::config, 512) == 0);

// Tokens that see fewer keys than there are, summed one by one.
constexpr bool pairs_are_sums(attention_config const& a) {
  for (int keys = 1; keys < 30; ++keys)
    for (int tokens = 1; tokens <= keys; ++tokens) {
      std::int64_t sum = 0, first = keys;
      for (int i = keys - tokens + 1; i <= keys; ++i) {
        sum += keys_seen(a, i);
        first = i - keys_seen(a, i) < first ? i - keys_seen(a, i) : first;
      }
      if (seen_pairs(a, tokens, keys) != sum || keys_read(a, tokens, keys) != keys - first) return false;
    }
  return true;
}
static_assert(pairs_are_sums({}) && pairs_are_sums({.window = 5}) && pairs_are_sums({.chunk = 7}) && pairs_are_sums({.window = 3, .chunk = 7}));

// The prompt expands latents, a step of decoding absorbs them: each bound is that of the form with fewer FLOPs.
static_assert(prints(roofline<deepseek_v3::layer>(devices::h100, prefilling(100)).scores.flops, 2.0 * 128 * (192 + 128) * 5050, 0));
static_assert(prints(roofline<deepseek_v3::layer>(devices::h100, decoding(3, 1000)).scores.flops, 3.0 * static_cast<double>(flops<deepseek_v3::layer>(1000).scores), 0));
static_assert(roofline<gpt_oss_20b::sliding_layer>(devices::h100, decoding(1, 4096)).scores.bytes == 128.0 * 2 * 2 * 8 * 64);

// Latents of experts are projected once a token; a bias of the mixture is one row.
struct of_latents {
  static constexpr block_config config{.hidden = 64,
                                       .attention = {.heads = 2},
                                       .router = {.experts = 8, .top_k = 2},
                                       .expert = {.intermediate = 48, .activation = activation::relu_squared, .mixture_bias = true, .latent = 16}};
};
static_assert(parameters(of_latents::config).routed == 8 * 2 * 48 * 16 && parameters(of_latents::config).shared == 2 * 16 * 64 + 64);
static_assert(parameters(of_latents::config).active() == parameters(of_latents::config).always() + 2 * 2 * 48 * 16);

// ---- Mixtral 8x7B

static_assert(prints(static_cast<double>(parameters<mixtral_8x7b>().total()) * 1e-9, 46.703, 3) &&
              prints(static_cast<double>(parameters<mixtral_8x7b>().active()) * 1e-9, 12.880, 3) &&
              parameters<mixtral_8x7b::layer>().expert == 176'160'768 &&
              prints(2e-9 * static_cast<double>(parameters<mixtral_8x7b>().total()), 93.41, 2));

// ---- caches: a saving of 93 % is that of V2 at six bits over the 67B model at sixteen

constexpr auto numbers_67b = static_cast<double>(cache_bytes<deepseek_67b>()) / 2;
constexpr double saved(double numbers, double bits, double of, double of_bits) { return 100 * (1 - numbers * bits / (of * of_bits)); }
constexpr auto v2 = static_cast<double>(cache_bytes<deepseek_v2>()) / 2, v3 = static_cast<double>(cache_bytes<deepseek_v3>()) / 2;
static_assert(numbers_67b == 194'560 && v2 == 34'560 && v3 == 35'136);
static_assert(prints(saved(v2, 6, numbers_67b, 16), 93.34, 2));
static_assert(prints(saved(v2, 16, numbers_67b, 16), 82.24, 2) && prints(saved(v3, 16, numbers_67b, 16), 81.94, 2));
static_assert(prints(saved(v2, 16, static_cast<double>(cache_of_all_heads<deepseek_v2>(128)), 16), 98.24, 2) &&
              prints(saved(v3, 16, static_cast<double>(cache_of_all_heads<deepseek_v3>(192)), 16), 98.59, 2));
static_assert(576 / (2.0 * 128) == 2.25);                   // as a grouped query attention of 2.25 groups
static_assert(prints(100 * (1 - 172.8 / 300.6), 42.5, 1));  // V2's training against the 67B model's

// ---- DeepSeek-V3's 5.576 million dollars, and what the GPUs did in those hours

constexpr auto hours = 2664e3 + 119e3 + 5e3;
static_assert(prints(hours * 2 * 1e-6, 5.576, 3) && prints(180e3 * 14.8 * 1e-3, 2664, 0) && prints(180e3 / 2048 / 24, 3.7, 1));
static_assert(prints(6 * 37e9 * 14.8e12 * 1e-24, 3.29, 2) && prints(6 * 37e9 * 14.8e12 / (2664e3 * 3600) * 1e-12, 343, 0) &&
              prints(343 / 989.0, 0.35, 2));

// ---- EAC-MoE: bytes at three bits, and 4.9 times less for the two largest of its four models

static_assert(prints(eac_moe_bytes<mixtral_8x7b>(3) * 1e-9, 18.97, 2) && prints(eac_moe_bytes<phi_3_5_moe>(3) * 1e-9, 17.075, 3) &&
              prints(eac_moe_bytes<deepseek_moe_16b>(3) * 1e-9, 7.18, 2) && prints(eac_moe_bytes<qwen1_5_moe_a2_7b>(3) * 1e-9, 6.69, 2));
static_assert(prints(eac_moe_ratio<mixtral_8x7b>(3), 4.92, 2) && prints(eac_moe_ratio<phi_3_5_moe>(3), 4.90, 1) &&
              prints(eac_moe_ratio<deepseek_moe_16b>(3), 4.56, 2) && prints(eac_moe_ratio<qwen1_5_moe_a2_7b>(3), 4.28, 2));
static_assert(prints(((72.64 - 71.68) + (69.62 - 68.31) + (61.38 - 61.09) + (64.72 - 62.73)) / 4, 1.14,
                     2));  // points lost, mean of the four

// ---- savings at matched loss

static_assert(prints(24.6 / 4.3, 5.7, 1) && prints(183.5 / 74.4, 2.5, 1) && prints(2057.5 / 585.6, 3.5, 1) &&
              prints(2057.5 / 374.6, 5.5, 1));
static_assert(prints(450 / 60.0, 7.5, 1));                                                           // Switch-Base, in steps

TEST_CASE("published figures follow from shapes") { CHECK(total<deepseek_v3> > total<deepseek_v2>); }
