// Traffic of experts spread over devices, against published figures and enumeration of all choices.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <bit>
#include <cstdint>

#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/cost/traffic.hpp>

#include "static/printed.hpp"

using namespace moesaic;

// ---- other parts that hold an expert of a token's: the mean over all choices of k of E experts, of a token on part 0

constexpr double enumerated(int parts, int experts, int top_k) {
  std::int64_t choices = 0, found = 0;
  for (std::uint32_t chosen = 0; chosen < 1u << experts; ++chosen) {
    if (std::popcount(chosen) != top_k) continue;
    ++choices;
    for (int part = 1; part < parts; ++part) {
      auto const width = experts / parts;
      found += (chosen >> (part * width) & ((1u << width) - 1)) != 0;
    }
  }
  return static_cast<double>(found) / static_cast<double>(choices);
}
constexpr bool agrees(int parts, int experts) {
  for (int k = 1; k <= experts; ++k)
    if (!prints(remote_parts(parts, experts, k), enumerated(parts, experts, k), 12)) return false;
  return true;
}
static_assert(agrees(2, 8) && agrees(4, 8) && agrees(8, 8) && agrees(3, 9) && agrees(5, 10) && agrees(1, 6));
static_assert(prints(remote_parts(8, 8 << 20, 8), remote_parts(8, 8), 4));   // many experts: each choice by itself
static_assert(remote_parts(1, 8) == 0 && remote_parts(2, 1) == 0.5);

// ---- DeepSeek-V3 on 64 ranks, 128 tokens each: without de-duplication 7.57 MB out in fp8, 151 µs at 50 GB/s, and 14.68 MB back in bf16,
// 294 µs

struct v3 {
  static constexpr block_config config{.hidden = 7168,
                                       .attention = {.heads = 128, .head_dim = 128},
                                       .router = {.experts = 256, .top_k = 8},
                                       .expert = {.intermediate = 2048},
                                       .storage = {.weights = dtype::e4m3, .activations = dtype::bf16, .inputs = input_codes::e4m3}};
};
constexpr expert_parallel on_64{.ranks = 64, .dispatch = dtype::e4m3};
constexpr auto sent = traffic(v3::config, on_64);
constexpr auto out_mb = 128 * 8 * sent.dispatch / sent.rows * 1e-6, back_mb = 128 * 8 * sent.combine / sent.rows * 1e-6;
static_assert(prints(out_mb, 7.57, 2) && prints(back_mb, 14.68, 2));
static_assert(prints(out_mb / 50e-3, 151, 0) && prints(back_mb / 50e-3, 294, 0));
static_assert(sent.copies == 8 * 63.0 / 64 && sent.rows < sent.copies && sent.network_rows < sent.rows && sent.network_rows < 7);

// At most four machines a token: what crosses the network is limited, and eight experts come at the price of four.
constexpr auto limited = traffic(v3::config, {.ranks = 64, .machines_per_token = 4, .dispatch = dtype::e4m3});
static_assert(limited.network_rows == 4 && limited.rows == sent.rows && sent.network_rows > 4);
static_assert(prints(160.0 / 50, 3.2, 1) && prints(4 * 160.0 / 50, 13, 0));   // experts a machine for free where links are so much faster

// One machine sends nothing over the network; one rank, or a dense layer, nothing at all.
static_assert(traffic(v3::config, {.ranks = 8}).network_rows == 0 && traffic(v3::config, {.ranks = 8}).rows > 4);
static_assert(traffic(v3::config, {.ranks = 1}).rows == 0 && traffic(block_config{.hidden = 64}, {.ranks = 8}).dispatch == 0);

// ---- time

constexpr auto time64 = expert_time(devices::h100, v3::config, on_64, 128);
static_assert(time64.dispatch == 128 * sent.network_dispatch / 50e9 &&
              time64.combine == 128 * sent.network_combine / 50e9);  // the network is slower
constexpr auto time8 = expert_time(devices::h100, v3::config, {.ranks = 8, .dispatch = dtype::e4m3}, 128);
static_assert(prints(time8.dispatch * 450e9, 128 * traffic(v3::config, {.ranks = 8, .dispatch = dtype::e4m3}).dispatch, 2));
static_assert(time8.in_turn() == time8.dispatch + time8.experts + time8.combine && time8.overlapped() < time8.in_turn());
static_assert(expert_time(devices::h100, v3::config, {.ranks = 8, .latency = 1e-6}, 0).dispatch == 7e-6);

// Few tokens read weights, whoever has more of them; many compute, and the fullest rank holds up the rest.
static_assert(expert_time(devices::h100, v3::config, on_64, 16, 2).experts == expert_time(devices::h100, v3::config, on_64, 16).experts);
static_assert(prints(expert_time(devices::h100, v3::config, on_64, 1 << 14, 1.5).experts /
                         expert_time(devices::h100, v3::config, on_64, 1 << 14).experts,
                     1.5, 9));
// On one rank it is the roofline.
static_assert(expert_time(devices::h100, v3::config, {.ranks = 1}, 64).in_turn() ==
              roofline(devices::h100, v3::config, decoding(64, 0)).experts.seconds);

// ---- wire against arithmetic: k, hidden and the batch cancel

constexpr double ratio(block_config const& c, double wire) {
  auto const rows = c.router.top_k * (1 - 1.0 / 8) * c.hidden * 2.0;  // bytes of a token, a copy for each expert
  auto const work = static_cast<double>(flops(c, 1).experts) / rate(devices::h100, dtype::bf16);
  return rows / wire / work;
}
constexpr auto narrow = presets::qwen3_30b_a3b::layer::config, wide = presets::mixtral_8x7b::layer::config;
static_assert(prints(traffic_per_arithmetic(devices::h100, narrow, 8, 2, 50e9), ratio(narrow, 50e9), 9));
static_assert(prints(traffic_per_arithmetic(devices::h100, wide, 8, 2, 50e9), ratio(wide, 50e9), 9));
static_assert(traffic_per_arithmetic(devices::h100, narrow, 8, 2, 50e9) / traffic_per_arithmetic(devices::h100, wide, 8, 2, 50e9) >
              18.6);  // 14336 / 768

TEST_CASE("where there is no wire, sending takes for ever") {
  auto const t = expert_time(devices::rtx_4090, v3::config, {.ranks = 16}, 1);
  CHECK(t.dispatch > 1e300);
  CHECK(expert_time(devices::rtx_4090, v3::config, {.ranks = 8}, 1).dispatch < 1e-2);
}
