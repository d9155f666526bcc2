// SparseMixer-v2 at inference: the published vectors, its pseudocode in long double, ties, and what masks do to it.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/allowed.hpp>
#include <moesaic/route/sparse_mixer.hpp>

#include "routing/support.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE_TEMPLATE("the published vectors", T, float, double) {
  auto const narrow = route_one<routing::sparse_mixer<>, T>({.top_k = 2}, as<T>(golden), {{}, .01f});
  CHECK(narrow.ids[0] == ids_of_token{2, 7});
  check_printed(narrow.weights[0], {1, 1});
  auto const wide = route_one<routing::sparse_mixer<>, T>({.top_k = 2}, as<T>(golden), {{}, .15f});
  CHECK(wide.ids[0] == ids_of_token{2, 7});
  check_printed(wide.weights[0], {.598688, 1});
}

TEST_CASE_TEMPLATE("the pseudocode: take the largest, weigh it among those near it, strike it out, again", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = static_cast<int>(1 + random.below(12));
    router_config const c{.experts = experts, .top_k = static_cast<int>(1 + random.below(experts))};
    auto const logits = random_logits<T>(random, experts);
    float const epsilon = 0.3f * random.uniform();
    auto const r = route_one<routing::sparse_mixer<>, T>(c, logits, {{}, epsilon});
    std::vector<long double> left(logits.begin(), logits.end());
    for (int i = 0; i < c.top_k; ++i) {
      auto const top = static_cast<std::size_t>(std::max_element(left.begin(), left.end()) - left.begin());
      auto const m = left[top];
      auto masked = left;
      bool close_call = false;
      for (auto& z : masked) {
        if (std::isinf(z)) continue;
        auto const distance = (m - z) / std::max(std::fabs(z), m);
        close_call |= std::fabs(distance - 2 * static_cast<long double>(epsilon)) < routing_tolerance<T>;
        if (distance > 2 * static_cast<long double>(epsilon)) z = -infinity<long double>;
      }
      CHECK(r.ids[0][static_cast<std::size_t>(i)] == static_cast<std::int32_t>(top));
      if (!close_call) CHECK(near(r.weights[0][static_cast<std::size_t>(i)], softmax(masked)[top]));
      left[top] = -infinity<long double>;
    }
  }
}

TEST_CASE_TEMPLATE("zeros are near each other; no reach leaves equals alone", T, float, double) {
  auto const zeros = route_one<routing::sparse_mixer<>, T>({.top_k = 3}, {T(0), T(0), T(0)});
  CHECK(zeros.ids[0] == ids_of_token{0, 1, 2});
  check_printed(zeros.weights[0], {1.0 / 3, .5, 1});
  auto const apart = route_one<routing::sparse_mixer<>, T>({.top_k = 2, .routed_scale = 3}, {T(1), T(2), T(2)}, {{}, 0});
  CHECK(apart.ids[0] == ids_of_token{1, 2});
  check_printed(apart.weights[0], {1.5, 3});
}

TEST_CASE_TEMPLATE("experts of a better logit in a group that is left out count for nothing", T, float, double) {
  router_config const c{.top_k = 2, .groups = 2, .top_groups = 1};           // 3 − 5 < 2 + 1.5
  auto const r = route_one<routing::sparse_mixer<>, T>(c, {T(3), T(-5), T(2), T(1.5)}, {{}, .2f});
  CHECK(r.ids[0] == ids_of_token{2, 3});
  check_printed(r.weights[0], {.622459, 1});                                 // 1 / (1 + e^-.5)
}

TEST_CASE_TEMPLATE("a masked expert counts for nothing in any softmax", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    router_config const c{.experts = 6, .top_k = 3};
    auto logits = random_logits<T>(random, 6);
    std::vector<std::uint8_t> mask(6, 1);
    auto const shut = static_cast<std::size_t>(random.below(6));
    mask[shut] = 0;
    using masked = routing::sparse_mixer<routing::allowed<>>;
    masked::state s;
    s.mask = {mask.data(), 1, 6};
    s.epsilon = .2f;
    auto const r = route_one<masked, T>(c, logits, s);
    logits.erase(logits.begin() + static_cast<std::ptrdiff_t>(shut));
    auto const without = route_one<routing::sparse_mixer<>, T>({.experts = 5, .top_k = 3}, logits, {{}, .2f});
    CHECK(r.weights[0] == without.weights[0]);
  }
}
