// What a configuration costs to run: distinct experts, FLOPs, bytes, against published tables and counts by hand.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/cost/parameters.hpp>

#include "static/printed.hpp"

using namespace moesaic;
using namespace moesaic::presets;

// ---- distinct experts of 1, 2, 4, ... 128 tokens

constexpr bool prints_row(int experts, int top_k, double const (&row)[8], int const (&digits)[8]) {
  for (int i = 0; i < 8; ++i)
    if (!prints(distinct_experts(experts, top_k, 1 << i), row[i], digits[i])) return false;
  return true;
}
static_assert(prints_row(8, 2, {2, 3.5, 5.469, 7.199, 7.920, 7.999, 8, 8}, {9, 9, 3, 3, 3, 3, 3, 3}));
static_assert(prints_row(64, 8, {8, 15, 26.48, 42.01, 56.44, 63.11, 63.99, 64}, {9, 9, 2, 2, 2, 2, 2, 2}));
static_assert(prints_row(128, 8, {8, 15.5, 29.12, 51.62, 82.42, 111.77, 125.94, 127.97}, {9, 9, 2, 2, 2, 2, 2, 2}));
static_assert(prints_row(256, 8, {8, 15.75, 30.53, 57.42, 101.96, 163.31, 222.44, 251.6}, {9, 9, 2, 2, 2, 2, 2, 1}));

// A dense layer has one; no token uses none; skewed routing uses fewer than even routing, and even shares give the same.
static_assert(distinct_experts(router_config{}, 7) == 1 && distinct_experts(router_config{}, 0) == 0 && distinct_experts(8, 2, 0) == 0);
constexpr double even[] = {.5, .5, .5, .5}, skewed[] = {.9, .9, .1, .1};
static_assert(prints(distinct_experts(even, 3), distinct_experts(4, 2, 3), 12) && distinct_experts(skewed, 3) < distinct_experts(even, 3));

// ---- bytes of decoding: Mixtral 8x7B in bf16, weights alone, in GB

constexpr double mixtral_gb(int batch) { return decode_bytes<mixtral_8x7b>(batch, 0).total() * 1e-9; }
static_assert(prints(mixtral_gb(1), 25.5, 1) && prints(mixtral_gb(2), 42.4, 1) && prints(mixtral_gb(4), 64.6, 1));
static_assert(prints(mixtral_gb(8), 84.1, 1) && prints(mixtral_gb(16), 92.2, 1) && prints(mixtral_gb(32), 93.1, 1));

static_assert(cache_bytes<mixtral_8x7b>() == 131'072 && cache_bytes<mixtral_8x22b>() == 229'376);
static_assert(decode_bytes<mixtral_8x7b>(4, 1000).cache == 4 * 1000 * 131'072.0);
static_assert(decode_bytes<mixtral_8x7b>(4, 1000).weights == decode_bytes<mixtral_8x7b>(4, 0).total());

// All that a dense model has, but for the rows of the embedding that no token asks for.
static_assert(decode_bytes<llama2_7b>(1, 0).weights ==
              static_cast<double>(weight_bytes<llama2_7b>().total() - weight_bytes<llama2_7b>().embedding + 2 * 4096));
static_assert(decode_bytes<smollm2_135m>(1, 0).weights == static_cast<double>(weight_bytes<smollm2_135m>().total() + 2 * 576));

// ---- bytes of matrices, by hand

static_assert(stored_bytes(dtype::bf16, 3, 5) == 30 && stored_bytes(dtype::fp32, 3, 5) == 60);
static_assert(stored_bytes(dtype::int8, 3, 40) == 3 * 40 + 3 * 2 * 4);                                // a short last group
static_assert(stored_bytes({dtype::int8, 0}, 3, 40) == 3 * 40 + 3 * 4);                               // one scale a row
static_assert(stored_bytes(dtype::int4, 3, 33) == 3 * 17 + 3 * 2 * 4);                                // a row ends on a whole byte
static_assert(stored_bytes({dtype::int4, 32, true}, 3, 64) == 3 * 32 + 3 * 2 * 4 + 3 * 2);            // zero points
static_assert(stored_bytes(dtype::mxfp4, 3, 64) == 3 * 32 + 3 * 2);
static_assert(stored_bytes(dtype::e4m3, 130, 129) == 130 * 129 + 2 * 2 * 4);                          // edge blocks

struct odd_layer {
  static constexpr block_config config{
      .hidden = 40,
      .attention = {.heads = 5, .head_dim = 8, .qkv_bias = true, .out_bias = true},
      .router = {.experts = 3, .top_k = 2, .bias = true, .score_bias = true},
      .expert = {.intermediate = 20, .activation = activation::relu, .bias = true},
      .shared = {.intermediate = 7, .sigmoid_gate = true},
      .norm = {.kind = norm_kind::layer, .bias = true},
      .storage = {.weights = dtype::fp32, .ffn = dtype::int8}};
};
constexpr auto odd = parameters<odd_layer>();
static_assert(odd.norm == 2 * 2 * 40 && odd.attention == 120 * 40 + 120 + 40 * 40 + 40 && odd.router == 3 * 40 + 3 + 3);
static_assert(odd.expert == 2 * 20 * 40 + 20 + 40 && odd.shared == 2 * 7 * 40 + 7 + 40 + 40);
static_assert(odd.total() == odd.always() + 3 * odd.expert && odd.active() == odd.always() + 2 * odd.expert);
static_assert(weight_bytes<odd_layer>().expert == (20 * 40 + 20 * 2 * 4) + (40 * 20 + 40 * 4) + 4 * (20 + 40));
// Packed: one pair of panels of 10 rows up, two of 5 down; a row is 2 × 64 bytes, and scales are [groups][2][16] fp32.
static_assert(weight_bytes<odd_layer>(layout::packed).expert == (10 * 128 + 2 * 128) + 2 * (5 * 128 + 128) + 4 * (20 + 40));
static_assert(weight_bytes<mixtral_8x7b>(layout::packed).total() >= weight_bytes<mixtral_8x7b>().total());
static_assert(weight_bytes<mixtral_8x7b::layer>(layout::packed).expert == 2 * 176'160'768);           // whole panels: no padding in bf16

// ---- FLOPs: SmolLM2 over a prompt of 512, 2 × (26.54 M + 28.31 M + 79.63 M) + 17.7 M for attention scores

constexpr auto smol = flops<smollm2_135m>(256);
static_assert(smol.layers.projections == 2 * 26'542'080 && smol.layers.experts == 2 * 79'626'240 && smol.head == 2 * 28'311'552);
static_assert(prints(static_cast<double>(smol.layers.scores) * 1e-6, 17.7, 1) && prints(static_cast<double>(smol.total()) * 1e-6, 287, 0));
static_assert(smol.layers.router == 0 && smol.layers.shared == 0);

constexpr auto mixtral_layer = flops<mixtral_8x7b::layer>(1);
static_assert(mixtral_layer.experts == 2 * 2 * 176'160'768ll && mixtral_layer.router == 2 * 8 * 4096);
static_assert(mixtral_layer.scores == 4 * 32 * 128);
static_assert(flops<qwen1_5_moe_a2_7b::layer>(1).shared == 2 * (3 * 2048 * 5632 + 2048));

// ---- experts that differ: three widths, a zero, two copies, two constants

struct unequal_layer {
  static constexpr block_config config{
      .hidden = 40,
      .attention = {.heads = 5},
      .router = {.experts = 11, .top_k = 3},
      .expert = {.activation = activation::relu, .bias = true, .widths = {{3, 24}, {1, 33}, {2, 10}}, .zero = 1, .copy = 2, .constant = 2},
      .storage = {.weights = dtype::fp32, .ffn = dtype::int8}};
};
constexpr auto of_unequal = unequal_layer::config;
static_assert(shapes(of_unequal).feed_forwards == 6 && shapes(of_unequal).intermediate == 33);
static_assert(kind_of(of_unequal, 5) == expert_kind::feed_forward && kind_of(of_unequal, 6) == expert_kind::zero);
static_assert(kind_of(of_unequal, 8) == expert_kind::copy && kind_of(of_unequal, 9) == expert_kind::constant);
static_assert(width_of(of_unequal, 2) == 24 && width_of(of_unequal, 3) == 33 && width_of(of_unequal, 4) == 10 && width_of(of_unequal, 6) == 0);
static_assert(zero_experts(of_unequal).first == 6 && copy_experts(of_unequal).first == 7 && constant_experts(of_unequal).first == 9);

constexpr auto unequal = parameters<unequal_layer>();
constexpr std::int64_t unequal_widths = 3 * 24 + 33 + 2 * 10;
static_assert(unequal.router == 11 * 40 && unequal.expert == 2 * 33 * 40 + 33 + 40);
static_assert(unequal.routed == 2 * 40 * unequal_widths + unequal_widths + 6 * 40 + 2 * 3 * 40);
static_assert(unequal.total() == unequal.always() + unequal.routed && unequal.active() == unequal.always() + 3 * unequal.routed / 11);
static_assert(unequal.with_experts(11, 0) == static_cast<double>(unequal.total()));
static_assert(expert_parameters(of_unequal, 4) == 2 * 10 * 40 + 10 + 40 && expert_parameters(of_unequal, 6) == 0);
static_assert(expert_parameters(of_unequal, 7) == 0 && expert_parameters(of_unequal, 10) == 3 * 40);
static_assert(expert_flops(of_unequal, 0) == 4 * 40 * 24 && expert_flops(of_unequal, 5) == 4 * 40 * 10);
static_assert(expert_flops(of_unequal, 6) == 0 && expert_flops(of_unequal, 7) == 40 && expert_flops(of_unequal, 9) == 4 * 40);
static_assert(flops<unequal_layer>(1).experts == 3 * (4 * 40 * unequal_widths + 2 * 40 + 2 * 4 * 40) / 11);
static_assert(expert_bytes(of_unequal, 4) == (10 * 40 + 10 * 2 * 4) + (40 * 10 + 40 * 4) + 4 * (10 + 40) && expert_bytes(of_unequal, 9) == 4 * 120);
constexpr auto all_of = [](block_config const& c, auto&& price) {
  std::int64_t sum = 0;
  for (int e = 0; e < shapes(c).experts; ++e) sum += price(c, e);
  return sum;
};
static_assert(all_of(of_unequal, [](auto& c, int e) { return expert_parameters(c, e); }) == unequal.routed);
static_assert(all_of(of_unequal, [](auto& c, int e) { return expert_bytes(c, e); }) == weight_bytes(of_unequal).routed);
static_assert(all_of(of_unequal, [](auto& c, int e) { return expert_bytes(c, e, layout::packed); }) == weight_bytes(of_unequal, layout::packed).routed);

// A gated feed-forward is three matrices, of a dense layer too; one width told as a run is the same layer.
static_assert(expert_flops(mixtral_8x7b::layer::config, 7) == 6ll * 4096 * 14336 && expert_flops(smollm2_135m::layer::config, 0) == 6 * 576 * 1536);
constexpr auto told_as_run = [] {
  auto c = mixtral_8x7b::layer::config;
  c.expert.intermediate = 0, c.expert.widths = {{8, 14336}};
  return c;
}();
static_assert(parameters(told_as_run).total() == parameters<mixtral_8x7b::layer>().total());
static_assert(flops(told_as_run, 7).total() == flops<mixtral_8x7b::layer>(7).total());

// LongCat-Flash's experts (arXiv:2509.01322): 512 and 256 identities, 12 of them a token, 8 of these feed-forwards by even routing.
constexpr block_config longcat{.hidden = 6144,
                               .attention = {.heads = 64},
                               .router = {.experts = 768, .top_k = 12, .routed_scale = 6.0, .score_bias = true},
                               .expert = {.intermediate = 2048, .copy = 256}};
static_assert(explain(longcat) == nullptr && parameters(longcat).routed == 512 * 3ll * 6144 * 2048);
static_assert(flops(longcat, 1).experts == 8 * 6ll * 6144 * 2048 + 4 * 6144);

// ---- a pair of byte-level decoders of one shape: dense of width 256, and 32 experts of width 64, four a token

constexpr attention_config pair_attention{.heads = 4, .kv_heads = 2, .head_dim = 32, .qk_norm = qk_norm::per_head};
struct pair_model {
  static constexpr decoder_config config{.vocabulary = 256, .norm = {.epsilon = 1e-6}, .tied_head = true};
};
struct pair_dense : pair_model {
  struct layer {
    static constexpr block_config config{
        .hidden = 128, .attention = pair_attention, .expert = {.intermediate = 256}, .norm = {.epsilon = 1e-6}};
  };
  using layers = moesaic::layers<repeat<layer, 4>>;
};
struct pair_moe : pair_model {
  struct layer {
    static constexpr block_config config{
        .hidden = 128,
        .attention = pair_attention,
        .router = {.experts = 32, .top_k = 4, .renormalize = true},
        .expert = {.intermediate = 64},
        .norm = {.epsilon = 1e-6},
        .storage = {.ffn = dtype::int4}};
  };
  using layers = moesaic::layers<repeat<layer, 4>>;
};
static_assert(parameters<pair_dense>().total() == 624'000 && parameters<pair_dense>().active() == 624'000);
static_assert(parameters<pair_moe>().total() == 3'392'896 && parameters<pair_moe>().active() == 640'384);
static_assert(parameters<pair_moe>().active_without_embedding() == 640'384);  // tied: the embedding is the head
static_assert(prints(4 * 32 * static_cast<double>(weight_bytes<pair_moe::layer>().expert) * 1e-6, 2.0, 1));  // experts in int4, with scales

TEST_CASE("a price may be asked for at run time, of values") {
  block_config const layers[] = {mixtral_8x7b::layer::config};
  for (int batch : {1, 3, 100}) {
    auto const step = decode_bytes(mixtral_8x7b::config, layers, batch, 10);
    auto const distinct = distinct_experts(8, 2, batch);
    auto const layer = weight_bytes(layers[0]);
    CHECK(step.weights == doctest::Approx(layer.with_experts(distinct, 0) + 2.0 * 4096 * (32000 + batch) + 4.0 * 4096));
    CHECK(step.cache == batch * 10 * 4096);
  }
  CHECK(flops(mixtral_8x7b::config, layers, 1).total() == mixtral_layer.total() + 2 * 32000ll * 4096);
}
