// Choice by score less price: the published golden numbers, the invariants against all subsets, every source of cost, and what is broken.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/cost/flops.hpp>
#include <moesaic/route/allowed.hpp>
#include <moesaic/route/budget.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/hash.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/replay.hpp>
#include <moesaic/route/sparse_mixer.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/variable_k.hpp>
#include <support/tolerance.hpp>

#include "routed.hpp"

using namespace moesaic;
using namespace moesaic::test;
using routing::cost_aware, routing::null_expert, routing::standard;

namespace {

constexpr std::uint64_t first_seed = 41'000;

using by_score = cost_aware<costs::table>;
using by_logit = cost_aware<costs::table, standard, priced::logit>;

template <class Policy>
typename Policy::state priced_at(float price, costs::table::state cost, int protect = 0) {
  typename Policy::state s;
  s.cost = cost;
  s.price = price;
  s.protect = protect;
  return s;
}
costs::table::state rows_of(matrix<float> const& m) { return {m.view()}; }

double sum_of(std::vector<int> const& set, auto const& value) {
  double sum = 0;
  for (int const e : set) sum += static_cast<double>(value(e));
  return sum;
}

// Rules of published families, of 12 experts.
struct rule {
  char const* name;
  router_config config;
  bool biased;
};
constexpr rule families[] = {
    {"softmax, renormalised", {.top_k = 3, .renormalize = true}, false},
    {"softmax as it is", {.top_k = 2}, false},
    {"softmax after top-k", {.top_k = 4, .position = score_position::after_top_k}, false},
    {"sigmoid, renormalised and scaled", {.top_k = 4, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5}, false},
    {"sigmoid with a bias", {.top_k = 4, .score = score::sigmoid, .renormalize = true, .score_bias = true}, true},
    {"sigmoid with a bias, 2 groups of 4",
     {.top_k = 4, .score = score::sigmoid, .groups = 4, .top_groups = 2, .renormalize = true, .score_bias = true},
     true},
    {"one expert a token", {.top_k = 1}, false},
    {"all experts", {.top_k = 12, .renormalize = true}, false},
};
constexpr int experts = 12;
constexpr std::int64_t tokens = 24;

/// f(rule, logits, costs [tokens, experts], bias) for every rule and some seeds, which a failure prints.
template <class F>
void for_each_case(F&& f) {
  for (auto const& r : families)
    for (std::uint64_t seed = first_seed; seed < first_seed + 6; ++seed) {
      CAPTURE(r.name);
      CAPTURE(seed);
      random_stream random(seed);
      auto const logits = convert<double>(random_matrix<float>(tokens, experts, random));
      auto const cost = exact_costs(tokens, experts, random);
      std::vector<float> bias;
      if (r.biased)
        for (int e = 0; e < experts; ++e) bias.push_back(0.2f * random.normal());
      f(r, logits, cost, bias);
    }
}
constexpr float prices[] = {0x1p-6f, 0x1p-4f, 0x1p-2f, 1.0f, 8.0f};

}  // namespace

TEST_CASE("golden numbers: raw logits of eight experts at prices from 0 to 2") {
  auto const logits = given<double>(1, 8, {1.0, -0.5, 2.0, 0.3, 0.3, -1.2, 0.9, 1.6});
  std::vector<float> const cost{1, 1, 4, 1, 2, 1, 2, 3};
  struct expected {
    float price;
    std::vector<int> set;
    double cost;
    std::vector<double> weights;   // of the set in ascending order
  };
  std::vector<expected> const all{{0, {2, 7}, 7, {.598688, .401312}},
                                  {.1f, {2, 7}, 7, {.598688, .401312}},
                                  {.2f, {2, 7}, 7, {.598688, .401312}},
                                  {.5f, {0, 7}, 4, {.354344, .645656}},
                                  {2, {0, 3}, 2, {.668188, .331812}}};
  auto const check = [&]<class Policy>(router_config c) {
    for (auto const& want : all) {
      CAPTURE(want.price);
      auto const r = route_all<Policy>(c, logits, priced_at<Policy>(want.price, costs::table::of_experts(cost)));
      CHECK(r.set(0) == want.set);
      CHECK(chosen_cost<costs::table>(costs::table::of_experts(cost), r.ids.view()) == want.cost);
      for (int i = 0; i < 2; ++i) {
        auto const place = std::find(want.set.begin(), want.set.end(), r.ids(0, i)) - want.set.begin();
        CHECK(std::abs(r.weights(0, i) - want.weights[static_cast<std::size_t>(place)]) < 1e-6);
      }
    }
  };
  SUBCASE("softmax after top-k: scores are logits") { check.operator()<by_score>({.top_k = 2, .position = score_position::after_top_k}); }
  SUBCASE("softmax before top-k, the price off the logits") { check.operator()<by_logit>({.top_k = 2, .renormalize = true}); }
}

TEST_CASE("a price of 0, or a range of 0, is the base bit for bit and reads no cost") {
  for_each_case([](rule const& r, auto const& logits, auto const&, auto const& bias) {
    auto const base = route_all<standard>(r.config, logits, {}, bias);
    CHECK(base.same(route_all<by_score>(r.config, logits, {}, bias)));          // a table of no costs at all
    CHECK(base.same(route_all<by_logit>(r.config, logits, {}, bias)));
    auto ranged = priced_at<by_score>(1, {}, 2);
    ranged.range = 0;
    CHECK(base.same(route_all<by_score>(r.config, logits, ranged, bias)));
    std::vector<float> const broken(experts, not_a_number<float>);
    CHECK(base.same(route_all<by_score>(r.config, logits, priced_at<by_score>(0, costs::table::of_experts(broken), 3), bias)));
  });
}

TEST_CASE("equal costs choose as none do; a constant, or a factor in exchange with the price, changes nothing") {
  for_each_case([](rule const& r, auto const& logits, auto const& cost, auto const& bias) {
    std::vector<float> const same(experts, 2.0f);
    auto shifted = cost, scaled = cost;
    for (auto& c : shifted.data) c += 3;
    for (auto& c : scaled.data) c *= 4;
    // After top-k and without a bias, u is exact in fp64, so ties are ties.
    auto config = r.config;
    if (config.position != score_position::after_top_k && !r.biased) config.score = score::identity, config.renormalize = false;
    auto const exact = route_all<standard>(config, logits, {}, bias);
    for (float const price : prices) {
      CAPTURE(price);
      if (!r.biased) CHECK(exact.same(route_all<by_score>(config, logits, priced_at<by_score>(price, costs::table::of_experts(same)), bias)));
      auto const priced = route_all<by_score>(config, logits, priced_at<by_score>(price, rows_of(cost)), bias);
      auto const moved = route_all<by_score>(config, logits, priced_at<by_score>(price, rows_of(shifted)), bias);
      auto const other = route_all<by_score>(config, logits, priced_at<by_score>(price / 4, rows_of(scaled)), bias);
      CHECK(priced.same(other));
      if (config.groups == 1)
        for (std::int64_t t = 0; t < tokens; ++t) CHECK(priced.set(t) == moved.set(t));
    }
  });
}

TEST_CASE("the choice is the best of all subsets, with protected experts inside; weights are those of the plain scores over the chosen") {
  for_each_case([](rule const& r, auto const& logits, auto const& cost, auto const& bias) {
    if (r.config.groups > 1) return;                           // groups are chosen first, see below
    for (float const price : prices)
      for (int const protect : {0, 1, 2}) {
        CAPTURE(price);
        CAPTURE(protect);
        auto const routed = route_all<by_score>(r.config, logits, priced_at<by_score>(price, rows_of(cost), protect), bias);
        auto const plain = route_all<standard>(r.config, logits, {}, bias);
        CHECK(same_bits(routed.scores.view(), plain.scores.view()));
        auto const k = r.config.top_k;
        for (std::int64_t t = 0; t < 8; ++t) {
          std::vector<int> best(experts);                      // by plain score
          std::iota(best.begin(), best.end(), 0);
          std::stable_sort(best.begin(), best.end(), [&](int a, int b) { return plain.scores(t, a) > plain.scores(t, b); });
          auto const u = [&](int e) {
            return plain.scores(t, e) + (bias.empty() ? 0 : static_cast<double>(bias[static_cast<std::size_t>(e)])) -
                   static_cast<double>(price) * static_cast<double>(cost(t, e));
          };
          double largest = -1e300;
          for_each_subset(experts, k, k, [&](std::vector<int> const& set) {
            for (int j = 0; j < protect && j < k; ++j)
              if (std::find(set.begin(), set.end(), best[static_cast<std::size_t>(j)]) == set.end()) return;
            largest = std::max(largest, sum_of(set, u));
          });
          auto const set = routed.set(t);
          REQUIRE(static_cast<int>(set.size()) == k);
          CHECK(std::abs(sum_of(set, u) - largest) <= sum_tolerance<double>(3 * k) * (1 + std::abs(largest)));
          for (int j = 0; j < protect && j < k; ++j) CHECK(std::find(set.begin(), set.end(), best[static_cast<std::size_t>(j)]) != set.end());

          double total = 0;
          for (int i = 0; i < k; ++i) total += routed.weights(t, i);
          double share = 0;
          for (int const e : set)
            share += r.config.position == score_position::after_top_k ? std::exp(logits(t, e)) : plain.scores(t, e);
          bool const whole = r.config.renormalize || r.config.position == score_position::after_top_k;
          CHECK(std::abs(total - (whole ? r.config.routed_scale : share)) <= sum_tolerance<double>(4 * experts) * 3);
          for (int i = 0; i < k; ++i) {
            auto const e = routed.ids(t, i);
            auto const own = r.config.position == score_position::after_top_k ? std::exp(logits(t, e)) : plain.scores(t, e);
            CHECK(std::abs(routed.weights(t, i) - own * (whole ? r.config.routed_scale / share : 1)) <= sum_tolerance<double>(4 * experts) * 3);
          }
        }
      }
  });
}

TEST_CASE("a higher price never buys dearer experts, and never better ones; token by token") {
  for_each_case([](rule const& r, auto const& logits, auto const& cost, auto const& bias) {
    if (r.config.groups > 1) return;
    std::vector<double> last_cost(tokens, 1e300), last_worth(tokens, 1e300);
    for (float const price : {0.0f, 0x1p-6f, 0x1p-5f, 0x1p-4f, 0x1p-3f, 0x1p-2f, 0x1p-1f, 1.0f, 8.0f}) {
      CAPTURE(price);
      auto const routed = route_all<by_score>(r.config, logits, priced_at<by_score>(price, rows_of(cost)), bias);
      for (std::int64_t t = 0; t < tokens; ++t) {
        auto const set = routed.set(t);
        auto const spent = sum_of(set, [&](int e) { return cost(t, e); });
        auto const worth = sum_of(set, [&](int e) {
          return routed.scores(t, e) + (bias.empty() ? 0 : static_cast<double>(bias[static_cast<std::size_t>(e)]));
        });
        auto& had = last_cost[static_cast<std::size_t>(t)];
        auto& was = last_worth[static_cast<std::size_t>(t)];
        CHECK(spent <= had);
        CHECK(worth <= was + sum_tolerance<double>(experts));
        had = spent, was = worth;
      }
    }
  });
}

TEST_CASE("an unchanged choice has unchanged bits: order and weights do not know the price") {
  int unchanged = 0;
  for_each_case([&](rule const& r, auto const& logits, auto const& cost, auto const& bias) {
    auto const base = route_all<standard>(r.config, logits, {}, bias);
    for (float const price : prices) {
      CAPTURE(price);
      auto const check = [&](auto const& routed) {
        for (std::int64_t t = 0; t < tokens; ++t)
          if (routed.set(t) == base.set(t)) {
            ++unchanged;
            CHECK(routed.same(base, t));
          }
      };
      check(route_all<by_score>(r.config, logits, priced_at<by_score>(price, rows_of(cost)), bias));
      check(route_all<by_score>(r.config, logits, priced_at<by_score>(price, rows_of(cost), 2), bias));
      if (!r.biased) check(route_all<by_logit>(r.config, logits, priced_at<by_logit>(price, rows_of(cost)), bias));
    }
  });
  CHECK(unchanged > 1000);                                     // or it proved nothing
}

TEST_CASE("at a price above all, the cheapest; of equal costs the better ones") {
  for_each_case([](rule const& r, auto const& logits, auto const&, auto const& bias) {
    if (r.config.groups > 1 || r.biased) return;
    std::vector<float> cost(experts);
    for (std::size_t e = 0; e < cost.size(); ++e) cost[e] = static_cast<float>(e % 3);
    auto const routed = route_all<by_score>(r.config, logits, priced_at<by_score>(1024, costs::table::of_experts(cost)), bias);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<int> order(experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return a % 3 != b % 3 ? a % 3 < b % 3 : routed.scores(t, a) > routed.scores(t, b);
      });
      order.resize(static_cast<std::size_t>(r.config.top_k));
      std::sort(order.begin(), order.end());
      CHECK(routed.set(t) == order);
    }
  });
}

TEST_CASE("groups are chosen by what is left of the price, and protection stays within them") {
  auto const& r = families[5];
  REQUIRE(r.config.groups == 4);
  for (std::uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const logits = convert<double>(random_matrix<float>(tokens, experts, random));
    auto const cost = exact_costs(tokens, experts, random);
    auto const routed = route_all<by_score>(r.config, logits, priced_at<by_score>(0x1p-3f, rows_of(cost), 2), std::vector<float>(experts, 0.0f));
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const u = [&](int e) { return routed.scores(t, e) - 0x1p-3 * static_cast<double>(cost(t, e)); };
      double largest = -1e300;                                 // of all pairs of groups
      std::vector<int> groups;
      for_each_subset(4, 2, 2, [&](std::vector<int> const& pair) {
        double sum = 0;
        for (int const g : pair) {
          double const a = u(3 * g), b = u(3 * g + 1), c = u(3 * g + 2);
          sum += a + b + c - std::min({a, b, c});
        }
        if (sum > largest) largest = sum, groups = pair;
      });
      std::vector<int> inside;
      for (int e = 0; e < experts; ++e)
        if (e / 3 == groups[0] || e / 3 == groups[1]) inside.push_back(e);
      for (int const e : routed.set(t)) CHECK(std::find(inside.begin(), inside.end(), e) != inside.end());
      std::sort(inside.begin(), inside.end(), [&](int a, int b) { return routed.scores(t, a) > routed.scores(t, b); });
      auto const set = routed.set(t);
      for (std::size_t j = 0; j < 2; ++j) CHECK(std::find(set.begin(), set.end(), inside[j]) != set.end());
    }
  }
}

TEST_CASE("a token's experts do not depend on its neighbours") {
  for_each_case([](rule const& r, auto const& logits, auto const& cost, auto const& bias) {
    auto const whole = route_all<by_logit>(r.config, logits, priced_at<by_logit>(0x1p-2f, rows_of(cost), 1), bias);
    auto turned = logits;
    auto turned_cost = cost;
    for (std::int64_t t = 0; t < tokens; ++t)
      for (int e = 0; e < experts; ++e) turned(t, e) = logits(tokens - 1 - t, e), turned_cost(t, e) = cost(tokens - 1 - t, e);
    auto const back = route_all<by_logit>(r.config, turned, priced_at<by_logit>(0x1p-2f, rows_of(turned_cost), 1), bias);
    for (std::int64_t t = 0; t < tokens; ++t) {
      CHECK(whole.set(t) == back.set(tokens - 1 - t));
      matrix<double> alone(1, experts);
      for (int e = 0; e < experts; ++e) alone(0, e) = logits(t, e);
      auto const one = route_all<by_logit>(r.config, alone, priced_at<by_logit>(0x1p-2f, {{cost.view().row(t), 1, experts}}, 1), bias);
      CHECK(one.set(0) == whole.set(t));
      for (int i = 0; i < r.config.top_k; ++i) CHECK(one.weights(0, i) == whole.weights(t, i));
    }
  });
}

TEST_CASE("the range of logits scales the price, by the mean of what was seen") {
  routing::running_range range;
  auto const logits = given<float>(4, 3, {0, 1, 4, -2, 0, 0, -infinity<float>, 5, 6, not_a_number<float>, 0, 1});
  range.observe(logits.view());
  CHECK(range.tokens == 3);                                    // NaN is not a token; −inf is a mask
  CHECK(range.mean == doctest::Approx((4.0 + 2 + 1) / 3));
  random_stream random(first_seed);
  auto const z = convert<double>(random_matrix<float>(tokens, experts, random));
  auto const cost = exact_costs(tokens, experts, random);
  auto ranged = priced_at<by_logit>(0x1p-3f, rows_of(cost));
  ranged.range = 4;
  CHECK(route_all<by_logit>({.top_k = 3}, z, ranged).same(route_all<by_logit>({.top_k = 3}, z, priced_at<by_logit>(0x1p-1f, rows_of(cost)))));
}

TEST_CASE("a soft cap is on the logits that a price is taken off") {
  auto const logits = given<double>(1, 2, {30, 60});                 // capped at 10: 9.95 and 9.9999
  std::vector<float> const cost{0, 1};
  auto const set = [&](router_config c) { return route_all<by_logit>(c, logits, priced_at<by_logit>(1, costs::table::of_experts(cost))).set(0); };
  CHECK(set({.top_k = 1}) == std::vector<int>{1});
  CHECK(set({.top_k = 1, .logit_softcap = 10}) == std::vector<int>{0});
}

// ---- sources

namespace {

struct hand_made {
  struct state {
    double factor = 0;
  };
  static double cost(state const& s, routing_site at) { return s.factor * (static_cast<double>(at.token) * 10 + at.expert); }
};
struct no_source {
  struct state {};
};

template <class Source>
double cost_of(typename Source::state const& s, std::int64_t token, std::int32_t expert) {
  return cost_at<Source, double>(s, {token, expert});
}

}  // namespace

TEST_CASE("what each source charges, by hand") {
  static_assert(cost_source<hand_made> && cost_source<costs::table> && cost_source<costs::sum<costs::flops, costs::energy>>);
  static_assert(!cost_source<no_source>);
  std::vector<float> const work{6e6f, 3e6f, 0.0f}, bytes{2e6f, 1e6f, 0.0f};
  CHECK(cost_of<costs::flops>({work, us_per_flop(2)}, 0, 0) == doctest::Approx(3));           // 6 MFLOP at 2 TFLOP/s
  CHECK(cost_of<costs::flops>({work, us_per_flop(2)}, 0, 2) == 0);

  std::vector<tier> const where{tier::host, tier::disk, tier::device};
  costs::bytes::state const read{bytes, where, {0, us_per_byte(20), us_per_byte(2)}};
  CHECK(cost_of<costs::bytes>(read, 0, 0) == doctest::Approx(100));                           // 2 MB at 20 GB/s
  CHECK(cost_of<costs::bytes>(read, 0, 1) == doctest::Approx(500));                           // 1 MB at 2 GB/s
  CHECK(cost_of<costs::bytes>(read, 0, 2) == 0);

  std::vector<std::int32_t> const rank{0, 1, 1}, home{1, 0};
  costs::rank_distance::state sent{rank, {}, 0, 5, 14336, us_per_byte(50)};
  CHECK(cost_of<costs::rank_distance>(sent, 1, 0) == 0);
  CHECK(cost_of<costs::rank_distance>(sent, 1, 2) == doctest::Approx(5 + 14336 / 50e3));
  sent.rank_of_token = home;
  CHECK(cost_of<costs::rank_distance>(sent, 0, 2) == 0);
  CHECK(cost_of<costs::rank_distance>(sent, 0, 0) > 5);

  std::vector<float> const waiting{2, 10};
  costs::queue::state const line{rank, waiting, costs::queue::mean_of(waiting), 0.5f};
  CHECK(line.mean == 6);
  CHECK(cost_of<costs::queue>(line, 0, 0) == 0);                                              // shorter than the mean is free, not a gain
  CHECK(cost_of<costs::queue>(line, 0, 1) == 2);
  CHECK(costs::queue::mean_of({}) == 0);

  CHECK(cost_of<costs::energy>({work, bytes, 1e-6f, 3e-6f}, 0, 0) == doctest::Approx(6 + 6));

  using all = costs::sum<costs::bytes, costs::flops, costs::flops, hand_made>;
  all::state const both{{read, 0.5f}, {{work, us_per_flop(2)}, 1}, {{work, us_per_flop(1)}, 2}, {{1}, 1}};
  CHECK(cost_of<all>(both, 3, 0) == doctest::Approx(50 + 3 + 12 + 30));
  all::state const partly{{{}, 0}, {{}, 0}, {{work, us_per_flop(1)}, 2}, {{not_a_number<float>}, 0}};        // of weight 0 nothing is read
  CHECK(cost_of<all>(partly, 3, 0) == doctest::Approx(12));

  matrix<float> written(2, 3);
  write_table<all>(both, written.view(), 3);
  for (std::int64_t t = 0; t < 2; ++t)
    for (std::int32_t e = 0; e < 3; ++e) CHECK(written(t, e) == cost_at<all, float>(both, {3 + t, e}));
}

TEST_CASE("the FLOPs of an expert are those of the configuration") {
  constexpr block_config c{.hidden = 64, .attention = {.heads = 4}, .router = {.experts = 8, .top_k = 2}, .expert = {.intermediate = 32}};
  static_assert(flops(c, 1).experts / c.router.top_k == 6 * 64 * 32);
}

TEST_CASE("a sum of sources routes as its table") {
  using sources = costs::sum<costs::flops, costs::rank_distance>;
  using summed = cost_aware<sources>;
  random_stream random(first_seed);
  auto const logits = random_matrix<float>(tokens, experts, random);
  std::vector<float> work(experts);
  std::vector<std::int32_t> rank(experts), home(tokens);
  for (auto& w : work) w = static_cast<float>(1 + random.below(8)) * 1e6f;
  for (auto& r : rank) r = static_cast<std::int32_t>(random.below(4));
  for (auto& r : home) r = static_cast<std::int32_t>(random.below(4));
  summed::state s;
  s.cost = {{{work, us_per_flop(1)}, 1}, {{rank, home, 0, 2, 4096, us_per_byte(10)}, 0.5f}};
  s.price = 0.01f;
  matrix<float> table(tokens, experts);
  write_table<sources>(s.cost, table.view());
  auto const direct = route_all<summed>({.top_k = 3}, logits, s);
  CHECK(direct.same(route_all<by_score>({.top_k = 3}, logits, priced_at<by_score>(0.01f, rows_of(table)))));
  CHECK_FALSE(direct.same(route_all<standard>({.top_k = 3}, logits)));
  double by_hand = 0;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int const e : direct.set(t)) by_hand += static_cast<double>(table(t, e));
  CHECK(chosen_cost<costs::table>(rows_of(table), direct.ids.view()) == by_hand);
  CHECK(chosen_cost<sources>(s.cost, direct.ids.view()) == doctest::Approx(by_hand));
  auto const plain = route_all<standard>({.top_k = 3}, logits);
  auto const retained = chosen_score<float>(direct.scores.view(), direct.ids.view()) / chosen_score<float>(plain.scores.view(), plain.ids.view());
  CHECK(retained > 0.5);
  CHECK(retained < 1);
}

TEST_CASE("costs over costs: a cost-aware policy is a base like any other") {
  using two = cost_aware<hand_made, by_score>;
  random_stream random(first_seed);
  auto const logits = convert<double>(random_matrix<float>(tokens, experts, random));
  auto const cost = exact_costs(tokens, experts, random);
  two::state s;
  static_cast<by_score::state&>(s) = priced_at<by_score>(0x1p-4f, rows_of(cost));
  CHECK(route_all<two>({.top_k = 3}, logits, s).same(route_all<by_score>({.top_k = 3}, logits, priced_at<by_score>(0x1p-4f, rows_of(cost)))));
  s.cost = {0x1p-3};
  s.price = 0x1p-4f;
  auto both = cost;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int e = 0; e < experts; ++e) both(t, e) += static_cast<float>(0x1p-3 * (static_cast<double>(t) * 10 + e));
  CHECK(route_all<two>({.top_k = 3}, logits, s).same(route_all<by_score>({.top_k = 3}, logits, priced_at<by_score>(0x1p-4f, rows_of(both)))));
}

TEST_CASE_TEMPLATE("over and under other policies, at a price of 0, nothing changes; at one, the costs fall", Base, routing::top_p<>, routing::threshold<>,
                   routing::sparse_mixer<>, routing::allowed<>, routing::capacity<>, null_expert<>) {
  using over = cost_aware<costs::table, Base>;
  random_stream random(first_seed);
  auto const logits = random_matrix<float>(tokens, experts, random);
  auto const cost = exact_costs(tokens, experts, random);
  router_config const c{.top_k = 3};
  std::vector<float> const bars(1, 0.05f);
  std::vector<std::uint8_t> mask;
  std::vector<std::int32_t> const kinds(tokens, 0);
  for (int e = 0; e < experts; ++e) mask.push_back(e % 4 != 1);
  typename Base::state s{};
  if constexpr (requires { s.p; }) s.p = .6f;
  if constexpr (requires { s.thresholds; }) s.thresholds = bars;
  if constexpr (requires { s.epsilon; }) s.epsilon = .1f;
  if constexpr (requires { s.mask; }) s.kind = kinds, s.mask = {mask.data(), 1, experts};
  if constexpr (requires { s.null_choice; }) s.null_choice = .08f;
  auto const plain = route_all<Base>(c, logits, s);
  typename over::state above{};
  static_cast<typename Base::state&>(above) = s;
  CHECK(plain.same(route_all<over>(c, logits, above)));
  above.cost.microseconds = cost.view();
  above.price = .0625f;
  auto const priced = route_all<over>(c, logits, above);
  CHECK(chosen_cost<costs::table>(above.cost, priced.ids.view()) < chosen_cost<costs::table>(above.cost, plain.ids.view()));
}

TEST_CASE_TEMPLATE("a rule over the batch has a price below it", Rule, routing::marginal<by_score>, routing::two_phase<by_score>) {
  random_stream random(first_seed);
  auto const logits = random_matrix<float>(tokens, experts, random);
  auto const cost = exact_costs(tokens, experts, random);
  router_config const c{.top_k = 3, .renormalize = true};
  typename Rule::state s{};                                    // neutral, so the base shows
  if constexpr (requires { s.own; }) s.own = c.top_k;
  static_cast<by_score::state&>(s) = priced_at<by_score>(.0625f, rows_of(cost));
  CHECK(route_all<Rule>(c, logits, s).same(route_all<by_score>(c, logits, priced_at<by_score>(.0625f, rows_of(cost)))));
  CHECK_FALSE(route_all<Rule>(c, logits, s).same(route_all<standard>(c, logits)));
}

TEST_CASE("over a rule of the whole batch costs count, and protect, which nothing would heed there, is refused") {
  using over = cost_aware<costs::table, routing::two_phase<>>;
  router_config const c{.experts = 8, .top_k = 3};
  std::vector<float> const cost{0, 0, 0, 0, 0, 0, 0, 9};
  over::state s{};
  s.own = 3;
  s.cost = costs::table::of_experts(cost);
  s.price = 1;
  CHECK(state_fits<over>(c, s, 1));
  auto const logits = given<float>(1, 8, {0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(route_all<over>(c, logits, s).set(0) == std::vector<int>{4, 5, 6});
  s.protect = 1;
  CHECK(to_string(state_fits<over>(c, s, 1)).find("protect needs a base by which each token chooses for itself") != std::string::npos);
  s.price = 0;                                                   // neutral, so nothing is asked for
  CHECK(state_fits<over>(c, s, 1));
  using under = routing::two_phase<by_score>;
  under::state u{};
  u.own = 3;
  static_cast<by_score::state&>(u) = priced_at<by_score>(1, s.cost, 1);
  CHECK(state_fits<under>(c, u, 1));
  CHECK(route_all<under>(c, logits, u).set(0) == std::vector<int>{5, 6, 7});
}

TEST_CASE("states that do not fit a call are refused before anything reads them") {
  router_config const c{.experts = 3, .top_k = 1};
  std::vector<float> const two(2), three(3), six(6);
  auto const table = [&](view<const float> m, std::int64_t n) { return to_string(state_fits<by_score>(c, priced_at<by_score>(1, {m}), n)); };
  CHECK(table({three.data(), 1, 3, 0}, 9) == "ok");
  CHECK(table({six.data(), 2, 3}, 2) == "ok");
  for (float const price : {infinity<float>, std::numeric_limits<float>::quiet_NaN()})
    CHECK(to_string(state_fits<by_score>(c, priced_at<by_score>(price, {{three.data(), 1, 3, 0}}), 1)).find("must be finite") != std::string::npos);
  CHECK(table({six.data(), 2, 3}, 3) == "a table of costs must have a row a token, or one for all (a stride of 0) (expected 3, found 2)");
  CHECK(table({two.data(), 1, 2, 0}, 1) == "a table of costs must have a column an expert (expected 3, found 2)");
  CHECK(table({}, 1) == "a table of costs must have a column an expert (expected 3, found 0)");
  CHECK(state_fits<by_score>(c, {}, 5));                       // at a price of 0 nothing is read
  std::vector<tier> const where(2);
  std::vector<std::int32_t> const ranks{0, 1, 2};
  CHECK(source_fits<costs::flops>({three, 1}, 3, 1));
  CHECK_FALSE(static_cast<bool>(source_fits<costs::flops>({two, 1}, 3, 1)));
  CHECK_FALSE(static_cast<bool>(source_fits<costs::bytes>({three, where, {}}, 3, 1)));
  CHECK_FALSE(static_cast<bool>(source_fits<costs::energy>({three, two, 1, 1}, 3, 1)));
  CHECK(source_fits<costs::rank_distance>({ranks, ranks, 0, 1, 1, 1}, 3, 3));
  CHECK_FALSE(static_cast<bool>(source_fits<costs::rank_distance>({ranks, ranks, 0, 1, 1, 1}, 3, 4)));
  CHECK(source_fits<costs::queue>({ranks, three, 0, 1}, 3, 1));
  CHECK(std::isnan(cost_of<costs::queue>({ranks, two, 0, 1}, 0, 2)));
  using both = costs::sum<costs::flops, costs::flops>;
  CHECK(source_fits<both>({{{three, 1}, 1}, {{}, 0}}, 3, 1));
  CHECK_FALSE(static_cast<bool>(source_fits<both>({{{three, 1}, 1}, {{}, 1}}, 3, 1)));
  CHECK(source_fits<hand_made>({}, 3, 1));
  using bounded = routing::knapsack<costs::table>;
  bounded::state s;
  CHECK(state_fits<bounded>(c, s, 1));
  s.budget = 1;
  CHECK_FALSE(static_cast<bool>(state_fits<bounded>(c, s, 1)));
}

// ---- what is broken

TEST_CASE("costs that are no numbers, or none to be paid") {
  auto const logits = given<double>(1, 4, {3, 2, 1, 0});
  auto const route = [&](std::vector<float> const& cost, float price = 0.125f, int protect = 0) {
    return route_all<by_logit>({.top_k = 2}, logits, priced_at<by_logit>(price, costs::table::of_experts(cost), protect));
  };
  SUBCASE("NaN: the token is flagged and gets none") {
    auto const r = route({0, not_a_number<float>, 0, 0});
    CHECK_FALSE(r.finite);
    CHECK(r.count[0] == 0);
    CHECK(r.set(0).empty());
  }
  SUBCASE("a price that is NaN: the same") { CHECK_FALSE(route({0, 1, 0, 0}, not_a_number<float>).finite); }
  SUBCASE("infinite: forbidden, protected or not") {
    for (int const protect : {0, 1, 2}) {
      auto const r = route({infinity<float>, 0, 0, 0}, 0.125f, protect);
      CHECK(r.finite);
      CHECK(r.set(0) == std::vector<int>{1, 2});
    }
    CHECK(route({infinity<float>, infinity<float>, infinity<float>, 0}, 0.125f, 2).set(0) == std::vector<int>{3});
    auto const none = route({infinity<float>, infinity<float>, infinity<float>, infinity<float>}, 0.125f, 2);
    CHECK(none.count[0] == 0);
    CHECK(none.weights(0, 0) == 0);
    CHECK(none.finite);                                        // everything is forbidden: an answer, not an accident
  }
  SUBCASE("negative: a subsidy") {
    CHECK(route({0, 0, 0, -32}).set(0) == std::vector<int>{0, 3});
    CHECK(route({0, 0, 0, -infinity<float>}).set(0) == std::vector<int>{0, 3});
  }
  SUBCASE("a mask stays a mask at any subsidy") {
    auto masked = logits;
    masked(0, 3) = -std::numeric_limits<double>::infinity();
    CHECK(route_all<by_logit>({.top_k = 2}, masked, priced_at<by_logit>(1, costs::table::of_experts(std::vector<float>{0, 0, 0, -99}), 2)).set(0) ==
          std::vector<int>{0, 1});
  }
  SUBCASE("more protected than there are slots, or experts") {
    CHECK(route({9, 9, 0, 0}, 8, 7).set(0) == std::vector<int>{0, 1});
    CHECK(route({9, 9, 0, 0}, 8, 1).set(0) == std::vector<int>{0, 2});
    CHECK(route({9, 9, 0, 0}, 8, -1).set(0) == std::vector<int>{2, 3});
  }
}

TEST_CASE("no tokens, one expert, all experts") {
  std::vector<float> const cost{1, 2, 3};
  auto const state = priced_at<by_score>(0.5f, costs::table::of_experts(cost), 1);
  CHECK(route_all<by_score>({.top_k = 2}, matrix<float>(0, 3), state).count.empty());
  auto const one = route_all<by_score>({.top_k = 1}, given<float>(1, 1, {-3}), state);
  CHECK(one.ids(0, 0) == 0);
  CHECK(one.weights(0, 0) == 1.0f);
  auto const logits = given<float>(2, 3, {1, 2, 3, 0, 0, 0});
  auto const all = route_all<by_score>({.top_k = 3, .renormalize = true}, logits, state);
  CHECK(all.same(route_all<standard>({.top_k = 3, .renormalize = true}, logits)));            // the order too: k = E leaves nothing to choose
}

TEST_CASE_TEMPLATE("over a recording a price changes nothing: who is chosen and in what order is recorded", Base, routing::replay<>, routing::hash<>) {
  using over = cost_aware<costs::table, Base>;
  auto const logits = given<float>(2, 6, {5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5});
  std::vector<std::int32_t> const recorded{0, 5, 2, 1, 0, 3}, token_ids{0, 1};
  typename over::state s{};
  if constexpr (requires { s.ids; }) s.ids = {recorded.data(), 2, 3};
  else s.token_ids = token_ids, s.table = {recorded.data(), 2, 3};
  auto const plain = route_all<Base>({.top_k = 3}, logits, s);
  CHECK(plain.ids(0, 1) == 5);
  std::vector<float> cost(6, 0.0f);
  s.cost = costs::table::of_experts(cost);
  s.price = 1;
  CHECK(plain.same(route_all<over>({.top_k = 3}, logits, s)));
  cost[2] = 3;
  s.protect = 2;
  CHECK(plain.same(route_all<over>({.top_k = 3}, logits, s)));
  using above = cost_aware<costs::flops, over>;
  typename above::state two{};
  static_cast<typename over::state&>(two) = s;
  std::vector<float> const flops(6, 1.0f);
  two.cost = {flops, 1};
  two.price = 1;
  CHECK(plain.same(route_all<above>({.top_k = 3}, logits, two)));
}

TEST_CASE("an infinite cost forbids under a group mask of zero too") {
  router_config const c{.top_k = 2, .score = score::sigmoid, .groups = 2, .top_groups = 1, .group_mask = group_mask::zero, .score_bias = true};
  auto const logits = given<float>(1, 8, {1, 2, 3, 4, 5, 5, 5, 5});
  std::vector<float> const bias(8, -2.0f);
  std::vector<float> const cost{0, 0, 0, 0, infinity<float>, infinity<float>, infinity<float>, infinity<float>};
  auto const s = priced_at<by_score>(1, costs::table::of_experts(cost));
  CHECK(route_all<by_score>(c, logits, s, bias).set(0) == std::vector<int>{2, 3});
}
