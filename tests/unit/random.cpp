// base/random.hpp: the numbers are frozen, and distributed as they should be.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>

#include <doctest/doctest.h>

#include <moesaic/base/random.hpp>

using namespace moesaic;

TEST_CASE("number i depends on seed and i alone") {
  random_stream a(5), b(5), c(6);
  for (std::uint64_t i = 0; i < 100; ++i) {
    auto const x = a.next();
    CHECK(x == b.at(i));
    CHECK(x != c.at(i));
  }
}

TEST_CASE("uniform numbers lie in [0, 1) and fill it evenly") {
  random_stream random(1);
  int counts[10] = {};
  for (int i = 0; i < 100000; ++i) {
    auto const x = random.uniform();
    REQUIRE(x >= 0);
    REQUIRE(x < 1);
    ++counts[static_cast<int>(x * 10)];
  }
  for (int n : counts) CHECK(std::abs(n - 10000) < 475);   // 5 standard deviations of 95
  for (int i = 0; i < 1000; ++i) {
    auto const x = random.below(7);
    REQUIRE(x >= 0);
    REQUIRE(x < 7);
    auto const y = random.uniform_double();
    REQUIRE(y >= 0);
    REQUIRE(y < 1);
  }
}

TEST_CASE("normal numbers have mean 0, variance 1 and the normal's share within one and two deviations") {
  random_stream random(2);
  constexpr int count = 200000;
  double sum = 0, squares = 0, within_one = 0, within_two = 0;
  for (int i = 0; i < count; ++i) {
    double const x = random.normal();
    sum += x;
    squares += x * x;
    within_one += std::fabs(x) < 1;
    within_two += std::fabs(x) < 2;
  }
  CHECK(std::fabs(sum / count) < 0.012);
  CHECK(std::fabs(squares / count - 1) < 0.016);
  CHECK(std::fabs(within_one / count - 0.6827) < 0.01);
  CHECK(std::fabs(within_two / count - 0.9545) < 0.005);
}

TEST_CASE("the first numbers of a seed never change") {
  random_stream random(42);
  CHECK(random.next() == 0x989b3f130a063869u);
  CHECK(random.next() == 0x290db4bf2570ded7u);
  CHECK(random.normal() == -0x1.a69b9ap-2f);
  CHECK(random.uniform() == 0x1.857848p-1f);
}
