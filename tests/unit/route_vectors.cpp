// Rows of experts as vectors against the plain hooks: the same choice on every level, the same bits on all of them.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/base/random.hpp>
#include <moesaic/host/simd/route.hpp>

#include "support/levels.hpp"

using namespace moesaic;

namespace {


/// Numbers with ties (a coarse grid), gaps (−inf) and rows that are nearly all alike.
std::vector<float> drawn(random_stream& random, int n) {
  std::vector<float> x;
  auto const steps = static_cast<float>(1u << random.below(12));
  auto const forbidden = random.below(3) == 0 ? 0.5f : 0.02f;
  for (int i = 0; i < n; ++i) x.push_back(random.uniform() < forbidden ? -infinity<float> : std::floor(random.uniform() * steps) - 1);
  return x;
}

}  // namespace

TEST_CASE("top-k of vectors is top-k") {
  random_stream random(20261124);
  for (int round = 0; round < 4000; ++round) {
    int const n = 1 + static_cast<int>(random.below(300)), slots = static_cast<int>(random.below(20));
    auto const x = drawn(random, n);
    std::vector<std::int32_t> expected(20, 7), found(20, 7);
    int const count = top_k(x.data(), n, slots, expected.data());
    for (auto const l : test::levels()) {
      host::vector_group const group{{}, l};
      CAPTURE(round);
      CAPTURE(static_cast<int>(l));
      REQUIRE(group.top_k(x.data(), n, slots, found.data()) == count);
      REQUIRE(found == expected);
    }
  }
}

TEST_CASE("scores of vectors: the plain ones to a few roundings, the same bits on every level, nothing for −inf") {
  random_stream random(7);
  for (int const n : {1, 5, 15, 16, 17, 31, 64, 100, 256}) {
    std::vector<float> z, expected(static_cast<std::size_t>(n)), first, found(static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i) z.push_back(8 * random.uniform() - 4);
    if (n > 5) z[3] = -infinity<float>;
    for (bool const soft : {true, false}) {
      if (soft) routing::standard::softmax(serial_group{}, n, z.data(), expected.data());
      else
        for (std::size_t i = 0; i < z.size(); ++i) expected[i] = sigmoid(z[i]);
      first.clear();
      for (auto const l : test::levels()) {
        host::vector_group const group{{}, l};
        if (soft) group.softmax(n, z.data(), found.data());
        else group.sigmoid(n, z.data(), found.data());
        for (std::size_t i = 0; i < z.size(); ++i) CHECK(std::abs(found[i] - expected[i]) <= 1e-6f * expected[i]);
        if (n > 5) CHECK(found[3] == 0.0f);
        if (first.empty()) first = found;
        CHECK(first == found);
      }
    }
  }
}
