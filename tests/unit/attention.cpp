// Cache and attention against the oracles' stages; the cache's layout and its refusals by hand.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/shapes.hpp>
#include <moesaic/host/attention.hpp>
#include <support/cache.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct model_case {
  char const* file;
  int heads, kv_heads, head_dim;
  attention_rule rule = {.scale = 0};        // 0 = 1 / √head_dim
  char const* sinks = nullptr;
  int value_dim = 0;
};
model_case const models[] = {
    {"llama.block", 6, 2, 10},
    {"llama3.block", 4, 2, 16},
    {"olmoe.block", 6, 3, 8},
    {"qwen3_moe.block", 4, 2, 12},
    {"gpt_oss.block", 4, 2, 16, {.scale = 0, .window = 6}, "weight.self_attn.sinks"},
    {"grok1.block", 6, 2, 8, {.scale = 0, .softcap = 30}},
    {"dbrx.block", 4, 2, 8},
    {"llama4.block", 4, 2, 8, {.scale = 0, .chunk = 5}},
    {"glm4_moe.block", 6, 2, 12},
    {"minimax_m2.block", 6, 2, 8},
    {"hunyuan_v1_moe.block", 4, 2, 10},
    {"granitemoe.block", 4, 2, 8, {.scale = 0.35}},
    {"ernie4_5_moe.block", 4, 2, 8},
    {"jetmoe.block", 4, 2, 8, {.scale = 0, .tiled_kv = true}},
    {"longcat_flash.block", 4, 4, 14, {.scale = 0}, nullptr, 10},
};

template <class T>
attention_batch<T> read_batch(safetensors const& oracle, model_case const& m) {
  auto const of_kv_heads = [&](std::string const& stage, int width) {  // some files have keys and values once a query head
    auto const all = read_matrix<T>(oracle, stage);
    matrix<T> y(all.rows, m.kv_heads * width);
    for (std::int64_t t = 0; t < y.rows; ++t)
      for (std::int64_t c = 0; c < y.columns; ++c) y(t, c) = all(t, c);
    return y;
  };
  auto const values = oracle.find("expect.v_heads") != nullptr ? "expect.v_heads" : "expect.v";
  attention_batch<T> b{read_matrix<T>(oracle, "expect.q_rope"),
                       of_kv_heads("expect.k_rope", m.head_dim),
                       of_kv_heads(values, m.value_dim != 0 ? m.value_dim : m.head_dim),
                       {},
                       {}};
  b.position = read<std::int32_t>(oracle, "input.positions");
  b.sequence.resize(b.position.size(), 0);
  return b;
}

template <class T>
void check_models(dtype storage) {
  for (auto const& m : models) {
    CAPTURE(m.file);
    safetensors const oracle(oracle_path(m.file));
    auto const batch = read_batch<T>(oracle, m);
    auto const tokens = batch.q.rows;
    host::pool pool;
    owning_cache const cache(storage, 1, m.kv_heads, m.head_dim, static_cast<int>(tokens) + 3, {batch.position[0]}, m.value_dim);
    auto rule = m.rule;
    if (rule.scale == 0) rule.scale = attention_scale({}, m.head_dim);
    auto const sinks = m.sinks != nullptr ? read<float>(oracle, m.sinks) : std::vector<float>{};
    rule.sinks = sinks;

    auto const out = append_and_attend<T>(pool, rule, cache, batch);
    auto const want = read_matrix<double>(oracle, "expect.attn_heads");
    auto const heads = compare(std::as_const(out).view(), want.view());
    INFO("attn_heads: " << to_string(heads));
    CHECK(heads.worst <= long_stage_tolerance<T>);

    matrix<accumulator<T>> probabilities(m.heads * tokens, tokens);
    REQUIRE(
        host::attention_probabilities<T>(pool, rule, cache.view, batch.q.view(), batch.sequence, batch.position, probabilities.view()));
    auto const stage = read_matrix<double>(oracle, "expect.attn_probs");  // [heads, tokens, tokens]
    auto const found = compare(std::as_const(probabilities).view(), view<double const>(stage.data.data(), m.heads * tokens, tokens));
    INFO("attn_probs: " << to_string(found));
    CHECK(found.worst <= (rule.softcap == 0 ? stage_tolerance<T> : long_stage_tolerance<T>));   // a capped score is rounded twice more
  }
}

bool same_bytes(host::buffer const& a, std::vector<std::byte> const& b) { return std::memcmp(a.data(), b.data(), b.size()) == 0; }

}  // namespace

TEST_CASE("attn_probs and attn_heads of the oracles: double") { check_models<double>(dtype::fp64); }
TEST_CASE("attn_probs and attn_heads of the oracles: float") { check_models<float>(dtype::fp32); }
TEST_CASE("attn_probs and attn_heads of the oracles: bf16, in a bf16 and an fp32 cache") {
  check_models<bf16>(dtype::bf16);
  check_models<bf16>(dtype::fp32);
}

TEST_CASE("bf16 against the shipped code at bf16") {
  safetensors const oracle(oracle_path("llama.block"));
  attention_batch<bf16> batch{read_matrix<bf16>(oracle, "expect.bf16.q_rope"),
                              read_matrix<bf16>(oracle, "expect.bf16.k_rope"),
                              read_matrix<bf16>(oracle, "expect.bf16.v"),
                              {},
                              {}};
  batch.position = read<std::int32_t>(oracle, "input.positions");
  batch.sequence.resize(batch.position.size(), 0);
  host::pool pool;
  owning_cache const cache(dtype::bf16, 1, 2, 10, 17, {batch.position[0]});
  auto const out = append_and_attend<bf16>(pool, attention_scale({}, 10), cache, batch);
  auto const want = read_matrix<bf16>(oracle, "expect.bf16.attn_heads");
  auto const found = compare(out.view(), want.view());
  INFO(to_string(found));
  CHECK(found.worst <= stage_tolerance<bf16>);
}

TEST_CASE("the cache is the packed layout: sizes and places by hand") {
  // 40 slots: two pairs of panels of keys; 10 dimensions: one pair of panels of values.
  host::kv_cache const fp32{.storage = dtype::fp32, .sequences = 3, .kv_heads = 2, .key_dim = 10, .value_dim = 10, .max_tokens = 40};
  CHECK(host::bytes(fp32) == 6 * (2 * 10 * 128 + 40 * 128));
  host::kv_cache const narrow{.storage = dtype::bf16, .sequences = 3, .kv_heads = 2, .key_dim = 10, .value_dim = 10, .max_tokens = 41};
  CHECK(host::bytes(narrow) == 6 * (2 * 5 * 128 + 21 * 128));
  host::kv_cache const wide{.storage = dtype::fp64, .sequences = 3, .kv_heads = 2, .key_dim = 10, .value_dim = 10, .max_tokens = 40};
  CHECK(host::bytes(wide) == 2 * host::bytes(fp32));

  owning_cache const cache(dtype::bf16, 2, 2, 10, 41, {0, 100});
  matrix<bf16> k(1, 20), v(1, 20);
  k(0, 13) = bf16(3.0f);  // head 1, dimension 3
  v(0, 19) = bf16(5.0f);  // head 1, dimension 9
  host::pool pool;
  REQUIRE(
      host::append<bf16>(pool, cache.view, k.view(), v.view(), std::vector<std::int32_t>{1}, std::vector<std::int32_t>{135}));  // slot 35
  auto const at = [&](std::size_t byte) {
    bf16 x;
    std::memcpy(&x, cache.memory.data() + byte, sizeof x);
    return static_cast<float>(x);
  };
  auto const keys = std::size_t{2 * 5 * 128}, values = std::size_t{21 * 128};
  CHECK(at(3 * keys + 5 * 128 + 64 + 3 * 4 + 2) == 3.0f);            // second pair, first panel, row 1, lane 3, upper half
  CHECK(at(4 * keys + 3 * values + 2048 + 64 + 9 * 4 + 2) == 5.0f);  // second tile (5 rows a panel), row 17, lane 9, upper half
}

TEST_CASE("what does not fit the cache is refused with numbers, and nothing is written") {
  owning_cache const cache(dtype::fp32, 2, 1, 8, 4, {10, 0});
  std::vector<std::byte> const before(cache.memory.data(), cache.memory.data() + cache.memory.size());
  random_stream random(5);
  auto const k = random_matrix<float>(2, 8, random);
  auto out = random_matrix<float>(2, 16, random);
  auto const q = random_matrix<float>(2, 16, random);
  host::pool pool;
  using ids = std::vector<std::int32_t>;
  struct bad {
    ids sequence, position;
    std::int64_t expected, found;
  };
  for (auto const& b : {bad{{0, 2}, {10, 0}, 2, 2}, {{0, -1}, {10, 0}, 2, -1}, {{0, 0}, {10, 14}, 4, 4}, {{0, 0}, {10, 9}, 4, -1}}) {
    for (auto const& done : {host::append<float>(pool, cache.view, k.view(), k.view(), b.sequence, b.position),
                             host::attend<float>(pool, {}, cache.view, q.view(), b.sequence, b.position, out.view())}) {
      CHECK(done.code == status_code::out_of_range);
      CHECK(done.expected == b.expected);
      CHECK(done.found == b.found);
    }
  }
  ids const sequence = {0, 0}, position = {10, 11};
  CHECK(host::append<float>(pool, cache.view, k.view(), k.view(), sequence, ids{10}).code == status_code::invalid_argument);
  CHECK(host::append<float>(pool, cache.view, q.view(), k.view(), sequence, position).code == status_code::invalid_argument);
  CHECK(host::attend<float>(pool, {}, cache.view, view<float const>(q.data.data(), 2, 12, 16), sequence, position, out.view()).code ==
        status_code::invalid_argument);
  auto odd = cache.view;
  odd.storage = dtype::fp64;
  CHECK(host::append<float>(pool, odd, k.view(), k.view(), sequence, position).code == status_code::invalid_argument);
  CHECK(same_bytes(cache.memory, before));

  matrix<float> narrow(4, 1);
  auto const refused = host::attention_probabilities<float>(pool, {}, cache.view, q.view(), sequence, position, narrow.view());
  CHECK(refused.code == status_code::out_of_range);
  CHECK(refused.expected == 1);                            // a slot must be below the number of columns
  CHECK(refused.found >= 1);
}
