// Every rule over a batch against its definition and, where it claims an optimum, against all sets; then what must hold of each.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/route/cap.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>
#include <support/tolerance.hpp>

#include "run.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t first_seed = 20261124;

router_config const softmax_first{.top_k = 3, .renormalize = true};
router_config const softmax_last{.top_k = 3, .position = score_position::after_top_k};
router_config const grouped{.top_k = 3,
                            .score = score::sigmoid,
                            .groups = 4,
                            .top_groups = 2,
                            .group_worth = group_worth::top2_sum,
                            .renormalize = true,
                            .score_bias = true};

struct drawn {
  router_config config;
  matrix<double> logits;
  std::vector<float> bias, cost;
  std::vector<std::int32_t> rank;
  std::uint64_t seed = 0;
  random_stream random{0};
};

/// Some tokens and experts; the config's top_k and groups are what fits.
drawn draw(std::uint64_t seed, router_config c, int most_tokens = 18, int experts = 0) {
  random_stream random(seed);
  c.experts = experts > 0 ? experts : c.groups > 1 ? c.groups * static_cast<int>(2 + random.below(4)) : static_cast<int>(4 + random.below(20));
  auto const tokens = 1 + random.below(most_tokens);
  drawn d{c, random_matrix<double>(tokens, c.experts, random), {}, {}, {}, seed, random};
  for (auto& z : d.logits.data) z *= 1.5;
  if (c.score_bias)
    for (int e = 0; e < c.experts; ++e) d.bias.push_back(0.2f * random.normal());
  for (int e = 0; e < c.experts; ++e) d.cost.push_back(0.25f + random.uniform()), d.rank.push_back(static_cast<std::int32_t>(random.below(3)));
  d.random = random;
  return d;
}

template <class F>
void for_drawn(int times, F&& f) {
  for (auto const& config : {softmax_first, softmax_last, grouped})
    for (int i = 0; i < times; ++i) {
      auto const seed = first_seed + static_cast<std::uint64_t>(i);
      CAPTURE(seed);
      CAPTURE(static_cast<int>(config.score));
      CAPTURE(static_cast<int>(config.position));
      f(draw(seed, config));
    }
}

template <class T>
matrix<T> as(matrix<double> const& m) { return convert<T>(m); }

/// Routes by the rule and checks every list, weight and unused slot against the definition's lists.
template <class Policy, class T>
void check_lists(drawn const& d, typename Policy::state const& state, definitions::choice_of_batch const& want) {
  auto const got = route_by<Policy>(d.config, state, as<T>(d.logits), d.bias);
  for (std::int64_t t = 0; t < d.logits.rows; ++t) {
    CAPTURE(t);
    REQUIRE(got.of(t) == want[static_cast<std::size_t>(t)]);
    double sum = 0, all = 0;
    auto const gain = batch_of(d.config, got, t, 1).gain[0];
    for (int e : got.of(t)) all += gain[static_cast<std::size_t>(e)];
    for (int i = 0; i < got.ids.columns; ++i) {
      bool const in_use = i < got.count[static_cast<std::size_t>(t)];
      if (!in_use) CHECK(got.ids(t, i) == -1);
      auto const weight = static_cast<double>(got.weights(t, i));
      CHECK(std::abs(weight - (in_use ? gain[static_cast<std::size_t>(got.ids(t, i))] / all : 0.0)) <= routing_tolerance<T>);
      sum += weight;
    }
    if (!got.of(t).empty()) CHECK(std::abs(sum - 1) <= routing_tolerance<T>);
  }
}

template <class T>
definitions::batch plain_batch(drawn const& d) {
  return batch_of(d.config, route_by<routing::standard>(d.config, {}, as<T>(d.logits), d.bias), 0, d.logits.rows);
}

template <class State, class F>
State set(F&& f) {
  State s;
  f(s);
  return s;
}

}  // namespace

TEST_CASE_TEMPLATE("each rule chooses as its definition does", T, double, float) {
  for_drawn(60, [](drawn d) {
    auto const b = plain_batch<T>(d);
    bool const logs = d.config.position == score_position::after_top_k;
    auto const price = d.random.uniform();
    auto const with_cost = d.random.below(2) == 1;
    std::vector<float> const cost = with_cost ? d.cost : std::vector<float>{};

    auto const own = static_cast<int>(1 + d.random.below(3));
    check_lists<routing::two_phase<>, T>(d, set<routing::two_phase<>::state>([&](auto& s) { s.own = own; }), definitions::two_phase(b, own));

    if (!d.config.score_bias) {                            // of a negative choice there is no logarithm
      auto const protect = static_cast<int>(d.random.below(3));
      check_lists<routing::marginal<>, T>(d, set<routing::marginal<>::state>([&](auto& s) { s.price = 3 * price, s.protect = protect, s.cost = cost; }),
                                          definitions::marginal(b, 3.0 * static_cast<double>(price), protect, cost, logs));
    }

    auto const most = static_cast<int>(1 + d.random.below(d.config.experts - 1));
    std::vector<std::int32_t> const one_rank(d.cost.size(), 0);
    check_lists<routing::cap<>, T>(d, set<routing::cap<>::state>([&](auto& s) { s.experts = most; }), definitions::cap(b, most, one_rank));
    check_lists<routing::cap<>, T>(d, set<routing::cap<>::state>([&](auto& s) { s.experts = 2, s.where.rank_of = d.rank; }), definitions::cap(b, 2, d.rank));

    auto const budget = 0.5f + 3 * d.random.uniform();
    auto const greedy = set<routing::greedy_cap<>::state>([&](auto& s) { s.experts = 2, s.where.rank_of = d.rank, s.budget = budget, s.cost = d.cost; });
    check_lists<routing::greedy_cap<>, T>(d, greedy, definitions::inside(b, definitions::greedy_set(b, 2, static_cast<double>(budget), d.cost, d.rank)));

    auto const read = 1.5f * price;
    check_lists<routing::two_prices_refilled<>, T>(d, set<routing::two_prices_refilled<>::state>([&](auto& s) { s.read = read, s.size = cost; }),
                                                   definitions::two_prices_refilled(b, static_cast<double>(read), cost));

    for (std::vector<int> const& shares : {std::vector<int>{}, {34, 50, 100}, {20, 25, 34, 50, 100}}) {
      auto const rounds = static_cast<int>(shares.size());
      CAPTURE(rounds);
      auto const kept = definitions::eliminate(b, static_cast<double>(price), shares, cost).kept;
      check_lists<routing::elimination<>, T>(d, set<routing::elimination<>::state>([&](auto& s) { s.price = price, s.rounds = rounds, s.cost = cost; }),
                                             definitions::inside(b, kept));
    }
  });
}

TEST_CASE("two prices: no set of experts and no choice of tokens is worth more") {
  for (int i = 0; i < 40; ++i) {
    auto const seed = first_seed + static_cast<std::uint64_t>(i);
    CAPTURE(seed);
    auto d = draw(seed, softmax_first, 10, static_cast<int>(1 + i % 12));
    d.config.top_k = 1;                                    // of no matter: any number
    auto const compute = 0.15f * d.random.uniform(), read = 0.5f * d.random.uniform();
    auto const b = plain_batch<double>(d);
    auto const profit = [&](std::size_t t, int e) { return b.gain[t][static_cast<std::size_t>(e)] - static_cast<double>(compute * d.cost[static_cast<std::size_t>(e)]); };
    auto const worth = [&](definitions::choice_of_batch const& lists) {
      double sum = 0;
      for (std::size_t t = 0; t < lists.size(); ++t)
        for (int e : lists[t]) sum += profit(t, e);
      for (int e : definitions::used(lists)) sum -= static_cast<double>(read * d.cost[static_cast<std::size_t>(e)]);
      return sum;
    };
    double best = 0;
    for (unsigned subset = 0; subset < 1u << d.config.experts; ++subset) {
      definitions::choice_of_batch lists(b.choice.size());
      for (int e = 0; e < d.config.experts; ++e)
        for (std::size_t t = 0; t < lists.size(); ++t)
          if ((subset >> e & 1u) && profit(t, e) > 0) lists[t].push_back(e);
      best = std::max(best, worth(lists));
    }
    auto const state = set<routing::two_prices<>::state>([&](auto& s) { s.compute = compute, s.read = read, s.size = d.cost; });
    auto const got = route_by<routing::two_prices<>>(d.config, state, d.logits);
    auto const terms = (d.logits.rows + 1) * d.config.experts;   // of at most 1 each
    CHECK(std::abs(worth(got.all()) - best) <= sum_tolerance<double>(terms) * static_cast<double>(terms));
    for (std::int64_t t = 0; t < d.logits.rows; ++t) {
      auto const ids = got.of(t);
      CHECK(std::is_sorted(ids.begin(), ids.end(), [&](int x, int y) { return got.choice(t, x) > got.choice(t, y); }));
    }
  }
}

TEST_CASE("two phases: the union is that of the tokens' own, which each keeps, and lists are as long as it allows") {
  for_drawn(40, [](drawn const& d) {
    auto const plain = route_by<routing::standard>(d.config, {}, d.logits, d.bias);
    for (int own = 1; own <= d.config.top_k; ++own) {
      auto const got = route_by<routing::two_phase<>>(d.config, set<routing::two_phase<>::state>([&](auto& s) { s.own = own; }), d.logits, d.bias);
      definitions::experts u;
      for (std::int64_t t = 0; t < d.logits.rows; ++t)
        for (int i = 0; i < own; ++i) u.insert(plain.ids(t, i));
      CHECK(definitions::used(got.all()) == u);
      for (std::int64_t t = 0; t < d.logits.rows; ++t) {
        auto const ids = got.of(t);
        for (int i = 0; i < own; ++i) CHECK(std::find(ids.begin(), ids.end(), plain.ids(t, i)) != ids.end());
        if (d.config.groups == 1) CHECK(ids.size() == std::min(static_cast<std::size_t>(d.config.top_k), u.size()));
      }
    }
  });
}

TEST_CASE("elimination: fewer experts the higher the price, never none for a token, and no more gate weight lost than the losses say") {
  for_drawn(40, [](drawn const& d) {
    auto const b = plain_batch<double>(d);
    auto const share = definitions::shares(b);
    auto distinct = std::numeric_limits<std::size_t>::max();
    for (float const price : {0.0f, 0.05f, 0.1f, 0.3f, 1.0f, 3.0f, 1000.0f}) {
      CAPTURE(price);
      auto const got = route_by<routing::elimination<>>(d.config, set<routing::elimination<>::state>([&](auto& s) { s.price = price; }), d.logits, d.bias);
      auto const now = definitions::used(got.all()).size();
      CHECK(now <= distinct);
      distinct = now;
      double retained = 0;
      for (std::int64_t t = 0; t < d.logits.rows; ++t) {
        CHECK(!got.of(t).empty());
        for (int e : got.of(t)) retained += share[static_cast<std::size_t>(t)][static_cast<std::size_t>(e)];
      }
      auto const lost = price > 0 ? definitions::eliminate(b, static_cast<double>(price), {}, {}).lost : 0.0;
      CHECK(retained >= static_cast<double>(d.logits.rows) - lost - 1e-9);
    }
  });
}

TEST_CASE("elimination: of two experts that cost the same the higher goes first") {
  // Two tokens that differ in nothing but which of two experts each likes: 1 or 2, and 3 or 4.
  matrix<double> logits(2, 6);
  double const both[2][6] = {{2, 1, 0.5, 1, 0.5, -1}, {2, 0.5, 1, 0.5, 1, -1}};
  for (int t = 0; t < 2; ++t)
    for (int e = 0; e < 6; ++e) logits(t, e) = both[t][e];
  router_config const c{.experts = 6, .top_k = 3, .renormalize = true};
  auto const chosen = [&](float price, int rounds) {
    return route_by<routing::elimination<>>(c, set<routing::elimination<>::state>([&](auto& s) { s.price = price, s.rounds = rounds; }), logits).all();
  };
  CHECK(chosen(0, 0) == definitions::choice_of_batch{{0, 1, 3}, {0, 2, 4}});
  CHECK(chosen(1, 0) == definitions::choice_of_batch{{0, 1, 2}, {0, 2, 1}});   // 4, then 3; three are left
  CHECK(chosen(1, 3) == definitions::choice_of_batch{{0, 1, 2}, {0, 2, 1}});   // of the five below the price 34 % are two
}

namespace {

/// Rules whose result must not depend on the order of tokens, at settings that do something.
template <class Policy>
typename Policy::state busy(drawn const& d) {
  typename Policy::state s;
  if constexpr (requires { s.own; }) s.own = 1;
  if constexpr (requires { s.experts; }) s.experts = std::max(1, d.config.experts / 2);
  if constexpr (requires { s.compute; }) s.compute = 0.05f;
  if constexpr (requires { s.read; }) s.read = 0.3f;
  if constexpr (requires { s.price; }) s.price = 0.3f;
  return s;
}
template <class Policy>
typename Policy::state idle() {
  typename Policy::state s;
  if constexpr (requires { s.own; }) s.own = 1000;
  return s;                                                // prices of 0, no cap
}
struct in_rounds : routing::elimination<> {
  struct state : routing::elimination<>::state {
    state() { rounds = 3; }
  };
};

}  // namespace

#define MOESAIC_ORDER_FREE                                                                                                       \
  routing::two_phase<>, routing::cap<>, routing::greedy_cap<>, routing::two_prices<>, routing::two_prices_refilled<>,            \
      routing::elimination<>, in_rounds

TEST_CASE_TEMPLATE("permuting the tokens permutes the lists", Policy, MOESAIC_ORDER_FREE) {
  for_drawn(30, [](drawn d) {
    auto const state = busy<Policy>(d);
    auto const once = route_by<Policy>(d.config, state, as<float>(d.logits), d.bias);
    std::vector<std::int64_t> order(static_cast<std::size_t>(d.logits.rows));
    std::iota(order.begin(), order.end(), 0);
    for (auto i = order.size(); i > 1; --i) std::swap(order[i - 1], order[static_cast<std::size_t>(d.random.below(static_cast<std::int64_t>(i)))]);
    auto shuffled = d.logits;
    for (std::int64_t t = 0; t < d.logits.rows; ++t)
      for (int e = 0; e < d.config.experts; ++e) shuffled(t, e) = d.logits(order[static_cast<std::size_t>(t)], e);
    auto const twice = route_by<Policy>(d.config, state, as<float>(shuffled), d.bias);
    for (std::int64_t t = 0; t < d.logits.rows; ++t) CHECK(twice.of(t) == once.of(order[static_cast<std::size_t>(t)]));
  });
}

TEST_CASE_TEMPLATE("a setting that asks for nothing gives the bits of the policy below", Policy, MOESAIC_ORDER_FREE, routing::marginal<>) {
  for_drawn(30, [](drawn d) {
    d.logits(0, 0) = -std::numeric_limits<double>::infinity();
    auto const got = route_by<Policy>(d.config, idle<Policy>(), as<float>(d.logits), d.bias);
    auto const plain = route_by<routing::standard>(d.config, {}, as<float>(d.logits), d.bias);
    CHECK(got.count == plain.count);
    for (std::int64_t t = 0; t < d.logits.rows; ++t)
      for (int i = 0; i < d.config.top_k; ++i) {
        CHECK(got.ids(t, i) == plain.ids(t, i));
        CHECK(got.weights(t, i) == plain.weights(t, i));
      }
  });
}

TEST_CASE("a batch of one is eliminated nothing, and pays a marginal price for everything alike") {
  for_drawn(30, [](drawn d) {
    d.logits.rows = 1;
    d.logits.data.resize(static_cast<std::size_t>(d.config.experts));
    auto const plain = route_by<routing::standard>(d.config, {}, d.logits, d.bias).all();
    for (int const rounds : {0, 3, 5})
      CHECK(route_by<routing::elimination<>>(d.config, set<routing::elimination<>::state>([&](auto& s) { s.price = 10, s.rounds = rounds; }), d.logits, d.bias).all() == plain);
    CHECK(route_by<routing::marginal<>>(d.config, set<routing::marginal<>::state>([](auto& s) { s.price = 2; }), d.logits, d.bias).all() == plain);
    if (!d.config.score_bias)                              // which choice has and the cap's sums have not
      CHECK(route_by<routing::cap<>>(d.config, set<routing::cap<>::state>([](auto& s) { s.experts = 3; }), d.logits).all() == plain);
  });
}

TEST_CASE_TEMPLATE("rows of padding and rows that are not finite neither choose nor count; steps of a call know nothing of each other", Policy, MOESAIC_ORDER_FREE, routing::marginal<>) {
  for_drawn(20, [](drawn d) {
    auto state = busy<Policy>(d);
    auto const alone = route_by<Policy>(d.config, state, d.logits, d.bias);
    auto const tokens = d.logits.rows;

    // Every row, then one to be left out: as padding, as NaN, as infinity.
    matrix<double> mixed(2 * tokens, d.config.experts);
    std::vector<std::uint8_t> padding(static_cast<std::size_t>(2 * tokens), 0);
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (int e = 0; e < d.config.experts; ++e) mixed(2 * t, e) = d.logits(t, e), mixed(2 * t + 1, e) = static_cast<double>(d.random.normal());
      auto const how = t % 3;
      if (how == 0) padding[static_cast<std::size_t>(2 * t + 1)] = 1;
      else mixed(2 * t + 1, d.config.experts - 1) = how == 1 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
    }
    state.padding = padding;
    auto const beside = route_by<Policy>(d.config, state, mixed, d.bias);
    for (std::int64_t t = 0; t < tokens; ++t) {
      CHECK(beside.of(2 * t) == alone.of(t));
      CHECK(beside.of(2 * t + 1).empty());
      CHECK(beside.ids(2 * t + 1, 0) == -1);
    }

    // The batch twice and a short step, in one call.
    auto const some = std::max<std::int64_t>(1, tokens / 2);
    matrix<double> steps(2 * tokens + some, d.config.experts), last(some, d.config.experts);
    for (std::int64_t t = 0; t < steps.rows; ++t)
      for (int e = 0; e < d.config.experts; ++e) steps(t, e) = d.logits(t % tokens, e);
    last.data.assign(d.logits.data.begin(), d.logits.data.begin() + static_cast<std::ptrdiff_t>(last.data.size()));
    state.padding = {};
    state.together = tokens;
    auto const call = route_by<Policy>(d.config, state, steps, d.bias);
    state.together = 0;
    auto const tail = route_by<Policy>(d.config, state, last, d.bias);
    for (std::int64_t t = 0; t < steps.rows; ++t) CHECK(call.of(t) == (t < 2 * tokens ? alone.of(t % tokens) : tail.of(t - 2 * tokens)));
  });
}

TEST_CASE_TEMPLATE("no tokens, one expert, as many slots as experts, everybody's same choice, prices beyond all gains", Policy, MOESAIC_ORDER_FREE, routing::marginal<>) {
  auto d = draw(first_seed, softmax_first, 18, 5);
  d.logits = matrix<double>(0, 5);
  CHECK(route_by<Policy>(d.config, busy<Policy>(d), d.logits).all().empty());

  auto one = draw(first_seed, {.top_k = 1, .renormalize = true}, 9, 1);
  auto state = busy<Policy>(one);
  if constexpr (requires { state.read; }) state.read = 0.01f;
  for (auto const& ids : route_by<Policy>(one.config, state, one.logits).all()) CHECK(ids == std::vector<int>{0});

  auto full = draw(first_seed, {.top_k = 6, .renormalize = true}, 9, 6);
  for (auto const& ids : route_by<Policy>(full.config, busy<Policy>(full), full.logits).all()) CHECK((!ids.empty() && ids.size() <= 6));

  auto same = draw(first_seed, softmax_first, 9, 7);
  for (std::int64_t t = 0; t < same.logits.rows; ++t)
    for (int e = 0; e < 7; ++e) same.logits(t, e) = e == 4 ? 30.0 : 0.0;
  for (auto const& ids : route_by<Policy>(same.config, busy<Policy>(same), same.logits).all()) CHECK((!ids.empty() && ids[0] == 4));

  if constexpr (!std::is_same_v<Policy, routing::two_prices<>>) {
    auto high = busy<Policy>(same);
    if constexpr (requires { high.price; }) high.price = std::numeric_limits<float>::infinity();
    if constexpr (requires { high.read; }) high.read = std::numeric_limits<float>::infinity();
    if constexpr (requires { high.experts; }) high.experts = 0;
    if constexpr (requires { high.own; }) high.own = 0;
    for_drawn(5, [&](drawn const& any) {
      for (auto const& ids : route_by<Policy>(any.config, high, any.logits, any.bias).all()) CHECK(!ids.empty());
    });
  }
}

TEST_CASE("equal runs of experts live on ranks") {
  routing::expert_ranks const three{3, {}};
  std::vector<int> ranks;
  for (int e = 0; e < 6; ++e) ranks.push_back(three.rank(e, 6));
  CHECK(ranks == std::vector<int>{0, 0, 1, 1, 2, 2});
}

TEST_CASE("lists of a state have an entry an expert") {
  std::vector<float> const short_list(3, 1.0f);
  auto const state = set<routing::elimination<>::state>([&](auto& s) { s.cost = short_list; });
  auto const done = routing::elimination<>::fits({.experts = 8, .top_k = 2}, state, 4);
  CHECK(done.code == status_code::invalid_argument);
  CHECK(done.expected == 8);
  CHECK(done.found == 3);
}
