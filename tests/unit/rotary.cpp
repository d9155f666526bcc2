// Rotary embedding against the oracles' frequency tables and stages, and its invariants.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/shapes.hpp>
#include <moesaic/host/rotary.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

struct table_case {
  char const* name;
  int head_dim;
  attention_config config;
  bool beyond = false;    // the file's positions reach beyond the original ones
};

constexpr double yarn_magnitude(double mscale, double ln_factor) { return 0.1 * mscale * ln_factor + 1; }
constexpr double ln_40 = 3.6888794541139363;
rope_scaling const deepseek_v3{.kind = rope_scaling_kind::yarn, .factor = 40, .original_positions = 4096, .magnitude = 1};
rope_scaling const gpt_oss{.kind = rope_scaling_kind::yarn, .factor = 32, .original_positions = 4096, .rounded = false};

rope_scaling const longrope{.kind = rope_scaling_kind::longrope,
                            .factor = 8,
                            .original_positions = 4096,
                            .factors = {1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55, 1.6, 1.65, 1.7000000000000002, 1.75},
                            .long_factors = {1.0, 1.1125, 1.45, 2.0125, 2.8, 3.8125, 5.050000000000001, 6.5125, 8.2, 10.112499999999999, 12.25, 14.6125,
                                             17.200000000000003, 20.012500000000003, 23.05, 26.3125}};

// As `kinds` in the file's metadata says.
table_case const tables[] = {
    {"default_64", 64, {.rope_theta = 1e4}},
    {"default_10", 10, {.rope_theta = 5e5}},
    {"linear_4", 32, {.rope_theta = 1e4, .scaling = {.kind = rope_scaling_kind::linear, .factor = 4.0}}},
    {"llama3_128",
     128,
     {.rope_theta = 5e5,
      .scaling = {
          .kind = rope_scaling_kind::llama3, .factor = 8.0, .low_freq_factor = 1.0, .high_freq_factor = 4.0, .original_positions = 8192}}},
    {"partial_half_24", 24, {.rotary_dim = 12}},
    {"yarn_deepseek_v3", 64, {.scaling = deepseek_v3}},
    {"yarn_deepseek_v2", 64, {.scaling = deepseek_v3}},
    {"yarn_unequal_mscale",
     64,
     {.scaling = {.kind = rope_scaling_kind::yarn,
                  .factor = 40,
                  .original_positions = 4096,
                  .magnitude = yarn_magnitude(1.0, ln_40) / yarn_magnitude(0.5, ln_40)}}},
    {"yarn_gpt_oss", 64, {.rope_theta = 1.5e5, .scaling = gpt_oss}},
    {"ntk_alpha_hunyuan", 32, {.scaling = {.kind = rope_scaling_kind::ntk, .factor = 1000}}},
    {"longrope_short", 32, {.scaling = longrope}},
    {"longrope_long", 32, {.scaling = longrope}, true}};

std::vector<std::int32_t> positions_of(safetensors const& oracle, std::string const& kind) {
  auto const own = kind + ".positions";
  return read<std::int32_t>(oracle, oracle.find(own) != nullptr ? own : "positions");
}

struct model_case {
  char const* file;
  char const* before;  // the stage that is rotated: "" or "_norm"
  int head_dim;
  attention_config config;
};

model_case const models[] = {
    {"llama.block", "", 10, {}},
    {"llama3.block",
     "",
     16,
     {.scaling =
          {.kind = rope_scaling_kind::llama3, .factor = 8.0, .low_freq_factor = 1.0, .high_freq_factor = 4.0, .original_positions = 64}}},
    {"olmoe.block", "_norm", 8, {}},
    {"qwen3_moe.block", "_norm", 12, {.rope_theta = 1e6}}};

}  // namespace

TEST_CASE("frequencies of the oracle's tables") {
  safetensors const oracle(oracle_path("functions.rope"));
  for (auto const& t : tables) {
    CAPTURE(t.name);
    auto const want = read<double>(oracle, std::string(t.name) + ".inv_freq");
    auto const shipped = read<float>(oracle, std::string(t.name) + ".inv_freq_f32");
    auto const in_double = host::make_rope_table<double>(t.config, t.head_dim);
    auto const in_float = host::make_rope_table<float>(t.config, t.head_dim);
    REQUIRE(in_double.pairs == static_cast<int>(want.size()));
    for (int i = 0; i < in_double.pairs; ++i) {
      auto const n = static_cast<std::size_t>(i);
      auto const of = [&](auto const& table) { return t.beyond ? table.long_frequency[i] : table.frequency[i]; };
      auto const steps = t.config.scaling.kind == rope_scaling_kind::ntk ? 32 : 8;             // ntk: a power more than the others
      CHECK(std::fabs(of(in_double) - want[n]) <= steps * roundoff<double> * want[n]);
      CHECK(of(in_float) == static_cast<float>(of(in_double)));
      // The shipped float code rounds at each of its four or so steps.
      CHECK(std::fabs(of(in_float) - shipped[n]) <= 8 * static_cast<float>(roundoff<float>) * shipped[n]);
    }
  }
}

TEST_CASE_TEMPLATE("cos and sin of the oracle's tables: what a pair (1, 0) turns into", T, double, float, bf16) {
  safetensors const oracle(oracle_path("functions.rope"));
  host::pool pool;
  for (auto const& t : tables) {
    CAPTURE(t.name);
    auto const positions = positions_of(oracle, t.name);
    auto const cosine = read_matrix<double>(oracle, std::string(t.name) + ".cos"),
               sine = read_matrix<double>(oracle, std::string(t.name) + ".sin");
    auto const magnitude = rope_magnitude(t.config);
    matrix<T> x(cosine.rows, t.head_dim);
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t i = 0; i < cosine.columns; ++i) x(r, i) = static_cast<T>(1.0f);
    host::rotate<T>(pool, t.config, t.head_dim, positions, x.view(), 1);
    for (std::int64_t r = 0; r < x.rows; ++r) {
      // The angle carries the roundings of its frequency and of the product.
      auto const angle_error =
          4 * (std::is_same_v<T, double> ? roundoff<double> : roundoff<float>)*std::fabs(positions[static_cast<std::size_t>(r)]);
      for (std::int64_t i = 0; i < cosine.columns; ++i) {
        CHECK(std::fabs(static_cast<double>(x(r, i)) - cosine(r, i)) <= magnitude * (angle_error + 2 * roundoff<T>));
        CHECK(std::fabs(static_cast<double>(x(r, cosine.columns + i)) - sine(r, i)) <= magnitude * (angle_error + 2 * roundoff<T>));
      }
    }
  }
}

TEST_CASE_TEMPLATE("q_rope and k_rope of the oracles", T, double, float, bf16) {
  host::pool pool;
  for (auto const& m : models) {
    safetensors const oracle(oracle_path(m.file));
    auto const positions = read<std::int32_t>(oracle, "input.positions");
    for (std::string const which : {"q", "k"}) {
      auto x = read_matrix<T>(oracle, "expect." + which + m.before);
      host::rotate<T>(pool, m.config, m.head_dim, positions, x.view(), static_cast<int>(x.columns / m.head_dim));
      auto const want = read_matrix<double>(oracle, "expect." + which + "_rope");
      auto const found = compare(std::as_const(x).view(), want.view());
      INFO(m.file << " " << which << ": " << to_string(found));
      CHECK(found.worst <= stage_tolerance<T>);
    }
  }
}

TEST_CASE("both layouts: permuted columns in, the same bits permuted out") {
  constexpr int heads = 3, head_dim = 12;
  random_stream random(3);
  auto half = random_matrix<float>(5, heads * head_dim, random);
  matrix<float> pairs(half.rows, half.columns);
  auto const at = [](std::int64_t c) { return c / head_dim * head_dim + (c % head_dim % 2) * (head_dim / 2) + c % head_dim / 2; };
  for (std::int64_t r = 0; r < half.rows; ++r)
    for (std::int64_t c = 0; c < half.columns; ++c) pairs(r, c) = half(r, at(c));
  std::vector<std::int32_t> const positions = {0, 1, 7, 100, 4095};
  host::pool pool;
  host::rotate<float>(pool, {.layout = rope_layout::half_split}, head_dim, positions, half.view(), heads);
  host::rotate<float>(pool, {.layout = rope_layout::interleaved}, head_dim, positions, pairs.view(), heads);
  for (std::int64_t r = 0; r < half.rows; ++r)
    for (std::int64_t c = 0; c < half.columns; ++c) CHECK(pairs(r, c) == half(r, at(c)));
}

TEST_CASE_TEMPLATE("position 0 changes nothing; lengths of pairs stay; neighbours of a column slice stay", T, double, float) {
  constexpr int heads = 2, head_dim = 10;
  random_stream random(4);
  auto x = random_matrix<T>(3, heads * head_dim + 6, random);
  auto const before = x;
  std::vector<std::int32_t> const positions = {0, 5, 1000};
  host::pool pool;
  host::rotate<T>(pool, attention_config{}, head_dim, positions, view<T>(x.data.data() + 2, x.rows, heads * head_dim, x.columns), heads);
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.columns; ++c) {
      auto const inside = c >= 2 && c < 2 + heads * head_dim;
      if (r == 0 || !inside) {
        CHECK(x(r, c) == before(r, c));
      } else if ((c - 2) % head_dim < head_dim / 2) {
        auto const partner = c + head_dim / 2;
        CHECK(std::hypot(x(r, c), x(r, partner)) == doctest::Approx(std::hypot(before(r, c), before(r, partner))).epsilon(8 * roundoff<T>));
      }
    }
}

TEST_CASE_TEMPLATE("a sequence that reaches beyond the original positions turns by the long list, all of it and no other", T, double, float, bf16) {
  constexpr int heads = 2, head_dim = 32;
  attention_config short_list{.scaling = longrope}, long_list = short_list;
  short_list.scaling.long_factors = long_list.scaling.long_factors = {};
  long_list.scaling.factors = longrope.long_factors;
  attention_config const both{.scaling = [] { auto s = longrope; s.magnitude = 1.25, s.long_magnitude = 0.75; return s; }()};
  short_list.scaling.magnitude = 1.25, long_list.scaling.magnitude = 0.75;
  // Rows of three sequences mixed: one ends at the last of the original positions, one a position later.
  std::vector<std::int32_t> const sequence{2, 0, 1, 0, 2, 1, 0}, position{0, 7, 9, 4095, 1, 4096, 4095};
  random_stream random(8);
  auto const x = random_matrix<T>(7, heads * head_dim, random);
  auto got = x, in_short = x, in_long = x;
  host::pool pool;
  host::rotate<T>(pool, both, head_dim, position, got.view(), heads, sequence);
  for (std::int32_t const first : {4094, 9000, -1}) {         // numbers of sequences that are marked, that are not, and both
    auto numbers = sequence;
    for (auto& s : numbers) s += first;
    auto same = x;
    host::rotate<T>(pool, both, head_dim, position, same.view(), heads, numbers);
    CHECK(same.data == got.data);
  }
  host::rotate<T>(pool, short_list, head_dim, position, in_short.view(), heads);
  host::rotate<T>(pool, long_list, head_dim, position, in_long.view(), heads);
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.columns; ++c) CHECK(got(r, c) == (sequence[static_cast<std::size_t>(r)] == 1 ? in_long : in_short)(r, c));
  got = x, in_long = x;
  std::vector<std::int32_t> const one{0, 1, 2, 3, 4095, 4096, 5000};
  host::rotate<T>(pool, both, head_dim, one, got.view(), heads);
  host::rotate<T>(pool, long_list, head_dim, one, in_long.view(), heads);
  CHECK(std::equal(got.data.begin(), got.data.end(), in_long.data.begin()));
}

TEST_CASE("a head that has no pairs, or too many, is refused in words") {
  for (int const head_dim : {0, -2, 11, 514})
    CHECK_THROWS_WITH_AS(host::make_rope_table<float>({}, head_dim), doctest::Contains(std::to_string(head_dim).c_str()), error);
}

TEST_CASE("DeepSeek-V3's frequencies, and gpt-oss's borders and magnitude, as published") {
  attention_config const deepseek{.scaling = deepseek_v3};
  double const golden[][2] = {{0, 1.0}, {10, 5.6234133e-2}, {11, 3.9006927e-2}, {16, 5.5e-3}, {23, 3.3338036e-5}, {31, 3.3338036e-6}};
  for (auto const& [pair, frequency] : golden) CHECK(rope_frequency(deepseek, 64, static_cast<int>(pair)) == doctest::Approx(frequency).epsilon(1e-7));

  attention_config const open{.rope_theta = 1.5e5, .scaling = gpt_oss};
  CHECK(rope_magnitude(open) == doctest::Approx(1.3465736).epsilon(1e-7));
  // Borders 8.0928 and 17.3980 are no whole pairs: pair 9 is on the ramp already, at (9 − 8.0928) / (17.3980 − 8.0928).
  auto const plain = [](int pair) { return std::pow(1.5e5, -pair / 32.0); };
  CHECK(rope_frequency(open, 64, 8) == plain(8));
  CHECK(rope_frequency(open, 64, 9) == doctest::Approx(plain(9) * (1 - 0.097494 * (1 - 1 / 32.0))).epsilon(1e-5));
  CHECK(rope_frequency(open, 64, 18) == doctest::Approx(plain(18) / 32).epsilon(1e-12));
}

TEST_CASE("yarn's ramp runs within the pairs of a head") {
  rope_scaling scaling{.kind = rope_scaling_kind::yarn, .factor = 4, .original_positions = 64, .rounded = false};
  CHECK(rope_frequency({.scaling = scaling}, 64, 0) == 1.0);        // no pair turns 32 times in 64 positions: the ramp starts at pair 0
  scaling.original_positions = 847;
  auto const low = 64 * std::log(847 / (32 * 6.283185307179586)) / (2 * std::log(10.0)), ramp = (31 - low) / (63 - low);
  CHECK(rope_frequency({.rope_theta = 10, .scaling = scaling}, 64, 31) == doctest::Approx(std::pow(10.0, -31 / 32.0) * (1 - ramp * 0.75)).epsilon(1e-12));
}

TEST_CASE_TEMPLATE("the rest of a head stays, in both layouts", T, double, float, bf16) {
  constexpr int heads = 3, head_dim = 10, turning = 6;
  for (auto const layout : {rope_layout::half_split, rope_layout::interleaved}) {
    random_stream random(5);
    auto x = random_matrix<T>(4, heads * head_dim, random);
    auto const before = x;
    matrix<T> alone(4, heads * turning);
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t c = 0; c < alone.columns; ++c) alone(r, c) = x(r, c / turning * head_dim + c % turning);
    std::vector<std::int32_t> const positions = {0, 3, 17, 400};
    host::pool pool;
    host::rotate<T>(pool, {.rotary_dim = turning, .layout = layout}, head_dim, positions, x.view(), heads);
    host::rotate<T>(pool, {.layout = layout}, turning, positions, alone.view(), heads);
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t c = 0; c < x.columns; ++c)
        CHECK(x(r, c) == (c % head_dim < turning ? alone(r, c / head_dim * turning + c % head_dim) : before(r, c)));
  }
}

TEST_CASE("weights made for another rotation are told from these") {
  auto const same = [](attention_config const& a, attention_config const& b) {
    auto const x = rope_parameters_of(a), y = rope_parameters_of(b);
    return std::equal(x.value, x.value + rope_parameter_count, y.value);
  };
  attention_config const base{.scaling = gpt_oss};
  CHECK(same(base, base));
  attention_config listed{.scaling = {.kind = rope_scaling_kind::longrope, .factors = {1, 2, 3}}}, other = listed;
  other.scaling.factors.value[0] = 1.0000000000000002;
  CHECK(same(listed, listed));
  CHECK(!same(listed, other));
  other = listed, other.scaling.long_factors = {1, 2, 3};
  CHECK(!same(listed, other));
  auto third = other;
  third.scaling.long_magnitude = 1.5;
  CHECK(!same(other, third));
  int told = 0;
  auto const differs = [&](auto change) {
    auto changed = base;
    change(changed);
    told += !same(base, changed);
  };
  differs([](auto& c) { c.rope_theta = 2e4; });
  differs([](auto& c) { c.scaling.kind = rope_scaling_kind::linear; });
  differs([](auto& c) { c.scaling.factor = 33; });
  differs([](auto& c) { c.scaling.original_positions = 4097; });
  differs([](auto& c) { c.scaling.beta_fast = 33; });
  differs([](auto& c) { c.scaling.beta_slow = 2; });
  differs([](auto& c) { c.scaling.rounded = true; });
  differs([](auto& c) { c.scaling.magnitude = 1; });
  differs([](auto& c) { c.rotary_dim = 8; });
  differs([](auto& c) { c.rotary = false; });
  differs([](auto& c) { c.layout = rope_layout::interleaved; });
  CHECK(told == 11);
}
