// Routing of single tokens: the golden vectors of the published rules, ties, limits and every way that logits can be broken.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/route.hpp>
#include <moesaic/route/plan.hpp>

using namespace moesaic;

namespace {

// Eight logits; experts 3 and 4 tie.
std::vector<double> const golden{1.0, -0.5, 2.0, 0.3, 0.3, -1.2, 0.9, 1.6};

struct routed {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
  int count = 0;
  bool finite = true;
};

template <class Policy = routing::standard>
routed route_one(router_config c, std::vector<double> const& logits, typename Policy::state const& state = {}, std::vector<float> const& score_bias = {}) {
  c.experts = static_cast<int>(logits.size());
  std::vector<double> scores(logits.size()), choice(logits.size());
  auto const width = static_cast<std::size_t>(c.top_k);
  routed r{std::vector<std::int32_t>(width), std::vector<double>(width), 0, true};
  r.finite = score_token<Policy>(c, serial_group{}, state, score_bias, 0, logits.data(), scores.data(), choice.data());
  int const found = top_k(choice.data(), c.experts, c.top_k, r.ids.data());
  r.count = finish_token<Policy>(c, serial_group{}, state, 0, scores.data(), choice.data(), found, c.top_k, r.ids.data(), r.weights.data());
  return r;
}

void check_near(std::vector<double> const& got, std::vector<double> const& want) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(std::abs(got[i] - want[i]) < 1e-6);
}
void check_ids(std::vector<std::int32_t> const& got, std::vector<std::int32_t> const& want) { CHECK(got == want); }

}  // namespace

TEST_CASE("softmax before top-k, ties to the lower index") {
  auto const all = route_one({.top_k = 8}, golden);
  check_ids(all.ids, {2, 7, 0, 6, 3, 4, 1, 5});
  check_near(all.weights, {.349738, .234436, .128661, .116418, .063891, .063891, .028708, .014256});
}

TEST_CASE("two of eight, with and without renormalisation; top-1 keeps its probability") {
  check_near(route_one({.top_k = 2}, golden).weights, {.349738, .234436});
  check_near(route_one({.top_k = 2, .renormalize = true}, golden).weights, {.598688, .401312});
  auto const one = route_one({.top_k = 1}, golden);
  check_ids(one.ids, {2});
  check_near(one.weights, {.349738});
}

TEST_CASE("softmax after top-k is softmax before it, renormalised") {
  auto const after = route_one({.top_k = 2, .position = score_position::after_top_k}, golden);
  check_ids(after.ids, {2, 7});
  check_near(after.weights, {.598688, .401312});
}

TEST_CASE("sigmoid scores, renormalised and scaled") {
  check_near(route_one({.top_k = 2, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5}, golden).weights, {1.285598, 1.214402});
}

TEST_CASE("a selection bias moves the choice and never the weights") {
  std::vector<float> const bias{0, .6f, -.5f, -.2f, 0, .3f, -.1f, -.2f};
  auto const r = route_one({.top_k = 2, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5, .score_bias = true}, golden, {}, bias);
  check_ids(r.ids, {1, 0});                                    // s + b = .977541 and .731059
  check_near(r.weights, {.851391, 1.648609});                  // of s, not of s + b
}

TEST_CASE("identity scores with weights of one") {
  auto const r = route_one({.top_k = 3, .score = score::identity, .weights = combine_weight::ones}, golden);
  check_ids(r.ids, {2, 7, 0});
  check_near(r.weights, {1, 1, 1});
}

namespace {

struct costly : routing::standard {
  struct state {
    std::vector<double> cost;
    double price = 0;
  };
  template <class T>
  static T price(router_config const&, state const& s, routing_site at, T) {
    return static_cast<T>(s.price * s.cost[static_cast<std::size_t>(at.expert)]);
  }
};
struct above : routing::standard {
  struct state {
    double limit = 0;
  };
  template <class T>
  static int cut(router_config const&, state const& s, std::int64_t, T const*, T const* choice, std::int32_t const* ids, int found) {
    int count = 0;
    while (count < found && choice[ids[count]] > static_cast<T>(s.limit)) ++count;
    return count;
  }
};
struct only_even : routing::standard {
  template <class T, class Group>
  static void limit(router_config const& c, Group const&, auto const&, std::int64_t, T const*, T* choice) {
    for (int e = 1; e < c.experts; e += 2) choice[e] = -std::numeric_limits<T>::infinity();
  }
};

}  // namespace

TEST_CASE("a price buys cheaper experts; weights are those of the plain scores") {
  router_config const c{.top_k = 2, .score = score::identity, .position = score_position::before_top_k, .weights = combine_weight::ones};
  std::vector<double> const cost{1, 1, 4, 1, 2, 1, 2, 3};
  auto const ids = [&](double price) { return route_one<costly>(c, golden, {cost, price}).ids; };
  check_ids(ids(0), {2, 7});
  check_ids(ids(.2), {2, 7});
  check_ids(ids(.5), {0, 7});                                  // 0: 1 − .5, 7: 1.6 − 1.5; both of cost sum 4
  check_ids(ids(2), {0, 3});
}

TEST_CASE("variable k: a token's list ends where the policy stops keeping, at nothing too") {
  router_config const c{.top_k = 8, .score = score::identity, .weights = combine_weight::ones};
  auto const some = route_one<above>(c, golden, {0.95});
  CHECK(some.count == 3);
  check_ids(some.ids, {2, 7, 0, -1, -1, -1, -1, -1});
  check_near(some.weights, {1, 1, 1, 0, 0, 0, 0, 0});
  auto const none = route_one<above>(c, golden, {5});
  CHECK(none.count == 0);
  check_ids(none.ids, {-1, -1, -1, -1, -1, -1, -1, -1});
}

TEST_CASE("forbidden experts are never chosen, and fewer than k may be left") {
  auto const r = route_one<only_even>({.top_k = 5, .renormalize = true}, golden);
  CHECK(r.count == 4);
  check_ids(r.ids, {2, 0, 6, 4, -1});
  double sum = 0;
  for (auto const w : r.weights) sum += w;
  CHECK(sum == doctest::Approx(1));
}

TEST_CASE("logits that are not finite never choose") {
  auto const infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (auto const bad : {nan, infinity}) {
    auto logits = golden;
    logits[3] = bad;
    auto const r = route_one({.top_k = 2, .renormalize = true}, logits);
    CHECK_FALSE(r.finite);
    CHECK(r.count == 0);
    check_ids(r.ids, {-1, -1});
    check_near(r.weights, {0, 0});
  }
  auto masked = golden;
  masked[2] = -infinity;                                       // a mask, not an accident
  auto const r = route_one({.top_k = 8, .renormalize = true}, masked);
  CHECK(r.finite);
  CHECK(r.count == 7);
  CHECK(r.ids[0] == 7);
  auto const none = route_one({.top_k = 2}, std::vector<double>(4, -infinity));
  CHECK_FALSE(none.finite);
  CHECK(none.count == 0);
}

TEST_CASE("a bias or a price that is not a number never chooses") {
  std::vector<float> bias(8, 0.0f);
  bias[2] = std::numeric_limits<float>::quiet_NaN();
  auto const biased = route_one({.top_k = 2, .score_bias = true}, golden, {}, bias);
  CHECK_FALSE(biased.finite);
  CHECK(biased.count == 0);
  std::vector<double> cost(8, 1.0);
  cost[5] = std::numeric_limits<double>::quiet_NaN();
  auto const priced = route_one<costly>({.top_k = 2}, golden, {cost, 1.0});
  CHECK_FALSE(priced.finite);
  CHECK(priced.count == 0);
}

TEST_CASE("no room for any expert") {
  std::int32_t untouched = 7;
  CHECK(top_k(golden.data(), 8, 0, &untouched) == 0);
  CHECK(untouched == 7);
}

TEST_CASE("one expert, and as many as there are") {
  auto const one = route_one({.top_k = 1}, {-3.0});
  check_ids(one.ids, {0});
  CHECK(one.weights[0] == 1.0);                                // exactly: a dense layer depends on it
  CHECK(route_one({.top_k = 8}, golden).count == 8);
}

TEST_CASE("scores that all underflow give weights of zero, not NaN") {
  auto const r = route_one({.top_k = 2, .score = score::sigmoid, .renormalize = true}, {-800.0, -900.0, -1000.0});
  CHECK(r.count == 2);
  for (auto const w : r.weights) CHECK(w == 0.0);
}

TEST_CASE("the plan sorts choices by expert and keeps the tokens' order; unused choices have no slot") {
  std::vector<std::int32_t> const ids{2, 0, 1, -1, 2, 1, 0, 2, -1, -1};   // five tokens, two choices
  std::vector<std::int32_t> offsets(5), tokens(10), slots(10);
  make_plan({ids.data(), 5, 2}, {offsets, tokens, {slots.data(), 5, 2}});
  CHECK(offsets == std::vector<std::int32_t>{0, 2, 4, 7, 7});              // expert 3 has none
  tokens.resize(7);
  CHECK(tokens == std::vector<std::int32_t>{0, 3, 1, 2, 0, 2, 3});
  CHECK(slots == std::vector<std::int32_t>{4, 0, 2, -1, 5, 3, 1, 6, -1, -1});
}

TEST_CASE("the plan of no tokens") {
  std::vector<std::int32_t> offsets(4, 9);
  make_plan({nullptr, 0, 2}, {offsets, {}, {nullptr, 0, 2}});
  CHECK(offsets == std::vector<std::int32_t>(4, 0));
}
