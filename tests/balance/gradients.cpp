// Every gradient against central differences in double: losses by logits and by noise, combine weights by logits.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/route/gradient.hpp>
#include <moesaic/route/select.hpp>
#include <support/compare.hpp>
#include <support/tolerance.hpp>

#include "batch.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr double step = 1e-5;          // the error of a central difference is about step² and, by rounding, 1e-16 / step

/// d value / d x, an element after the other.
template <class Value>
matrix<double> differences(matrix<double>& x, Value const& value) {
  matrix<double> d(x.rows, x.columns);
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    auto const at = x.data[i];
    x.data[i] = at + step;
    auto const above = value();
    x.data[i] = at - step;
    auto const below = value();
    x.data[i] = at;
    d.data[i] = (above - below) / (2 * step);
  }
  return d;
}

/// Relative to the largest of all: a row may be almost 0 against the others, and the error of a difference is relative to the loss.
void check_close(matrix<double> const& got, matrix<double> const& want) {
  auto const flat = [](matrix<double> const& m) { return view<const double>{m.data.data(), 1, m.rows * m.columns}; };
  auto const far = compare<double, double>(flat(got), flat(want));
  CHECK_MESSAGE(far.worst <= difference_tolerance, to_string(far));
  double largest = 0;
  for (auto const x : want.data) largest = std::max(largest, std::abs(x));
  CHECK(largest > 1e-4);               // something is there to compare
}

/// The smallest distance of two values of a row, and of any from 0: no choice and no kink of ReLU is closer.
double margin(matrix<double> const& m) {
  double least = 1;
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t a = 0; a < m.columns; ++a) {
      least = std::min(least, std::abs(m(r, a)));
      for (std::int64_t b = 0; b < a; ++b) least = std::min(least, std::abs(m(r, a) - m(r, b)));
    }
  return least;
}

test::batch<double> clear_batch(std::vector<int> const& lengths, int experts, int top_k, random_stream& random) {
  for (;;) {
    auto b = random_batch<double>(lengths, experts, top_k, random);
    if (margin(b.logits) > 10 * step && margin(b.noisy()) > 10 * step) return b;
  }
}

}  // namespace

TEST_CASE("the gradient of every loss") {
  for (std::uint64_t trial = 0; trial < 3; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    auto b = clear_batch({4, 1, 6}, 6, 2, random);
    REQUIRE(margin(b.logits) > 10 * step);
    b.padding[2] = trial == 1;
    each_loss<double>([&](std::string const& name, auto const& loss) {
      CAPTURE(name);
      matrix<double> gradient(b.tokens(), b.experts());
      auto const value = loss(b, gradient.view());
      REQUIRE_MESSAGE(value.done, to_string(value.done));
      check_close(gradient, differences(b.logits, [&] { return loss(b, {}).value; }));
    });
  }
}

TEST_CASE("groups of Switch: each by its own counts and the mean over them") {
  random_stream random(seed);
  auto b = clear_batch({11}, 6, 2, random);
  owning_scratch const memory(6, 2);
  auto const loss = [&](view<double> g) { return balance::switch_balance<double>(b.logits.view(), b.padding, 4, 0.7, g, memory.of); };
  matrix<double> gradient(11, 6);
  REQUIRE(loss(gradient.view()).done);
  check_close(gradient, differences(b.logits, [&] { return loss({}).value; }));
}

TEST_CASE("the load loss by the scale of the noise, through the bound too") {
  random_stream random(seed);
  auto b = clear_batch({9}, 6, 2, random);
  owning_scratch const memory(6, 2);
  auto const loss = [&](view<double> g) {
    auto const noisy = b.noisy();
    return balance::load<double>(b.logits.view(), noisy.view(), b.noise.view(), {}, 2, 0.7, {}, g, memory.of);
  };
  matrix<double> gradient(9, 6);
  REQUIRE(loss(gradient.view()).done);
  check_close(gradient, differences(b.noise, [&] { return loss({}).value; }));
}

TEST_CASE("combine weights by the logits, for every rule of the configuration") {
  std::vector<router_config> rules;
  for (auto const kind : {score::softmax, score::sigmoid, score::identity, score::sqrt_softplus, score::relu})
    for (auto const position : {score_position::before_top_k, score_position::after_top_k})
      for (bool const renormalize : {false, true})
        for (double const cap : {0.0, 3.0})
          rules.push_back({.experts = 6,
                           .top_k = 3,
                           .score = kind,
                           .position = position,
                           .logit_softcap = cap,
                           .renormalize = renormalize,
                           .routed_scale = 2.5});
  rules.push_back({.experts = 6, .top_k = 3, .score = score::sigmoid, .renormalize = true, .sum_floor = 50});
  rules.push_back({.experts = 6, .top_k = 3, .renormalize = true, .sum_floor = 50});
  rules.push_back({.experts = 6, .top_k = 1});
  rules.push_back({.experts = 6, .top_k = 6, .renormalize = true});

  for (std::uint64_t trial = 0; trial < 2; ++trial)
    for (auto const& c : rules) {
      CAPTURE(seed + trial);
      INFO(std::string(name(c.score)) << (c.position == score_position::after_top_k ? ", after top-k" : "") << (c.renormalize ? ", renormalised" : "")
                                      << (c.logit_softcap != 0 ? ", capped" : "") << (c.sum_floor != 0 ? ", at the floor" : ""));
      random_stream random(seed + trial);
      auto b = clear_batch({5}, c.experts, c.top_k, random);
      if (c.score == score::identity || c.score == score::relu)        // so that the sum is not about 0
        for (auto& z : b.logits.data) z += 2;
      auto const upstream = random_matrix<double>(5, c.top_k, random);
      if (c.top_k > 2) b.ids(1, 1) = -1;                               // variable k
      auto const value = [&] {
        double sum = 0;
        for (std::int64_t t = 0; t < 5; ++t) {
          std::vector<double> scores(6), weights(6);
          routing::standard::score(c, serial_group{}, routing::standard::state{}, t, &b.logits(t, 0), scores.data());
          std::vector<std::int32_t> ids;
          std::vector<double> by_weight;
          for (int i = 0; i < c.top_k; ++i)
            if (b.ids(t, i) >= 0) ids.push_back(b.ids(t, i)), by_weight.push_back(upstream(t, i));
          routing::standard::weigh(c, serial_group{}, routing::standard::state{}, t, static_cast<double const*>(scores.data()),
                                   static_cast<std::int32_t const*>(ids.data()), static_cast<int>(ids.size()), weights.data());
          for (std::size_t i = 0; i < ids.size(); ++i) sum += weights[i] * by_weight[i];
        }
        return sum;
      };
      matrix<double> gradient(5, 6);
      REQUIRE(router_gradient<double>(c, b.logits.view(), b.ids.view(), upstream.view(), gradient.view()));
      check_close(gradient, differences(b.logits, value));
    }
}

TEST_CASE("rules without a gradient: one renormalised expert, and weights of one") {
  random_stream random(seed);
  auto const b = random_batch<double>({5}, 6, 1, random);
  auto const upstream = random_matrix<double>(5, 1, random);
  matrix<double> gradient(5, 6);
  REQUIRE(router_gradient<double>({.experts = 6, .top_k = 1, .score = score::sigmoid, .renormalize = true}, b.logits.view(), b.ids.view(),
                                  upstream.view(), gradient.view()));
  REQUIRE(router_gradient<double>({.experts = 6, .top_k = 1, .weights = combine_weight::ones}, b.logits.view(), b.ids.view(), upstream.view(),
                                  gradient.view()));
  for (auto const x : gradient.data) CHECK(std::abs(x) <= roundoff<double>);
}

TEST_CASE("logits of experts that were not chosen move only an unrenormalised softmax; a mask of −inf and absent choices move nothing") {
  auto const never = -std::numeric_limits<double>::infinity();
  std::vector<double> const logits{1, 2, never, 0.5, 1, 1, 1, 1}, upstream{1, -2, 3, 4};
  std::vector<std::int32_t> const ids{1, 0, -1, -1};
  for (auto const cap : {0.0, 4.0})
    for (bool const renormalize : {false, true}) {
      std::vector<double> gradient(8);
      REQUIRE(router_gradient<double>({.experts = 4, .top_k = 2, .logit_softcap = cap, .renormalize = renormalize}, {logits.data(), 2, 4},
                                      {ids.data(), 2, 2}, {upstream.data(), 2, 2}, {gradient.data(), 2, 4}));
      CHECK(gradient[0] < 0);
      CHECK(gradient[1] > 0);
      CHECK(gradient[2] == 0);
      CHECK((gradient[3] != 0) == !renormalize);
      for (std::size_t i = 4; i < 8; ++i) CHECK(gradient[i] == 0);
    }
}

TEST_CASE("scores that are all 0 have a gradient of 0, renormalised by nothing") {
  std::vector<double> const logits{-1, -2, -3}, upstream{1, -2};
  std::vector<std::int32_t> const ids{0, 1};
  std::vector<double> gradient(3);
  REQUIRE(router_gradient<double>({.experts = 3, .top_k = 2, .score = score::relu, .renormalize = true, .sum_epsilon = 0}, {logits.data(), 1, 3},
                                  {ids.data(), 1, 2}, {upstream.data(), 1, 2}, {gradient.data(), 1, 3}));
  for (auto const x : gradient) CHECK(x == 0);
}

TEST_CASE("router_gradient says what does not fit") {
  std::vector<double> d(12);
  std::vector<std::int32_t> ids{0, 1, 2, 3};
  auto const call = [&](view<const double> z, view<const std::int32_t> i, view<const double> w, view<double> g) {
    return std::string(router_gradient<double>({.experts = 4, .top_k = 2}, z, i, w, g).what);
  };
  view<const double> const z{d.data(), 2, 4}, w{d.data(), 2, 2};
  view<const std::int32_t> const i{ids.data(), 2, 2};
  view<double> const g{d.data(), 2, 4};
  CHECK(call(z, i, w, g).empty());
  CHECK(call({d.data(), 2, 3}, i, w, g) == "router_logits must have a column an expert");
  CHECK(call(z, {ids.data(), 1, 2}, w, g) == "ids must have a row a token");
  CHECK(call(z, i, {d.data(), 3, 2}, g) == "weight_gradient must have a row a token");
  CHECK(call(z, i, {d.data(), 2, 1}, g) == "weight_gradient must have a column a slot");
  CHECK(call(z, i, w, {d.data(), 1, 4}) == "the gradient must have a row a token");
  CHECK(call(z, i, w, {d.data(), 2, 2}) == "the gradient must have a column an expert");
  ids[1] = 4;
  CHECK(call(z, i, w, g) == "an expert id must be one of the experts");
}
