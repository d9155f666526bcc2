// base/math.hpp: activations against PyTorch in double, and the names of types.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

#include <moesaic/base/math.hpp>

#include <support/table.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;

static_assert(std::is_same_v<accumulator<double>, double> && std::is_same_v<accumulator<float>, float> &&
              std::is_same_v<accumulator<bf16>, float>);
static_assert(std::is_same_v<scalar_of<dtype::fp64>, double> && std::is_same_v<scalar_of<dtype::bf16>, bf16> &&
              std::is_same_v<scalar_of<dtype::int8>, std::int8_t>);
static_assert(dtype_of<float> == dtype::fp32 && dtype_of<const e4m3> == dtype::e4m3 && dtype_of<scalar_of<dtype::fp16>> == dtype::fp16);

namespace {

// Largest |found - expected| / max(1, |expected|) over a table, in units of T's roundoff. Not relative to small values: where the
// reference's formula cancels, in the left tail, its own last digits are lost.
template <class T, class F>
double worst_of(const char* name, F f) {
  auto const tables = test::function_tables("activations");
  auto const x = test::table<double>(tables, "x"), expected = test::table<double>(tables, name);
  REQUIRE(x.size() == expected.size());
  double worst = 0;
  int compared = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto const input = static_cast<T>(x[i]);
    if (static_cast<double>(input) != x[i]) continue;   // a float function must not answer for the rounding of its input
    auto const error = std::fabs(static_cast<double>(f(input)) - expected[i]) / std::fmax(1.0, std::fabs(expected[i]));
    if (!(error <= worst)) worst = error;
    ++compared;
  }
  INFO(name, ": ", compared, " points, worst ", worst / test::roundoff<T>, " roundoffs");
  CHECK(compared > 20);
  return worst / test::roundoff<T>;
}

}  // namespace

TEST_CASE_TEMPLATE("activations agree with PyTorch in double", T, double, float) {
  CHECK(worst_of<T>("silu", [](T x) { return silu(x); }) <= 4);
  CHECK(worst_of<T>("gelu_erf", [](T x) { return gelu_erf(x); }) <= 4);
  CHECK(worst_of<T>("gelu_tanh", [](T x) { return gelu_tanh(x); }) <= 4);
  CHECK(worst_of<T>("relu", [](T x) { return relu(x); }) == 0);
  CHECK(worst_of<T>("sigmoid", [](T x) { return sigmoid(x); }) <= 4);
}

TEST_CASE_TEMPLATE("activations at the ends of the number line", T, double, float) {
  auto const big = T(1000), nan = std::numeric_limits<T>::quiet_NaN();
  CHECK(silu(big) == big);
  CHECK(silu(-big) == 0);
  CHECK(gelu_erf(big) == big);
  CHECK(gelu_erf(-big) == 0);
  CHECK(gelu_tanh(big) == big);
  CHECK(gelu_tanh(-big) == 0);
  CHECK(sigmoid(big) == 1);
  CHECK(sigmoid(-big) == 0);
  CHECK(std::isnan(silu(nan)));
  CHECK(std::isnan(gelu_erf(nan)));
  CHECK(std::isnan(gelu_tanh(nan)));
  CHECK(std::isnan(sigmoid(nan)));
  CHECK(std::isnan(relu(nan)));
  CHECK(relu(T(-2)) == 0);
  CHECK(relu(T(3)) == 3);
}
