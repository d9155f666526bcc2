// Projections and heads' outputs, element by element: clipped, scaled by position, gated, in every type and on every level.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/heads.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

/// y = op(x) on every level is want(t, c) to the type's roundoff, and the portable one's bits.
template <class T, class Op, class Want>
void check_each(matrix<T> const& x, Op&& op, Want&& want) {
  matrix<T> first;
  auto all = levels();
  if (std::is_same_v<T, double>) all = {host::level::portable};
  for (auto const level : all) {
    host::pool pool(2, level);
    auto y = x;
    op(pool, y.view());
    for (std::int64_t t = 0; t < y.rows; ++t)
      for (std::int64_t c = 0; c < y.columns; ++c) {
        double const wanted = want(t, c);
        CHECK(std::fabs(static_cast<double>(y(t, c)) - wanted) <= 4 * roundoff<T> * (std::fabs(wanted) + 1e-30));
      }
    if (first.rows == 0) first = y;
    CHECK(same_bits(view<const T>(y.view()), view<const T>(first.view())));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("clipped", T, double, float, bf16) {
  random_stream random(1);
  auto x = random_matrix<T>(5, 37, random);
  check_each(x, [](host::pool& pool, view<T> y) { host::clip<T>(pool, 0.75, y); },
             [&](std::int64_t t, std::int64_t c) { return std::clamp(static_cast<double>(x(t, c)), -0.75, 0.75); });
  x(2, 3) = static_cast<T>(std::nanf(""));
  x(2, 20) = static_cast<T>(-HUGE_VALF);
  host::pool pool;
  host::clip<T>(pool, 0.75, x.view());
  CHECK(std::isnan(static_cast<double>(x(2, 3))));
  CHECK(static_cast<double>(x(2, 20)) == -0.75);
}

TEST_CASE_TEMPLATE("queries by position", T, double, float, bf16) {
  random_stream random(2);
  auto const x = random_matrix<T>(6, 37, random);
  std::vector<std::int32_t> const position{0, 2, 3, 4, 7, 1'000'000};
  query_temperature const temperature{.scale = 0.1, .floor = 4};
  std::int64_t const periods[] = {0, 0, 1, 1, 2, 250'000};
  check_each(x, [&](host::pool& pool, view<T> y) { host::scale_queries<T>(pool, temperature, position, y); },
             [&](std::int64_t t, std::int64_t c) { return static_cast<double>(x(t, c)) * (0.1 * std::log(1.0 + static_cast<double>(periods[t])) + 1.0); });
}

TEST_CASE_TEMPLATE("gated", T, double, float, bf16) {
  random_stream random(3);
  auto const x = random_matrix<T>(5, 37, random);
  auto gate = random_matrix<T>(5, 37, random);
  for (auto& g : gate.data) g = static_cast<T>(static_cast<accumulator<T>>(g) * 8);
  check_each(x, [&](host::pool& pool, view<T> y) { host::gate_heads<T>(pool, gate.view(), y); },
             [&](std::int64_t t, std::int64_t c) { return static_cast<double>(x(t, c)) / (1.0 + std::exp(-static_cast<double>(gate(t, c)))); });
}
