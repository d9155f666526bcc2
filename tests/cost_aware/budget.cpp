// Keepers of a budget: prices that settle where a bisection finds them, hard budgets against all subsets, variable k by worth.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/route/budget.hpp>
#include <support/tolerance.hpp>

#include "routed.hpp"

using namespace moesaic;
using namespace moesaic::test;
using routing::cost_aware, routing::knapsack, routing::null_expert, routing::standard, routing::top_p_of_choice;

namespace {

constexpr std::uint64_t first_seed = 42'000;

using by_logit = cost_aware<costs::table, standard, priced::logit>;

// Sixteen experts of cost 1, 2, 3, 4 in turns, two a token, logits of variance 1: the plain router spends 5 a token.
struct simulation {
  static constexpr double spread = 1.53;                       // √(2 · 5/4 · 14/15), of a token's cost
  router_config config{.top_k = 2, .renormalize = true};
  std::vector<float> cost;
  std::int64_t tokens;
  random_stream random;

  simulation(std::uint64_t seed, std::int64_t tokens_) : tokens(tokens_), random(seed) {
    for (int e = 0; e < 16; ++e) cost.push_back(static_cast<float>(1 + e % 4));
  }
  matrix<float> step() { return random_matrix<float>(tokens, 16, random); }
  double mean_cost(matrix<float> const& logits, double price) const {
    by_logit::state s;
    s.cost = costs::table::of_experts(cost);
    s.price = static_cast<float>(price);
    return chosen_cost<costs::table>(s.cost, route_all<by_logit>(config, logits, s).ids.view()) / static_cast<double>(logits.rows);
  }
};

}  // namespace

TEST_CASE("a mean budget of 3.5 where the plain router spends 5: the price settles, in the windows of a simulation by other means") {
  struct expected {
    double step;
    int settled;                                               // steps until the cost is about 3.5
  };
  for (auto const want : {expected{.05, 20}, expected{.2, 5}})
    for (std::uint64_t seed = first_seed; seed < first_seed + 2; ++seed) {
      CAPTURE(want.step);
      CAPTURE(seed);
      simulation run(seed, 4096);
      CHECK(std::abs(run.mean_cost(run.step(), 0) - 5) <= mean_tolerance(run.spread, 4096));
      mean_budget keeper{.target = 3.5, .step = want.step};
      double late = 0, price = 0;
      int const steps = want.settled + 40;
      for (int i = 0; i < steps; ++i) {
        auto const mean = run.mean_cost(run.step(), keeper.price);
        if (i == want.settled) CHECK(std::abs(mean - 3.53) <= mean_tolerance(run.spread, 4096));
        if (i >= steps - 20) late += mean / 20, price += keeper.price / 20;
        auto const kept = keeper.observe(mean, cheapest_cost<float>({run.cost.data(), 1, 16, 0}, 2));
        CHECK(static_cast<bool>(kept));
      }
      auto const noise = mean_tolerance(run.spread, 20 * 4096);
      CHECK(std::abs(late - 3.5) <= noise);
      CHECK(std::abs(price - .411) <= noise / 2);              // the cost falls by more than 2 a unit of price
    }
}

TEST_CASE("the price that a dual iteration finds is the one that bisection finds") {
  for (std::uint64_t seed = first_seed; seed < first_seed + 2; ++seed) {
    CAPTURE(seed);
    simulation run(seed, 2048);
    auto const logits = run.step();                            // the same tokens in every step: no noise
    auto const least = cheapest_cost<float>({run.cost.data(), 1, 16, 0}, 2);
    CHECK(least == 2);
    double last = 1e300;
    for (double const price : {0.0, .1, .2, .5, 1.0, 2.0, 8.0}) {
      auto const mean = run.mean_cost(logits, price);
      CHECK(mean <= last);
      last = mean;
    }
    for (double const target : {2.4, 3.0, 3.5, 4.5}) {
      CAPTURE(target);
      auto const exact = price_for_budget([&](double price) { return run.mean_cost(logits, price); }, target, 64);
      CHECK(run.mean_cost(logits, exact) <= target);
      CHECK(run.mean_cost(logits, exact * (1 - 1e-5)) >= target);
      for (double const proportional : {0.0, .05}) {
        mean_budget keeper{.target = target, .step = .1, .proportional = proportional};
        double mean = 0, price = 0;
        for (int i = 0; i < 160; ++i) {
          auto const now = run.mean_cost(logits, keeper.price);
          if (i >= 120) mean += now / 40, price += keeper.price / 40;
          CHECK(static_cast<bool>(keeper.observe(now, least)));
        }
        CHECK(std::abs(mean - target) <= tread_tolerance(run.tokens) / (keeper.step * 40));   // Σ step · excess is how far the dual went
        CHECK(std::abs(price - exact) <= tread_tolerance(run.tokens));
      }
    }
  }
}

TEST_CASE("a budget above the plain router's cost brings the price to 0") {
  simulation run(first_seed, 512);
  auto const logits = run.step();
  mean_budget keeper{.target = 5.5, .step = .2, .dual = 1, .price = 1};
  for (int i = 0; i < 60; ++i) CHECK(static_cast<bool>(keeper.observe(run.mean_cost(logits, keeper.price))));
  CHECK(keeper.price == 0);
  CHECK(price_for_budget([&](double price) { return run.mean_cost(logits, price); }, 5.5, 64) == 0);
}

TEST_CASE("a budget that nothing meets is reported, and the price is the highest there is") {
  simulation run(first_seed, 512);
  auto const logits = run.step();
  SUBCASE("known from the start") {
    mean_budget keeper{.target = 1.5, .most = 16};
    auto const told = keeper.observe(run.mean_cost(logits, 0), cheapest_cost<float>({run.cost.data(), 1, 16, 0}, 2));
    CHECK_FALSE(static_cast<bool>(told));
    CHECK(told.expected == 2000);
    CHECK(told.found == 1500);
    CHECK(keeper.price == 16);
    CHECK(run.mean_cost(logits, keeper.price) == 2);
  }
  SUBCASE("found out when the price can rise no more") {
    mean_budget keeper{.target = 1.5, .step = 1, .most = 16};
    int silent = 0;
    status told;
    while ((told = keeper.observe(run.mean_cost(logits, keeper.price))) && silent < 100) ++silent;
    CHECK(silent > 5);
    CHECK(silent < 100);
    CHECK(keeper.price == 16);
    keeper.target = 4, keeper.step = .1;                       // and it recovers, by 0.2 a call
    double price = 0;
    for (int i = 0; i < 160; ++i) {
      CHECK(static_cast<bool>(keeper.observe(run.mean_cost(logits, keeper.price))));
      if (i >= 120) price += keeper.price / 40;
    }
    auto const exact = price_for_budget([&](double at) { return run.mean_cost(logits, at); }, 4, 64);
    CHECK(std::abs(price - exact) <= tread_tolerance(run.tokens));
  }
  SUBCASE("a mean that is no number") {
    mean_budget keeper{.target = 3, .dual = .5, .price = .5};
    CHECK_FALSE(static_cast<bool>(keeper.observe(static_cast<double>(not_a_number<float>))));
    CHECK(keeper.price == .5);
  }
  SUBCASE("bisection answers the highest price") {
    CHECK(price_for_budget([&](double price) { return run.mean_cost(logits, price); }, 1.5, 64) == 64);
  }
}

TEST_CASE("a keeper is a constant expression") {
  constexpr auto price = [] {
    mean_budget keeper{.target = 1, .step = .5};
    for (double const mean : {3.0, 2.0, 1.0, .5})
      if (!keeper.observe(mean)) return -1.0;
    return keeper.price;
  }();
  static_assert(price == 1.25);
  static_assert(fixed_price{.5}.price == .5);
}

TEST_CASE("the cheapest of each token, or of all") {
  auto const costs = given<float>(2, 3, {3, 1, 2, 0, 0, 5});
  CHECK(cheapest_cost(costs.view(), 2) == (3.0 + 0) / 2);
  CHECK(cheapest_cost(costs.view(), 9) == (6.0 + 5) / 2);
  CHECK(cheapest_cost(view<const float>{}, 2) == 0);
}

// ---- hard budgets

namespace {

using bounded = knapsack<costs::table>;

bounded::state bounded_by(float budget, view<const float> cost) {
  bounded::state s;
  s.charge.microseconds = cost;
  s.budget = budget;
  return s;
}

}  // namespace

TEST_CASE("a hard budget: the plain list if it fits, else the best of all lists that do") {
  int changed = 0, emptied = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + 40; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = 1 + static_cast<int>(random.below(12));
    int const k = 1 + static_cast<int>(random.below(std::min(experts, 5)));
    auto const logits = convert<double>(random_matrix<float>(12, experts, random));
    auto const cost = exact_costs(12, experts, random);
    router_config const c{.top_k = k, .score = seed % 2 == 0 ? score::sigmoid : score::softmax, .renormalize = true};
    auto const plain = route_all<standard>(c, logits);
    for (float const budget : {0.0f, 0.5f, 2.0f, 4.0f, 8.0f}) {
      CAPTURE(budget);
      auto const routed = route_all<bounded>(c, logits, bounded_by(budget, cost.view()));
      for (std::int64_t t = 0; t < 12; ++t) {
        auto const spent = [&](std::vector<int> const& set) {
          double sum = 0;
          for (int const e : set) sum += static_cast<double>(cost(t, e));
          return sum;
        };
        auto const worth = [&](std::vector<int> const& set) {
          double sum = 0;
          for (int const e : set) sum += plain.scores(t, e);
          return sum;
        };
        auto const set = routed.set(t);
        CHECK(spent(set) <= static_cast<double>(budget));
        if (spent(plain.set(t)) <= static_cast<double>(budget)) {
          CHECK(routed.same(plain, t));
          continue;
        }
        ++changed;
        double best = 0;
        for_each_subset(experts, 1, k, [&](std::vector<int> const& s) {
          if (spent(s) <= static_cast<double>(budget)) best = std::max(best, worth(s));
        });
        CHECK(std::abs(worth(set) - best) <= sum_tolerance<double>(k));
        CHECK(static_cast<std::size_t>(routed.count[static_cast<std::size_t>(t)]) == set.size());
        double total = 0;
        for (int i = 0; i < k; ++i) total += routed.weights(t, i);
        CHECK(std::abs(total - (set.empty() ? 0 : 1)) <= sum_tolerance<double>(k));
        emptied += set.empty();
      }
    }
  }
  CHECK(changed > 500);
  CHECK(emptied > 10);
}

TEST_CASE("a hard budget over many experts: within it, and near the best that a bound allows") {
  double retained = 0;
  int lists = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + 10; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const logits = convert<double>(random_matrix<float>(16, 64, random));
    auto const cost = exact_costs(16, 64, random);
    router_config const c{.top_k = 6, .score = score::sigmoid, .renormalize = true};
    for (float const budget : {1.0f, 4.0f, 8.0f}) {
      auto const routed = route_all<bounded>(c, logits, bounded_by(budget, cost.view()));
      auto const plain = route_all<standard>(c, logits);
      for (std::int64_t t = 0; t < 16; ++t) {
        double spent = 0, worth = 0;
        for (int const e : routed.set(t)) spent += static_cast<double>(cost(t, e)), worth += plain.scores(t, e);
        CHECK(spent <= static_cast<double>(budget));
        // Any multiplier λ bounds the optimum from above: λ C + the k largest of max(0, a − λ c).
        double bound = 1e300;
        for (double lambda = 0; lambda < 2; lambda += .02) {
          std::vector<double> u;
          for (int e = 0; e < 64; ++e) u.push_back(std::max(0.0, plain.scores(t, e) - lambda * static_cast<double>(cost(t, e))));
          std::sort(u.rbegin(), u.rend());
          double sum = lambda * static_cast<double>(budget);
          for (std::size_t i = 0; i < 6; ++i) sum += u[i];
          bound = std::min(bound, sum);
        }
        CHECK(worth <= bound * (1 + 1e-9));
        CHECK(worth >= .5 * bound);
        retained += worth / bound;
        ++lists;
      }
    }
  }
  MESSAGE("greedy lists keep ", retained / lists, " of the bound, in the mean of ", lists);
  CHECK(retained / lists > .9);
}

TEST_CASE("hard budgets that are odd") {
  auto const logits = given<double>(1, 3, {2, 1, 0});
  auto const set = [&](float budget, std::vector<float> const& cost) {
    return route_all<bounded>({.top_k = 2, .renormalize = true}, logits, bounded_by(budget, {cost.data(), 1, 3, 0})).set(0);
  };
  using ids = std::vector<int>;
  CHECK(set(infinity<float>, {infinity<float>, 1, 1}) == ids{0, 1});   // no budget at all
  CHECK(set(4, {infinity<float>, 1, 1}) == ids{1, 2});          // who costs infinitely fits nothing
  CHECK(set(4, {not_a_number<float>, 1, 1}) == ids{1, 2});      // nor who costs no number
  CHECK(set(not_a_number<float>, {1, 1, 1}).empty());
  CHECK(set(-1, {1, 1, 1}).empty());
  CHECK(set(0, {1, 1, 1}).empty());
  CHECK(set(0, {1, 0, 1}) == ids{1});
  CHECK(set(1, {3, 1, -2}) == ids{0, 2});                      // a subsidy pays for another
  CHECK(route_all<bounded>({.top_k = 1}, matrix<double>(0, 3), bounded_by(1, {})).count.empty());
}

TEST_CASE("by worth per charge, an expert worth nothing that costs nothing stands in nobody's way") {
  router_config const c{.top_k = 3, .score = score::relu};
  std::vector<float> z(20, -1.0f), cost(20, 1.0f);
  z[1] = 1.1f, z[2] = z[3] = z[4] = 1;
  cost[0] = 0, cost[1] = 3;
  auto const r = route_all<bounded>(c, given<float>(1, 20, z), bounded_by(3, {cost.data(), 1, 20, 0}));
  CHECK(r.set(0) == std::vector<int>{2, 3, 4});
}

TEST_CASE("a hard budget over a price: what the price leaves, within the budget") {
  using both = knapsack<costs::table, by_logit>;
  random_stream random(first_seed);
  auto const logits = convert<double>(random_matrix<float>(24, 10, random));
  auto const cost = exact_costs(24, 10, random);
  both::state s;
  static_cast<by_logit::state&>(s).cost.microseconds = cost.view();
  s.price = .25f;
  s.charge.microseconds = cost.view();
  router_config const c{.top_k = 3, .renormalize = true};
  CHECK(route_all<both>(c, logits, s).same(route_all<by_logit>(c, logits, static_cast<by_logit::state const&>(s))));
  s.budget = 3;
  auto const routed = route_all<both>(c, logits, s);
  for (std::int64_t t = 0; t < 24; ++t) {
    double spent = 0;
    for (int const e : routed.set(t)) spent += static_cast<double>(cost(t, e));
    CHECK(spent <= 3);
  }
}

// ---- variable k

TEST_CASE("who is not worth its price stays out, by a null expert") {
  using worthwhile = null_expert<by_logit>;
  random_stream random(first_seed);
  auto const logits = convert<double>(random_matrix<float>(32, 9, random));
  auto const cost = exact_costs(32, 9, random);
  worthwhile::state s;
  s.cost.microseconds = cost.view();
  s.price = .25f;
  router_config const c{.top_k = 4, .renormalize = true};
  CHECK(route_all<worthwhile>(c, logits, s).same(route_all<by_logit>(c, logits, s)));
  s.null_choice = 0;
  auto const routed = route_all<worthwhile>(c, logits, s);
  int counts[5] = {};
  for (std::int64_t t = 0; t < 32; ++t) {
    std::vector<std::pair<double, int>> above;                 // (−u, expert)
    for (int e = 0; e < 9; ++e)
      if (auto const u = logits(t, e) - .25 * static_cast<double>(cost(t, e)); u > 0) above.push_back({-u, e});
    std::sort(above.begin(), above.end());
    std::vector<int> want;
    for (std::size_t i = 0; i < above.size() && i < 4; ++i) want.push_back(above[i].second);
    std::sort(want.begin(), want.end());
    CHECK(routed.set(t) == want);
    ++counts[want.size()];
  }
  CHECK(counts[4] > 0);
  CHECK(counts[0] + counts[1] + counts[2] > 0);
  s.null_choice = 100;
  CHECK(route_all<worthwhile>(c, logits, s).count == std::vector<std::int32_t>(32, 0));
}

TEST_CASE("top-p of the penalised distribution") {
  using nucleus = top_p_of_choice<by_logit>;
  random_stream random(first_seed);
  auto const logits = convert<double>(random_matrix<float>(32, 9, random));
  auto const cost = exact_costs(32, 9, random);
  nucleus::state s;
  s.cost.microseconds = cost.view();
  s.price = .5f;
  router_config const c{.top_k = 9, .renormalize = true};
  CHECK(route_all<nucleus>(c, logits, s).same(route_all<by_logit>(c, logits, s)));
  for (float const share : {0.0f, .3f, .7f, .95f}) {
    CAPTURE(share);
    s.share = share;
    auto const routed = route_all<nucleus>(c, logits, s);
    for (std::int64_t t = 0; t < 32; ++t) {
      std::vector<std::pair<double, int>> p;
      double sum = 0, held = 0;
      for (int e = 0; e < 9; ++e) p.push_back({-std::exp(logits(t, e) - .5 * static_cast<double>(cost(t, e))), e}), sum -= p.back().first;
      std::sort(p.begin(), p.end());
      std::vector<int> want;
      for (auto const& [minus, e] : p) {
        want.push_back(e);
        if ((held -= minus) >= static_cast<double>(share) * sum) break;
      }
      std::sort(want.begin(), want.end());
      CHECK(routed.set(t) == want);
    }
  }
}
