// Time by roofline, and advice, against published figures and counts by hand.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>

#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/advise.hpp>

#include "static/printed.hpp"

using namespace moesaic;
using namespace moesaic::presets;
using devices::a100_80gb, devices::h100, devices::h200;

// The budget of docs/cost.md: a layer of Qwen3-30B-A3B decodes sixteen sequences of 2048 keys in under 200 µs.
static_assert(microseconds(decode_time<qwen3_30b_a3b::layer>(h200, 16, 2048)) < 200);
static_assert(microseconds(decode_time<qwen3_30b_a3b::layer>(h100, 16, 2048)) > 200);

// ---- Mixtral 8x7B in bf16 on an H100, weights alone: milliseconds a step

constexpr double mixtral_ms(std::int64_t batch) { return milliseconds(decode_time<mixtral_8x7b>(h100, batch, 0)); }
static_assert(prints(mixtral_ms(1), 7.61, 2) && prints(mixtral_ms(2), 12.7, 1) && prints(mixtral_ms(4), 19.3, 1));
static_assert(prints(mixtral_ms(8), 25.1, 1) && prints(mixtral_ms(16), 27.5, 1) && prints(mixtral_ms(32), 27.8, 1));

// The advantage over a dense model of all its parameters is gone from the bytes by a batch of 16, and not from the arithmetic: 3.6 times.
constexpr auto mixtral16 = advise<mixtral_8x7b>(h100, decoding(16, 0));
static_assert(mixtral16.seconds / mixtral16.dense_of_all > 0.98 && mixtral16.seconds / mixtral16.dense_of_active > 3.5);
static_assert(prints(mixtral16.parameters / mixtral16.active_parameters, 3.6, 1));
static_assert(mixtral16.bound_by_memory && !mixtral16.fits && advise<mixtral_8x7b>(h200, decoding(1, 0)).fits);
constexpr auto mixtral1 = advise<mixtral_8x7b>(h100, decoding(1, 0));
static_assert(mixtral1.seconds / mixtral1.dense_of_active <
              1.001);  // and at a batch of one it is the whole of it: the router is what is left

// ---- rows from which arithmetic is what takes time: peak / bandwidth of a dense layer in bf16, E / k times that of a mixture

static_assert(prints(compute_bound_rows<llama2_7b::layer>(h100), 295, 0) && prints(compute_bound_rows<llama2_7b::layer>(h200), 206, 0) &&
              prints(compute_bound_rows<llama2_7b::layer>(a100_80gb), 153, 0));
static_assert(prints(compute_bound_rows<mixtral_8x7b::layer>(h100) * 0.1, 118, 0) &&
              prints(compute_bound_rows<mixtral_8x7b::layer>(h200), 824, 0) &&
              prints(compute_bound_rows<mixtral_8x7b::layer>(a100_80gb), 612, 0));
struct v3_experts {   // of DeepSeek-V3, in fp8; attention stands for its own
  static constexpr block_config config{.hidden = 7168,
                                       .attention = {.heads = 128, .head_dim = 128},
                                       .router = {.experts = 256, .top_k = 8},
                                       .expert = {.intermediate = 2048},
                                       .shared = {.intermediate = 2048},
                                       .storage = {.weights = dtype::e4m3, .activations = dtype::bf16, .inputs = input_codes::e4m3}};
};
static_assert(prints(compute_bound_rows<v3_experts>(h100) * 0.1, 945, 0) && prints(compute_bound_rows<v3_experts>(h200) * 0.01, 66, 0));

// At that number of rows, and not at half of it, the experts are bound by arithmetic.
constexpr bool crosses(machine const& d, block_config const& c) {
  auto const rows = static_cast<std::int64_t>(compute_bound_rows(d, c));
  auto const bound = [&](std::int64_t n) { return roofline(d, c, decoding(n, 0)).experts.bound_by_memory(); };
  return bound(rows / 2) && bound(rows - 1) && !bound(rows + 2);
}
static_assert(crosses(h100, llama2_7b::layer::config) && crosses(h200, mixtral_8x7b::layer::config) && crosses(h200, v3_experts::config));

// ---- floors of one layer's experts at 4.3 TB/s, in µs, for 1, 2, 4, ... 128 tokens

template <int Hidden, int Intermediate, int Experts, int TopK, dtype Weights>
struct experts_alone {
  static constexpr block_config config{.hidden = Hidden,
                                       .attention = {.heads = 1, .head_dim = 64},
                                       .router = {.experts = Experts, .top_k = TopK},
                                       .expert = {.intermediate = Intermediate},
                                       .storage = {.weights = Weights, .activations = dtype::bf16}};
};
template <class Spec>
constexpr bool floors(double const (&row)[8], int digits_of_first = 0) {
  auto d = h200;
  d.bandwidth = 4.3e12;
  for (int i = 0; i < 8; ++i)
    if (!prints(microseconds(roofline<Spec>(d, decoding(1 << i, 0)).experts.seconds), row[i], i == 0 ? digits_of_first : 0)) return false;
  return true;
}
static_assert(floors<qwen3_30b_a3b::layer>({17.6, 34, 64, 113, 181, 245, 276, 281}, 1));
static_assert(floors<experts_alone<2048, 768, 128, 8, dtype::e4m3>>({8.8, 17, 32, 57, 90, 123, 138, 140}, 1));
static_assert(floors<qwen3_235b_a22b::layer>({70, 136, 256, 453, 724, 981, 1106, 1123}));
static_assert(floors<mixtral_8x7b::layer>({164, 287, 448, 590, 649, 655, 655, 655}));
static_assert(floors<experts_alone<7168, 256, 256, 8, dtype::e4m3>>({10.2, 20, 39, 74, 131, 209, 285, 322}, 1));
static_assert(floors<experts_alone<2048, 512, 256, 8, dtype::e4m3>>({5.9, 12, 22, 42, 75, 120, 163, 184}, 1));
static_assert(floors<experts_alone<2880, 2880, 128, 4, dtype::bf16>>({46, 91, 177, 332, 590, 945, 1287, 1456}));
static_assert(floors<olmoe_1b_7b::layer>({23, 44, 78, 123, 165, 185, 187, 187}));

// ---- the table of docs/cost.md: Qwen3-30B-A3B's layer on an H200, and one change each; 1, 16, 256 decode at 2048 keys, a prompt of 4096

constexpr auto published = qwen3_30b_a3b::layer::config;
template <class Change>
constexpr bool takes(Change change, double one, double some, double many, double prompt, double rows_until_arithmetic) {
  auto c = published;
  change(c);
  auto const us = [&](workload const& w) { return microseconds(roofline(h200, c, w).total().seconds); };
  return prints(us(decoding(1, 2048)), one, 0) && prints(us(decoding(16, 2048)), some, 0) && prints(us(decoding(256, 2048)), many, 0) &&
         prints(us(prefilling(4096)), prompt, 0) && prints(compute_bound_rows(h200, c), rows_until_arithmetic, 0);
}
static_assert(takes([](block_config&) {}, 25, 184, 487, 640, 3297));
static_assert(takes([](block_config& c) { c.router.top_k = 4; }, 17, 122, 487, 579, 6593));
static_assert(takes([](block_config& c) { c.router.experts = 256; }, 25, 223, 741, 863, 6593));
constexpr auto finer = [](block_config& c) { c.router.experts = 256, c.router.top_k = 16, c.expert.intermediate = 384; };
static_assert(takes(finer, 25, 184, 489, 672, 3297));
constexpr auto coarser = [](block_config& c) { c.router.experts = 32, c.router.top_k = 2, c.expert.intermediate = 3072; };
static_assert(takes(coarser, 25, 184, 486, 616, 3297));
constexpr auto one_shared = [](block_config& c) { c.router.experts = 127, c.router.top_k = 7, c.shared.intermediate = 768; };
static_assert(takes(one_shared, 25, 173, 488, 640, 3738));
static_assert(takes([](block_config& c) { c.storage.ffn = dtype::e4m3, c.storage.inputs = input_codes::e4m3; }, 17, 103, 361, 484, 3299));
static_assert(takes([](block_config& c) { c.storage.ffn = dtype::int4; }, 14, 73, 314, 640, 1030));
static_assert(takes([](block_config& c) { c.attention.kv_heads = 32; }, 37, 288, 2061, 762, 3297));
static_assert(takes([](block_config& c) { c = dense_twin(c, true); }, 24, 38, 253, 608, 206));
static_assert(takes([](block_config& c) { c = dense_twin(c, false); }, 260, 274, 546, 5298, 206));
static_assert(prints(microseconds(roofline(h200, published, {.sequences = 16, .keys = 2048, .distinct = 62}).total().seconds), 144, 0));

// ---- what multiplies what

static_assert(operand_type(dtype::bf16, dtype::e4m3, input_codes::e4m3) == dtype::e4m3 && operand_type(dtype::bf16, dtype::int4, input_codes::e4m3) == dtype::bf16);
static_assert(operand_type(dtype::bf16, dtype::e4m3) == dtype::bf16 && operand_type(dtype::fp64, dtype::bf16) == dtype::fp64);
// Latents on their way up to keys and values are no codes.
struct v3_attention {
  static constexpr block_config config{.hidden = 7168, .attention = {.heads = 128, .head_dim = 128, .latent = {.kv_rank = 512, .q_rank = 1536, .rope_dim = 64}},
                                       .expert = {.intermediate = 18432},
                                       .storage = {.weights = dtype::e4m3, .activations = dtype::bf16, .inputs = input_codes::e4m3}};
};
constexpr roof v3_projections(input_codes inputs) {
  auto c = v3_attention::config;
  c.storage.inputs = inputs;
  return roofline(h200, c, prefilling(4096)).projections;
}
constexpr double v3_up = 4096.0 * 2 * 128 * (128 + 128) * 512, v3_codes = 4096.0 * 2 * (7168.0 * (1536 + 576) + 1536.0 * 128 * 192 + 128 * 128 * 7168.0);
constexpr auto coded_v3 = v3_projections(input_codes::e4m3), plain_v3 = v3_projections(input_codes::none);
static_assert(coded_v3.flops == v3_up + v3_codes && plain_v3.flops == coded_v3.flops && coded_v3.bytes == plain_v3.bytes);
static_assert(prints(microseconds(coded_v3.computing), microseconds(v3_codes / 1979e12 + v3_up / rate(h200, dtype::bf16)), 6) && coded_v3.seconds == coded_v3.computing);
static_assert(prints(microseconds(plain_v3.computing), microseconds((v3_codes + v3_up) / rate(h200, dtype::bf16)), 6));
static_assert(rate(h200, dtype::e4m3) == 1979e12 && rate(a100_80gb, dtype::e4m3) == 312e12);   // no unit for fp8: widened to bf16
static_assert(rate(machine{.bandwidth = 1, .peak = {.fp32 = 7}}, dtype::bf16) == 7 && rate(machine{.peak = {.fp32 = 7}}, dtype::int8) == 7);
static_assert(prints(ridge(h100, dtype::bf16), 295, 0) && prints(ridge(devices::zen4_core, dtype::bf16), 8, 0));
static_assert(reaching(h200, 0.5, 0.25).bandwidth == 2.4e12 && rate(reaching(h200, 0.5, 0.25), dtype::bf16) == 989e12 / 4);
static_assert(prints(rate(devices::epyc_9654, dtype::fp32) / 96 / 2.4 * 3.7e-9, 118, 0) &&   // a core as measured at 3.7 GHz
              prints(rate(devices::epyc_9654, dtype::bf16) / 96 / 2.4 * 3.7e-9, 237, 0));

// What no unit does takes for ever, and nothing takes no time.
constexpr bool for_ever(double seconds) { return seconds > 1e300; }
static_assert(for_ever(under_roof({.bandwidth = 1}, 0, 1, dtype::fp32).seconds) &&
              for_ever(under_roof({.peak = {.fp32 = 1}}, 1, 0, dtype::fp32).seconds));
static_assert(under_roof({}, 0, 0, dtype::fp32).seconds == 0 && saved_seconds(h200, published, published, 0) == 0);

// ---- workloads

static_assert(decoding(16, 100).pairs() == 1600 && decoding(1, 0).pairs() == 0 && prefilling(4).pairs() == 1 + 2 + 3 + 4);
static_assert(workload{.sequences = 2, .tokens = 3, .keys = 10}.pairs() == 2 * (8 + 9 + 10));

// ---- routing that prefers some experts reads fewer

constexpr double even[] = {.5, .5, .5, .5}, skewed[] = {.9, .9, .1, .1};
struct four_experts : experts_alone<256, 512, 4, 2, dtype::bf16> {};
constexpr double with_shares(list<double const> shares, std::int64_t rows) {
  return roofline<four_experts>(h200, {.sequences = rows, .keys = 0, .distinct = distinct_experts(shares, rows)}).experts.seconds;
}
static_assert(with_shares(even, 3) == roofline<four_experts>(h200, decoding(3, 0)).experts.seconds);
static_assert(with_shares(skewed, 3) < with_shares(even, 3));

// ---- advice

constexpr auto qwen = advise<qwen3_30b_a3b>(h200, decoding(16, 4096), 36e12);
static_assert(prints(qwen.parameters * 1e-9, 30.5, 1) && qwen.experts == 128 && prints(qwen.distinct, 82.42, 2) && qwen.fits);
static_assert(qwen.longest[0] == 'e' && qwen.bound_by_memory && prints(qwen.compute_bound_rows, 3297, 0) &&
              prints(qwen.rows_that_read_all, 71.4, 1));
static_assert(qwen.dense_of_active < qwen.seconds && qwen.seconds < qwen.dense_of_all && qwen.savings.extrapolated);
static_assert(prints(qwen.tokens_a_second * qwen.seconds, 16, 9) && qwen.cache_bytes == 16.0 * 4096 * 2 * 4 * 128 * 2 * 48);
constexpr auto llama = advise<llama3_8b>(h200, prefilling(8192));
static_assert(llama.dense_of_active == llama.seconds && llama.dense_of_all == llama.seconds && !llama.bound_by_memory &&
              llama.router_share == 0);
static_assert(llama.distinct == 1 && llama.savings.loss == 0);
static_assert(advise<mixtral_8x7b::layer>(h200, decoding(16, 4096)).seconds == decode_time<mixtral_8x7b::layer>(h200, 16, 4096));

// Experts of both widths together are the mixture: the twin of all has its parameters but for the router.
static_assert(parameters(dense_twin(qwen1_5_moe_a2_7b::layer::config, false)).total() ==
              parameters<qwen1_5_moe_a2_7b::layer>().total() - 60 * 2048 - 2048);
static_assert(parameters(dense_twin(qwen1_5_moe_a2_7b::layer::config, true)).total() ==
              parameters<qwen1_5_moe_a2_7b::layer>().active() - 60 * 2048 - 2048);

// Unequal feed-forwards of 96 columns in all, and experts that are none: a token of two slots out of eight uses a quarter.
constexpr block_config unequal{.hidden = 64,
                               .attention = {.heads = 1},
                               .router = {.experts = 8, .top_k = 2},
                               .expert = {.widths = {{2, 32}, {2, 16}}, .zero = 2, .copy = 1, .constant = 1},
                               .shared = {.intermediate = 8}};
static_assert(dense_twin(unequal, false).expert == expert_config{.intermediate = 104} &&
              dense_twin(unequal, true).expert.intermediate == 32);

// The rows that read 99 % of the experts do, and one fewer do not.
constexpr bool reads(router_config const& r) {
  auto const rows = static_cast<std::int64_t>(rows_that_read(r, 0.99));
  return distinct_experts(r, rows) <= 0.99 * r.experts && distinct_experts(r, rows + 1) >= 0.99 * r.experts;
}
static_assert(reads({.experts = 8, .top_k = 2}) && reads({.experts = 256, .top_k = 8}) &&
              rows_that_read({.experts = 4, .top_k = 4}, 0.99) == 1);

// ---- break-even of a mixture with a dense layer of the width that a token uses

static_assert(tile_padding(16, 16) == 1 && tile_padding(17, 16) == 32.0 / 17 && tile_padding(0.5, 16) == 32 && tile_padding(0, 16) == 1);

// The table of docs/cost.md: a dense layer of 4 d, and eight experts of d / 2, two a token.
constexpr block_config dense_of(int d) {
  return {.hidden = d, .attention = {.heads = d / 64}, .expert = {.intermediate = 4 * d}, .storage = {.activations = dtype::bf16}};
}
constexpr block_config moe_of(int d) {
  auto c = dense_of(d);
  c.router = {.experts = 8, .top_k = 2};
  c.expert.intermediate = d / 2;
  return c;
}
constexpr bool gains(machine const& d, double overhead, std::int64_t const (&from)[4]) {
  for (int i = 0; i < 4; ++i)
    if (break_even_rows(d, dense_of(64 << 2 * i), moe_of(64 << 2 * i), overhead, 16) != from[i]) return false;
  return true;
}
static_assert(gains(h200, 10e-6, {168'745, 8'853, 605, 232}) && gains(h200, 30e-6, {506'216, 26'524, 1'595, 281}));
static_assert(gains(devices::zen4_core, 10e-6, {41, 18, 16, 16}));

constexpr auto wide_dense = dense_of(4096), wide_moe = moe_of(4096), tiny_dense = dense_of(64), tiny_moe = moe_of(64);
constexpr auto from_wide = break_even_rows(h200, wide_dense, wide_moe, 20e-6),
               from_tiny = break_even_rows(h200, tiny_dense, tiny_moe, 20e-6);
static_assert(from_wide > 1 && from_wide < 1000 && from_tiny > 100 * from_wide);
static_assert(saved_seconds(h200, wide_dense, wide_moe, from_wide) > 20e-6 &&
              saved_seconds(h200, wide_dense, wide_moe, from_wide - 1) <= 20e-6);
static_assert(saved_seconds(h200, wide_dense, wide_moe, 64, 128) <=
              saved_seconds(h200, wide_dense, wide_moe, 64));  // tiles that are not full
static_assert(break_even_rows(h200, tiny_dense, tiny_moe, 1) == 0);
// Experts of attention, and their router, are no part of the feed-forward.
constexpr auto wide_mixed = [] {
  auto c = wide_moe;
  c.attention.router = {.experts = 8, .top_k = 2};
  return c;
}();
static_assert(saved_seconds(h200, wide_dense, wide_mixed, 64) == saved_seconds(h200, wide_dense, wide_moe, 64) &&
              roofline(h200, wide_mixed, decoding(64, 1)).attention_router.bytes == 8 * 4096 * 4);

TEST_CASE("a roofline may be asked for at run time, of values") {
  block_config const layers[] = {mixtral_8x7b::layer::config, mixtral_8x7b::layer::config};
  auto const one = roofline(h200, layers[0], decoding(4, 1000)).total().seconds;
  auto const two = roofline(h200, mixtral_8x7b::config, layers, decoding(4, 1000));
  CHECK(two.layers.total().seconds == 2 * one);
  CHECK(two.total().bytes == decode_bytes(mixtral_8x7b::config, layers, 4, 1000).total());
  CHECK(roofline(h200, mixtral_8x7b::config, {}, decoding(4, 1000)).total().seconds == 0);
}
