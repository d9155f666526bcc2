// Rules over a batch on policies that differ from the plain one: choices made of logits, cuts of their own, costs, scores out of reach.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/route/cap.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/sparse_mixer.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "run.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t first_seed = 20261124;
constexpr double never = -std::numeric_limits<double>::infinity();

matrix<double> rows(std::vector<std::vector<double>> const& lines) {
  matrix<double> m(static_cast<std::int64_t>(lines.size()), static_cast<std::int64_t>(lines[0].size()));
  for (std::size_t t = 0; t < lines.size(); ++t) std::copy(lines[t].begin(), lines[t].end(), m.data.begin() + static_cast<std::ptrdiff_t>(t * lines[0].size()));
  return m;
}
template <class Policy, class F>
typename Policy::state set(F&& f) {
  typename Policy::state s;
  f(s);
  return s;
}

/// A logit-priced choice, and a cost an expert.
using by_logit = routing::cost_aware<costs::table, routing::standard, priced::logit>;
using by_score = routing::cost_aware<costs::table>;

template <class Rule>
definitions::choice_of_batch lists(router_config const& c, typename Rule::state const& s, matrix<double> const& logits, std::vector<float> const& bias = {}) {
  auto const in_double = route_by<Rule>(c, s, logits, bias).all();
  CHECK(route_by<Rule>(c, s, convert<float>(logits), bias).all() == in_double);
  return in_double;
}

/// Half of the list, rounded up: a cut that cuts again what it has cut.
struct half : routing::standard {
  template <class T>
  static int cut(router_config const&, auto const&, std::int64_t, T const*, T const*, std::int32_t const*, int found) { return (found + 1) / 2; }
};

}  // namespace

TEST_CASE("a marginal price of any size leaves the order of the experts that nobody took") {
  auto const ramp = rows({{0, 1, 2, 3, 4, 5, 6, 7}, {7, 6, 5, 4, 3, 2, 1, 0}});
  for (float const price : {1.3f, 90.0f, 104.0f, 200.0f, 1e6f, 1e9f}) {
    CAPTURE(price);
    auto const state = set<routing::marginal<>>([&](auto& s) { s.price = price, s.protect = 0; });
    for (auto const kind : {score::softmax, score::sigmoid, score::sqrt_softplus}) {
      auto const all = lists<routing::marginal<>>({.experts = 8, .top_k = 3, .score = kind}, state, ramp);
      CHECK(all[0] == std::vector<int>{7, 6, 5});
      if (price > 10) CHECK(all[1] == std::vector<int>{5, 6, 7});
    }
  }
  for (int i = 0; i < 40; ++i) {
    auto const seed = first_seed + static_cast<std::uint64_t>(i);
    CAPTURE(seed);
    random_stream random(seed);
    auto const logits = random_matrix<double>(1 + random.below(12), 12, random);
    std::vector<float> cost;
    for (int e = 0; e < 12; ++e) cost.push_back(0.25f + random.uniform());
    float const price = 500 * random.uniform();
    router_config const c{.experts = 12, .top_k = 3, .score = i % 2 ? score::softmax : score::sigmoid};
    auto const b = batch_of(c, route_by<routing::standard>(c, {}, logits), 0, logits.rows);
    CHECK(lists<routing::marginal<>>(c, set<routing::marginal<>>([&](auto& s) { s.price = price, s.cost = cost; }), logits) ==
          definitions::marginal(b, static_cast<double>(price), 1, cost, false));
  }
}

TEST_CASE("under a marginal price, choices that a bias has made 0 and negative come last and in order") {
  // Scores of .5 each: choices .4, 0, −.1, −.2, and one that is forbidden.
  auto const logits = rows({{0, 0, 0, 0, never}, {0, 0, 0, 0, never}});
  std::vector<float> const bias{-0.7f, -0.6f, -0.5f, -0.1f, 0};
  router_config const c{.experts = 5, .top_k = 3, .score = score::sigmoid, .score_bias = true};
  for (float const price : {0.1f, 2.0f, 500.0f}) {
    auto const all = lists<routing::marginal<>>(c, set<routing::marginal<>>([&](auto& s) { s.price = price; }), logits, bias);
    CHECK(all == definitions::choice_of_batch{{3, 2, 1}, {3, 2, 1}});
  }
  std::vector<float> const all_negative{-0.9f, -0.8f, -0.7f, -0.6f, 0};
  CHECK(lists<routing::marginal<>>(c, set<routing::marginal<>>([&](auto& s) { s.price = 500.0f, s.protect = 3; }), logits, all_negative) ==
        definitions::choice_of_batch{{3, 2, 1}, {3, 2, 1}});
}

TEST_CASE("where a choice is made of logits, a marginal price comes off these") {
  auto const logits = rows({{-1, -2, -3, -4, -5, -6, -7, -8}, {-8, -7, -6, -5, -4, -3.5, -3, -2.9}, {3, -3, 3, -3, 2, 1, 0, -9}});
  router_config const c{.experts = 8, .top_k = 3};
  definitions::batch b{{}, {}, 8, 3};
  for (int t = 0; t < 3; ++t) b.choice.emplace_back(logits.data.begin() + 8 * t, logits.data.begin() + 8 * t + 8);
  using mixed = routing::marginal<routing::sparse_mixer<>>;
  std::vector<float> const cost(8, 1.0f);
  using priced_twice = routing::marginal<by_logit>;
  for (float const price : {0.47f, 1.03f, 2.11f, 4.13f}) {
    CAPTURE(price);
    auto const want = definitions::marginal(b, static_cast<double>(price), 1, {}, true);
    CHECK(lists<mixed>(c, set<mixed>([&](auto& s) { s.price = price; }), logits) == want);
    auto state = set<priced_twice>([&](auto& s) { s.price = price; });
    by_logit::state& below = state;
    below.price = 0.001f, below.cost = costs::table::of_experts(cost);
    CHECK(lists<priced_twice>(c, state, logits) == want);
    below.price = 0;                                       // then scores are what is chosen by
    CHECK(lists<priced_twice>(c, state, logits) == lists<routing::marginal<>>(c, set<routing::marginal<>>([&](auto& s) { s.price = price; }), logits));
  }
}

TEST_CASE("scores that are logits gain by their softmax, negative scores nothing") {
  for (int i = 0; i < 30; ++i) {
    auto const seed = first_seed + static_cast<std::uint64_t>(i);
    CAPTURE(seed);
    random_stream random(seed);
    auto logits = random_matrix<double>(6, 10, random);
    for (auto& z : logits.data) z = 2 * z - 4;
    router_config const c{.experts = 10, .top_k = 3}, same{.experts = 10, .top_k = 3, .position = score_position::after_top_k};
    auto const b = batch_of(same, route_by<routing::standard>(same, {}, logits), 0, logits.rows);
    using capped = routing::cap<routing::sparse_mixer<>>;
    CHECK(lists<capped>(c, set<capped>([](auto& s) { s.experts = 4; }), logits) == definitions::cap(b, 4, std::vector<std::int32_t>(10, 0)));
    using thinned = routing::elimination<routing::sparse_mixer<>>;
    CHECK(lists<thinned>(c, set<thinned>([](auto& s) { s.price = 0.3f; }), logits) ==
          definitions::inside(b, definitions::eliminate(b, static_cast<double>(0.3f), {}, {}).kept));
  }
  // Expert 0 is one token's joy and the other's grief: the grief is not taken off the sum.
  router_config const plain{.experts = 4, .top_k = 1, .score = score::identity};
  CHECK(lists<routing::cap<>>(plain, set<routing::cap<>>([](auto& s) { s.experts = 1; }), rows({{3, 1, 0, 0}, {-9, 1, -1, -1}})) ==
        definitions::choice_of_batch{{0}, {0}});
}

TEST_CASE("an expert that a token may not have does not shrink what it gains by others") {
  std::vector<std::vector<double>> lines;
  for (int t = 0; t < 4; ++t) lines.push_back({120, -300, -300, -300, 3.0 + t % 2, 2, 1, 0});
  router_config const c{.experts = 8, .top_k = 2, .position = score_position::after_top_k, .groups = 2, .top_groups = 1, .group_worth = group_worth::top2_sum};
  CHECK(lists<routing::two_prices_refilled<>>(c, set<routing::two_prices_refilled<>>([](auto& s) { s.read = 0.2f; }), rows(lines)) ==
        definitions::choice_of_batch(4, {4, 5}));
}

TEST_CASE_TEMPLATE("a rule cuts as the policy below it does, and once", Rule, routing::two_phase<half>, routing::marginal<half>, routing::cap<half>,
                   routing::greedy_cap<half>, routing::two_prices<half>, routing::two_prices_refilled<half>, routing::elimination<half>) {
  for (int i = 0; i < 30; ++i) {
    auto const seed = first_seed + static_cast<std::uint64_t>(i);
    CAPTURE(seed);
    random_stream random(seed);
    auto const logits = convert<float>(random_matrix<double>(9, 16, random));
    router_config const c{.experts = 16, .top_k = 5, .renormalize = true};
    auto const plain = route_by<half>(c, {}, logits);
    auto const idle = route_by<Rule>(c, set<Rule>([](auto& s) {
      if constexpr (requires { s.own; }) s.own = 5;
    }), logits);
    CHECK(idle.count == plain.count);
    for (std::int64_t t = 0; t < 9; ++t)
      for (int e = 0; e < 5; ++e) {
        CHECK(idle.ids(t, e) == plain.ids(t, e));
        CHECK(idle.weights(t, e) == plain.weights(t, e));
      }
    if constexpr (!requires(typename Rule::state s) { s.compute; }) {
      auto const busy = route_by<Rule>(c, set<Rule>([](auto& s) {
        if constexpr (requires { s.own; }) s.own = 1;
        if constexpr (requires { s.experts; }) s.experts = 8;
        if constexpr (requires { s.read; }) s.read = 0.5f;
        if constexpr (requires { s.price; }) s.price = std::is_same_v<Rule, routing::marginal<half>> ? 2.0f : 0.2f;
      }), logits);
      for (std::int64_t t = 0; t < 9; ++t) CHECK((busy.count[static_cast<std::size_t>(t)] == 3 || definitions::used(busy.all()).size() < 5));
      CHECK(definitions::used(busy.all()).size() < definitions::used(plain.all()).size());
    }
  }
}

TEST_CASE("two prices: what pays is cut as the policy below has it") {
  random_stream random(first_seed);
  auto const logits = random_matrix<double>(9, 16, random);
  router_config const c{.experts = 16, .top_k = 5};
  auto const prices = [](auto& s) { s.compute = 0.02f, s.read = 0.05f; };
  auto const whole = route_by<routing::two_prices<>>(c, set<routing::two_prices<>>(prices), logits).all();
  auto const cut = route_by<routing::two_prices<half>>(c, set<routing::two_prices<half>>(prices), logits).all();
  for (std::size_t t = 0; t < whole.size(); ++t) {
    auto want = whole[t];
    want.resize((want.size() + 1) / 2);
    CHECK(cut[t] == want);
  }
}

TEST_CASE("elimination looks among as many as a token has after a cut") {
  for (int i = 0; i < 20; ++i) {
    auto const seed = first_seed + static_cast<std::uint64_t>(i);
    CAPTURE(seed);
    random_stream random(seed);
    auto const logits = random_matrix<double>(8, 12, random);
    router_config const six{.experts = 12, .top_k = 6, .renormalize = true}, three{.experts = 12, .top_k = 3, .renormalize = true};
    for (int const rounds : {0, 3}) {                      // half of six is three
      auto const set_up = [&](auto& s) { s.price = 0.4f, s.rounds = rounds; };
      CHECK(lists<routing::elimination<half>>(six, set<routing::elimination<half>>(set_up), logits) ==
            lists<routing::elimination<>>(three, set<routing::elimination<>>(set_up), logits));
    }
    auto const few = set<routing::marginal<half>>([](auto& s) { s.price = 0.7f; });
    CHECK(lists<routing::marginal<half>>(six, few, logits) == lists<routing::marginal<>>(three, set<routing::marginal<>>([](auto& s) { s.price = 0.7f; }), logits));
  }
}

TEST_CASE_TEMPLATE("elimination over costs is that of the priced choice; nobody may be protected", Base, by_score, by_logit,
                   routing::cost_aware<costs::table, routing::top_p<>>, routing::top_p<by_score>) {
  using rule = routing::elimination<Base>;
  for (int i = 0; i < 30; ++i) {
    auto const seed = first_seed + static_cast<std::uint64_t>(i);
    CAPTURE(seed);
    random_stream random(seed);
    auto const logits = random_matrix<double>(8, 12, random);
    std::vector<float> cost;
    for (int e = 0; e < 12; ++e) cost.push_back(random.uniform());
    router_config const c{.experts = 12, .top_k = 3, .renormalize = true};
    auto state = set<rule>([](auto& s) { s.price = 0.4f; });
    typename Base::state& below = state;
    below.cost = costs::table::of_experts(cost), below.price = 0.2f;
    auto b = batch_of(c, route_by<Base>(c, below, logits), 0, logits.rows);
    // Listed by what they would be listed by without costs.
    auto want = definitions::inside(b, definitions::eliminate(b, static_cast<double>(0.4f), {}, {}).kept);
    for (std::size_t t = 0; t < want.size(); ++t)
      std::stable_sort(want[t].begin(), want[t].end(), [&](int x, int y) { return b.gain[t][static_cast<std::size_t>(x)] > b.gain[t][static_cast<std::size_t>(y)]; });
    CHECK(lists<rule>(c, state, logits) == want);
    CHECK(rule::fits(c, state, 8).code == status_code::ok);
    below.protect = 1;
    CHECK(rule::fits(c, state, 8).code == status_code::invalid_argument);
    below.price = 0;                                       // no costs, no protection
    CHECK(rule::fits(c, state, 8).code == status_code::ok);
  }
}

TEST_CASE("a token whose every expert goes in one pass keeps its best one alone") {
  std::vector<std::vector<double>> lines{std::vector<double>(10, never)};
  lines[0][0] = 1, lines[0][1] = 2;
  for (int t = 0; t < 8; ++t) {
    lines.emplace_back(10, -20.0);
    for (int i = 0; i < 3; ++i) lines.back()[static_cast<std::size_t>(2 + (t + i) % 8)] = 3 - 0.1 * i;
  }
  router_config const c{.experts = 10, .top_k = 3, .renormalize = true};
  CHECK(lists<routing::elimination<>>(c, set<routing::elimination<>>([](auto& s) { s.price = 1000, s.rounds = 3; }), rows(lines))[0] == std::vector<int>{1});
}

TEST_CASE("elimination has rounds of 0, 3 and 5") {
  for (int rounds = -5; rounds < 12; ++rounds) {
    CAPTURE(rounds);
    auto const done = routing::elimination<>::fits({.experts = 8, .top_k = 2}, set<routing::elimination<>>([&](auto& s) { s.rounds = rounds; }), 4);
    CHECK(bool(done) == (rounds == 0 || rounds == 3 || rounds == 5));
    if (!done) CHECK(done.found == rounds);
  }
}

TEST_CASE_TEMPLATE("prices and counts below 0, and prices that are no number, are refused", Rule, routing::two_phase<>, routing::marginal<>, routing::cap<>,
                   routing::greedy_cap<>, routing::two_prices<>, routing::two_prices_refilled<>, routing::elimination<>) {
  router_config const c{.experts = 8, .top_k = 2};
  auto const check = [&](auto member, std::vector<float> const& wrong) {
    CHECK(Rule::fits(c, typename Rule::state{}, 4).code == status_code::ok);
    for (float const x : wrong) {
      typename Rule::state s;
      s.*member = static_cast<std::remove_reference_t<decltype(s.*member)>>(x);
      CHECK(Rule::fits(c, s, 4).code == status_code::invalid_argument);
    }
  };
  std::vector<float> const wrong{-0.5f, -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  using state = typename Rule::state;
  if constexpr (requires(state s) { s.price; }) check(&state::price, wrong);
  if constexpr (requires(state s) { s.compute; }) check(&state::compute, wrong);
  if constexpr (requires(state s) { s.read; }) check(&state::read, wrong);
  if constexpr (requires(state s) { s.budget; }) check(&state::budget, wrong);
  if constexpr (requires(state s) { s.own; }) check(&state::own, {-1});
  if constexpr (requires(state s) { s.experts; }) check(&state::experts, {-1});
}

TEST_CASE("a step of fewer than no tokens is refused") {
  for (std::int64_t const together : {std::int64_t{0}, std::int64_t{3}, std::int64_t{-1}}) {
    routing::two_phase<>::state s;
    s.together = together;
    auto const fits = state_fits<routing::two_phase<>>({.experts = 8, .top_k = 2}, s, 4);
    CHECK(static_cast<bool>(fits) == (together >= 0));
    CHECK(fits.found == (together < 0 ? -1 : 0));
  }
}
