// Rotary embedding against the oracles' frequency tables and stages, and its invariants.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
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
};

// As `kinds` in the file's metadata says.
table_case const tables[] = {
    {"default_64", 64, {.rope_theta = 1e4}},
    {"default_10", 10, {.rope_theta = 5e5}},
    {"linear_4", 32, {.rope_theta = 1e4, .scaling = {.kind = rope_scaling_kind::linear, .factor = 4.0}}},
    {"llama3_128",
     128,
     {.rope_theta = 5e5,
      .scaling = {
          .kind = rope_scaling_kind::llama3, .factor = 8.0, .low_freq_factor = 1.0, .high_freq_factor = 4.0, .original_positions = 8192}}}};

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
      CHECK(std::fabs(in_double.frequency[i] - want[n]) <= 8 * roundoff<double> * want[n]);
      CHECK(in_float.frequency[i] == static_cast<float>(in_double.frequency[i]));
      // The shipped float code rounds at each of its four or so steps.
      CHECK(std::fabs(in_float.frequency[i] - shipped[n]) <= 8 * static_cast<float>(roundoff<float>) * shipped[n]);
    }
  }
}

TEST_CASE_TEMPLATE("cos and sin of the oracle's tables: what a pair (1, 0) turns into", T, double, float, bf16) {
  safetensors const oracle(oracle_path("functions.rope"));
  auto const positions = read<std::int32_t>(oracle, "positions");
  host::pool pool;
  for (auto const& t : tables) {
    CAPTURE(t.name);
    auto const cosine = read_matrix<double>(oracle, std::string(t.name) + ".cos"),
               sine = read_matrix<double>(oracle, std::string(t.name) + ".sin");
    matrix<T> x(cosine.rows, t.head_dim);
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t i = 0; i < cosine.columns; ++i) x(r, i) = static_cast<T>(1.0f);
    host::rotate<T>(pool, t.config, t.head_dim, positions, x.view(), 1);
    for (std::int64_t r = 0; r < x.rows; ++r) {
      // The angle carries the roundings of its frequency and of the product.
      auto const angle_error =
          4 * (std::is_same_v<T, double> ? roundoff<double> : roundoff<float>)*std::fabs(positions[static_cast<std::size_t>(r)]);
      for (std::int64_t i = 0; i < cosine.columns; ++i) {
        CHECK(std::fabs(static_cast<double>(x(r, i)) - cosine(r, i)) <= angle_error + 2 * roundoff<T>);
        CHECK(std::fabs(static_cast<double>(x(r, cosine.columns + i)) - sine(r, i)) <= angle_error + 2 * roundoff<T>);
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

TEST_CASE("a head that has no pairs, or too many, is refused in words") {
  for (int const head_dim : {0, -2, 11, 514})
    CHECK_THROWS_WITH_AS(host::make_rope_table<float>({}, head_dim), doctest::Contains(std::to_string(head_dim).c_str()), error);
}
