// Tables of functions as oracles: rotary frequencies, activations, number formats, cross entropy; whatever points a file holds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include <doctest/doctest.h>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/host/rotary.hpp>
#include <support/compare.hpp>

#include "stages.hpp"

namespace moesaic::test {

/// <kind>.inv_freq, .cos and .sin of one rotary configuration.
inline void check_rope(std::string const& path, std::string const& kind, int head_dim, attention_config const& config) {
  INFO(kind);
  safetensors const file(path);
  auto const frequency = read<double>(file, kind + ".inv_freq");
  auto const own = kind + ".positions";
  auto const positions = read<std::int32_t>(file, file.find(own) != nullptr ? own : "positions");
  auto const made = host::make_rope_table<double>(config, head_dim);
  REQUIRE(static_cast<std::size_t>(made.pairs) == frequency.size());
  auto const farthest = *std::max_element(positions.begin(), positions.end());
  bool const beyond = made.original_positions != 0 && farthest >= made.original_positions;
  for (int i = 0; i < made.pairs; ++i) {
    auto const want = frequency[static_cast<std::size_t>(i)];
    CHECK(std::fabs((beyond ? made.long_frequency : made.frequency)[i] - want) <= oracle_tolerance<double> * want);
  }

  auto const cosine = read_matrix<double>(file, kind + ".cos"), sine = read_matrix<double>(file, kind + ".sin");
  matrix<double> x(cosine.rows, head_dim), want(cosine.rows, head_dim);  // a pair (1, 0) turns into (cos, sin), and nothing into nothing
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t i = 0; i < cosine.columns; ++i) {
      x(r, i) = 1;
      want(r, i) = cosine(r, i), want(r, cosine.columns + i) = sine(r, i);
    }
  host::pool pool;
  host::rotate<double>(pool, config, head_dim, positions, x.view(), 1);
  auto const far = compare<double, double>(x.view(), want.view());
  CHECK_MESSAGE(far.worst <= turned_tolerance(farthest), to_string(far));
}

inline void check_activations(std::string const& path) {
  safetensors const file(path);
  auto const x = read<double>(file, "x");
  auto const check = [&](std::string const& name, auto f) {
    INFO(name);
    auto const want = read<double>(file, name);
    REQUIRE(want.size() == x.size());
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      auto const error = std::fabs(f(x[i]) - want[i]) / std::fmax(1.0, std::fabs(want[i]));
      if (!(error <= worst)) worst = error;
    }
    CHECK(worst <= oracle_tolerance<double>);
  };
  check("silu", [](double v) { return silu(v); });
  check("gelu_erf", [](double v) { return gelu_erf(v); });
  check("gelu_tanh", [](double v) { return gelu_tanh(v); });
  check("relu", [](double v) { return relu(v); });
  check("sigmoid", [](double v) { return sigmoid(v); });
}

inline void check_floats(std::string const& path) {
  safetensors const file(path);
  auto const same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  auto const decode = [&]<class X>(std::string const& name, X) {
    auto const want = read<float>(file, name);
    int wrong = want.size() != 256;
    for (std::size_t code = 0; code < want.size(); ++code)
      wrong += !same(static_cast<float>(X::from_bits(static_cast<std::uint8_t>(code))), want[code]);
    CHECK_MESSAGE(wrong == 0, name);
  };
  auto const encode = [&](std::string const& name, std::string const& from, auto to) {
    auto const x = read<float>(file, from);
    auto const want = read<std::int64_t>(file, name);
    REQUIRE(want.size() == x.size());
    int wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) wrong += !std::isnan(x[i]) && to(x[i]).bits != want[i];
    CHECK_MESSAGE(wrong == 0, name);
  };
  decode("e4m3.decode", e4m3());
  decode("e5m2.decode", e5m2());
  encode("bf16.bits", "half_x", [](float v) { return bf16(v); });
  encode("fp16.bits", "half_x", [](float v) { return fp16(v); });
  encode("e4m3.encode", "x", [](float v) { return e4m3(v); });
  encode("e4m3.encode_saturated", "x", [](float v) { return e4m3(v); });
  encode("e5m2.encode", "x", [](float v) { return e5m2::unsaturated(v); });
  encode("e5m2.encode_saturated", "x", [](float v) { return e5m2(v); });
}

/// The cross entropy by which the decoders' losses are compared.
inline void check_cross_entropy(std::string const& path) {
  safetensors const file(path);
  auto const logits = read_matrix<double>(file, "logits");
  auto const labels = read<std::int64_t>(file, "labels");
  matrix<double> want(1, logits.rows), got(1, logits.rows), mean(1, 1), mean_of(1, 1);
  want.data = read<double>(file, "row_loss");
  mean.data = read<double>(file, "loss");
  double counted = 0;
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    auto const label = labels[static_cast<std::size_t>(t)];
    if (label < 0) continue;  // ignored
    got(0, t) = cross_entropy(&logits(t, 0), logits.columns, label);
    mean_of(0, 0) += got(0, t), ++counted;
  }
  mean_of(0, 0) /= counted;
  CHECK(compare<double, double>(got.view(), want.view()).worst <= oracle_tolerance<double>);
  CHECK(compare<double, double>(mean_of.view(), mean.view()).worst <= oracle_tolerance<double>);
}

}  // namespace moesaic::test
