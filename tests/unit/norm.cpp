// Norms against the oracles' stages, and against the formula where no oracle has the kind.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/norm.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

template <class T>
matrix<T> normalized(norm_config const& config, norm_weights const& weights, matrix<T> const& x) {
  host::pool pool;
  matrix<T> y(x.rows, x.columns);
  host::normalize<T>(pool, config, weights, x.view(), y.view());
  return y;
}

template <class T>
void check(matrix<T> const& got, matrix<double> const& want, double tolerance) {
  auto const found = compare(got.view(), want.view());
  INFO(to_string(found));
  CHECK(found.worst <= tolerance);
}

/// The formula in double, one row after another.
matrix<double> by_formula(norm_config const& config, std::vector<float> const& weight, std::vector<float> const& bias,
                          matrix<double> const& x) {
  auto y = x;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    double mean = 0, square = 0;
    if (config.kind == norm_kind::layer)
      for (std::int64_t c = 0; c < x.columns; ++c) mean += x(r, c) / static_cast<double>(x.columns);
    for (std::int64_t c = 0; c < x.columns; ++c) square += (x(r, c) - mean) * (x(r, c) - mean) / static_cast<double>(x.columns);
    for (std::int64_t c = 0; c < x.columns; ++c) {
      auto const i = static_cast<std::size_t>(c);
      y(r, c) = (x(r, c) - mean) / std::sqrt(square + config.epsilon) * (weight.empty() ? 1.0 : static_cast<double>(weight[i]) + config.weight_offset) +
                (bias.empty() ? 0.0 : static_cast<double>(bias[i]));
    }
  }
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("attn_norm of the oracles", T, double, float, bf16) {
  struct model {
    char const* file;
    double epsilon;
  };
  for (auto const& m : {model{"llama.block", 1e-5}, {"llama3.block", 1e-5}, {"olmoe.block", 1e-5}, {"qwen3_moe.block", 1e-6}}) {
    CAPTURE(m.file);
    safetensors const oracle(oracle_path(m.file));
    auto const weight = read_matrix<float>(oracle, "weight.input_layernorm.weight");
    auto const x = read_matrix<T>(oracle, "input.x");
    check(normalized<T>({.epsilon = m.epsilon}, {weight.data, {}}, x), read_matrix<double>(oracle, "expect.attn_norm"), stage_tolerance<T>);
  }
}

TEST_CASE("at bf16 the normalised value is rounded before the weight: the shipped code's bits") {
  safetensors const oracle(oracle_path("llama.block"));
  auto const weight = convert<float>(read_matrix<bf16>(oracle, "weight.input_layernorm.weight"));
  auto const got = normalized<bf16>({.epsilon = 1e-5}, {weight.data, {}}, read_matrix<bf16>(oracle, "input.x"));
  auto const want = read_matrix<bf16>(oracle, "expect.bf16.attn_norm");
  std::int64_t different = 0;
  for (std::size_t i = 0; i < got.data.size(); ++i) different += got.data[i].bits != want.data[i].bits;
  CHECK(different == 0);
}

TEST_CASE_TEMPLATE("q_norm and k_norm of the oracles, in place: full width and per head", T, double, float, bf16) {
  struct model {
    char const* file;
    double epsilon;
    int q_heads, k_heads;
  };
  for (auto const& m : {model{"olmoe.block", 1e-5, 1, 1}, {"qwen3_moe.block", 1e-6, 4, 2}}) {
    CAPTURE(m.file);
    safetensors const oracle(oracle_path(m.file));
    host::pool pool;
    for (std::string const which : {"q", "k"}) {
      auto x = read_matrix<T>(oracle, "expect." + which);
      auto const weight = read_matrix<float>(oracle, "weight.self_attn." + which + "_norm.weight");
      auto const heads = which == "q" ? m.q_heads : m.k_heads;
      host::normalize_heads<T>(pool, {.epsilon = m.epsilon}, weight.data, x.view(), heads, static_cast<int>(x.columns / heads));
      check(x, read_matrix<double>(oracle, "expect." + which + "_norm"), stage_tolerance<T>);
    }
  }
}

TEST_CASE_TEMPLATE("heads are rows of their own, with the cast and the offset of the layer's norm", T, double, float, bf16) {
  random_stream random(5);
  auto const rows = random_matrix<T>(3 * 4, 24, random);
  auto const weight = random_matrix<float>(1, 24, random).data;
  for (auto const cast : {norm_cast::before_weight, norm_cast::after_weight})
    for (double const offset : {0.0, 1.0}) {
      norm_config const config{.epsilon = 1e-5, .cast = cast, .weight_offset = offset};
      auto heads = rows;
      host::pool pool;
      host::normalize_heads<T>(pool, config, weight, view<T>(heads.data.data(), 3, 4 * 24), 4, 24);
      CHECK(heads.data == normalized<T>(config, {weight, {}}, rows).data);
    }
}

TEST_CASE_TEMPLATE("LayerNorm and RMS norm by the formula, odd widths, with and without weight and bias, and an offset of the weight", T, double, float, bf16) {
  random_stream random(1);
  for (auto const kind : {norm_kind::rms, norm_kind::layer})
    for (std::int64_t const columns : {1, 7, 16, 33, 100})
      for (int const parts : {0, 1, 2}) {
        CAPTURE(columns);
        auto const x = random_matrix<T>(3, columns, random);
        auto const weight = random_matrix<float>(1, parts > 0 ? columns : 0, random).data;
        auto const bias = random_matrix<float>(1, parts > 1 && kind == norm_kind::layer ? columns : 0, random).data;
        for (double const offset : {0.0, 1.0}) {
          norm_config const config{.kind = kind, .epsilon = 1e-5, .bias = !bias.empty(), .weight_offset = offset};
          check(normalized<T>(config, {weight, bias}, x), by_formula(config, weight, bias, convert<double>(x)), stage_tolerance<T>);
        }
      }
}

TEST_CASE("at bf16 a norm's cast stands before its weight or after it, and the two differ") {
  random_stream random(3);
  auto const x = random_matrix<bf16>(5, 100, random);
  auto const weight = random_matrix<float>(1, 100, random).data;
  for (double const offset : {0.0, 1.0}) {
    // Each order by the definition: the unit value in double, rounded to float, as the op has it, then to bf16 once or twice.
    auto const exact = by_formula({}, {}, {}, convert<double>(x));
    matrix<bf16> before(5, 100), after(5, 100);
    for (std::int64_t r = 0; r < 5; ++r)
      for (std::int64_t c = 0; c < 100; ++c) {
        auto const unit = static_cast<float>(exact(r, c)), w = weight[static_cast<std::size_t>(c)] + static_cast<float>(offset);
        before(r, c) = static_cast<bf16>(static_cast<float>(static_cast<bf16>(unit)) * w);
        after(r, c) = static_cast<bf16>(unit * w);
      }
    auto const different = [](matrix<bf16> const& a, matrix<bf16> const& b) {
      std::int64_t count = 0;
      for (std::size_t i = 0; i < a.data.size(); ++i) count += a.data[i].bits != b.data[i].bits;
      return count;
    };
    // A unit value whose last float bit is the op's own may round to the neighbour: one in 2^15. The wrong order differs in a sixth.
    auto const got_before = normalized<bf16>({.weight_offset = offset}, {weight, {}}, x);
    auto const got_after = normalized<bf16>({.cast = norm_cast::after_weight, .weight_offset = offset}, {weight, {}}, x);
    CHECK(different(got_before, before) <= 1);
    CHECK(different(got_after, after) <= 1);
    CHECK(different(got_before, after) > 50);
    CHECK(different(got_after, before) > 50);
  }
}

TEST_CASE("a row of zeros stays finite, and a neighbour's NaN stays there") {
  matrix<float> x(2, 20);
  x(1, 3) = std::nanf("");
  auto const y = normalized<float>({.epsilon = 1e-6}, {}, x);
  for (std::int64_t c = 0; c < x.columns; ++c) {
    CHECK(y(0, c) == 0.0f);
    CHECK(std::isnan(y(1, c)));
  }
}

TEST_CASE("heads of a column slice: what lies between rows is left alone") {
  random_stream random(2);
  auto x = random_matrix<float>(3, 50, random);
  auto const before = x;
  host::pool pool;
  host::normalize_heads<float>(pool, {.epsilon = 1e-5}, {}, view<float>(x.data.data() + 5, 3, 24, 50), 2, 12);
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t c = 0; c < 50; ++c) CHECK((x(r, c) == before(r, c)) == (c < 5 || c >= 29));
}

TEST_CASE_TEMPLATE("every level gives the bits of the portable one", T, float, bf16) {
  random_stream random(8);
  for (auto const kind : {norm_kind::rms, norm_kind::layer})
    for (std::int64_t const columns : {5, 16, 47, 576}) {
      auto const x = random_matrix<T>(4, columns, random);
      auto const weight = random_matrix<float>(1, columns, random).data, bias = random_matrix<float>(1, columns, random).data;
      auto const at = [&](host::level level) {
        host::pool pool(1, level);
        matrix<T> y(x.rows, x.columns);
        host::normalize<T>(pool, {.kind = kind}, {weight, bias}, x.view(), y.view());
        return y;
      };
      auto const want = at(host::level::portable);
      for (auto const level : levels()) {
        CAPTURE(host::name(level));
        auto const got = at(level);
        CHECK(same_bits(got.view(), want.view()));
      }
    }
}
