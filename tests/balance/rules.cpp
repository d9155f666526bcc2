// Bias rules step by step: by hand, against brute force, and what each refuses.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/route/balance_bias.hpp>
#include <support/tolerance.hpp>

#include "batch.hpp"

using namespace moesaic;
using namespace moesaic::test;
using balance::choices;

namespace {

constexpr std::uint64_t seed = 20261124;

/// Largest load over mean load, less 1, of the top-k of scores + bias.
template <class T>
double max_violation(matrix<T> const& scores, std::vector<float> const& bias, int top_k) {
  auto const experts = static_cast<int>(scores.columns);
  std::vector<T> choice(static_cast<std::size_t>(experts));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(top_k));
  std::vector<double> counts(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < scores.rows; ++t) {
    for (int e = 0; e < experts; ++e) choice[static_cast<std::size_t>(e)] = scores(t, e) + static_cast<T>(bias[static_cast<std::size_t>(e)]);
    moesaic::top_k(choice.data(), experts, top_k, ids.data());
    for (auto const e : ids) ++counts[static_cast<std::size_t>(e)];
  }
  return *std::max_element(counts.begin(), counts.end()) / (static_cast<double>(scores.rows) * top_k / experts) - 1;
}

}  // namespace

TEST_CASE("the sign rule: up where there were too few, down where too many, nothing at the mean") {
  std::vector<std::int64_t> const counts{5, 3, 4, 4};
  std::vector<float> bias{0.5f, 0, 0, -1};
  REQUIRE(balance::sign_rule(counts, 0.25f, bias));
  CHECK(bias == std::vector<float>{0.25f, 0.25f, 0, -1});
  std::vector<std::int64_t> const thirds{1, 0, 0};                      // the mean, 1/3, is no number of counts
  std::vector<float> three(3);
  REQUIRE(balance::sign_rule(thirds, 1, three));
  CHECK(three == std::vector<float>{-1, 1, 1});
  for (auto const& even : {std::vector<std::int64_t>(3), std::vector<std::int64_t>(3, 1'000'000'000'000)}) {
    REQUIRE(balance::sign_rule(even, 1, three));
    CHECK(three == std::vector<float>{-1, 1, 1});
  }
  std::vector<float> one(1);
  REQUIRE(balance::sign_rule(std::vector<std::int64_t>{7}, 1, one));
  CHECK(one[0] == 0);
}

TEST_CASE("LongCat's rule: towards the share of K_e that each FFN expert has; identity experts stay") {
  std::vector<std::int64_t> counts{6, 2, 3, 9};                         // 10 tokens, K = 2, N = 3 FFN experts, K_e = 1.5
  std::vector<float> bias{0, 0, 0, 0.5f};
  REQUIRE(balance::longcat_rule({counts, 10}, 2, 3, 1.5, 0.4, bias));
  CHECK(bias[0] == doctest::Approx(0.4 * (0.25 - 0.3)));
  CHECK(bias[1] == doctest::Approx(0.4 * (0.25 - 0.1)));
  CHECK(bias[2] == doctest::Approx(0.4 * (0.25 - 0.15)));
  CHECK(bias[3] == 0.5f);
  std::vector<float> const before = bias;
  REQUIRE(balance::longcat_rule({counts, 0}, 2, 3, 1.5, 0.4, bias));    // no tokens, no step
  CHECK(bias == before);
}

TEST_CASE("the number of a rank, found bit by bit, is that of a sort") {
  for (std::uint64_t trial = 0; trial < 20; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    auto const check = [&]<class T>(T) {
      std::vector<T> x(static_cast<std::size_t>(1 + random.below(20)));
      for (auto& v : x) v = random.below(4) == 0 ? T(-0.0) : static_cast<T>(random.normal()) * (random.below(2) == 0 ? T(1e-30) : T(7));
      auto sorted = x;
      std::sort(sorted.begin(), sorted.end(), std::greater<T>());
      for (std::size_t rank = 0; rank < x.size(); ++rank)
        CHECK(balance::detail::largest_of_rank<T>(static_cast<std::int64_t>(rank), [&](auto const& f) {
                for (auto const v : x) f(v);
              }) == sorted[rank]);
    };
    check(1.0f), check(1.0);
  }
}

TEST_CASE("quantile balancing against sorting, padding left out") {
  for (std::uint64_t trial = 0; trial < 10; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    int const experts = static_cast<int>(2 + random.below(8)), k = static_cast<int>(1 + random.below(experts - 1));
    auto const scores = random_matrix<double>(15, experts, random);
    std::vector<std::uint8_t> padding(15);
    for (auto& p : padding) p = random.below(4) == 0;
    std::vector<float> bias(static_cast<std::size_t>(experts));
    for (auto& b : bias) b = 0.3f * random.normal();
    auto const before = bias;
    double const keep = trial % 2 == 0 ? 0 : 0.75;
    owning_scratch const memory(experts, k);
    std::vector<double> alpha(15);
    REQUIRE(balance::quantile_rule<double>(scores.view(), padding, k, keep, bias, alpha, memory.of));

    std::vector<std::vector<double>> over(static_cast<std::size_t>(experts));
    std::int64_t tokens = 0;
    for (std::int64_t t = 0; t < 15; ++t) {
      if (padding[static_cast<std::size_t>(t)] != 0) continue;
      ++tokens;
      std::vector<double> row;
      for (int e = 0; e < experts; ++e) row.push_back(scores(t, e) + static_cast<double>(before[static_cast<std::size_t>(e)]));
      std::sort(row.rbegin(), row.rend());
      for (int e = 0; e < experts; ++e) over[static_cast<std::size_t>(e)].push_back(scores(t, e) - row[static_cast<std::size_t>(k)]);
    }
    std::vector<double> beta;
    double mean = 0;
    for (auto& column : over) {
      std::sort(column.rbegin(), column.rend());
      beta.push_back(column[static_cast<std::size_t>(tokens * k / experts)]);
      mean += beta.back() / experts;
    }
    for (std::size_t e = 0; e < beta.size(); ++e) {
      auto const want = keep * static_cast<double>(before[e]) - (1 - keep) * (beta[e] - mean);
      CHECK(std::abs(static_cast<double>(bias[e]) - want) <= 2 * roundoff<float> * (1 + std::abs(want)));
    }
  }
}

TEST_CASE("quantile balancing evens a crooked batch within ten updates, in fp32 and fp64") {
  random_stream random(seed);
  auto const check = [&]<class T>(T) {
    auto scores = random_matrix<T>(512, 16, random);
    for (std::int64_t t = 0; t < 512; ++t)
      for (std::int64_t e = 0; e < 16; ++e) scores(t, e) = sigmoid(scores(t, e) - static_cast<T>(0.5 * std::log(static_cast<double>(e + 1))));
    std::vector<float> bias(16);
    owning_scratch const memory(16, 4);
    std::vector<T> alpha(512);
    auto const before = max_violation(scores, bias, 4);
    for (int i = 0; i < 10; ++i) REQUIRE(balance::quantile_rule<T>(scores.view(), {}, 4, 0, bias, alpha, memory.of));
    auto const after = max_violation(scores, bias, 4);
    MESSAGE("largest load over the mean, less 1: " << before << " before, " << after << " after");
    CHECK(before > 0.8);
    CHECK(after < 0.1);
    double mean = 0;
    for (auto const b : bias) mean += static_cast<double>(b) / 16;
    CHECK(std::abs(mean) < 1e-6);
  };
  check(1.0f), check(1.0);
}

TEST_CASE("quantile balancing of masked scores: forced tokens take their room, an expert nobody may have keeps its bias") {
  constexpr double never = -std::numeric_limits<double>::infinity();
  std::vector<float> bias(4);
  owning_scratch const memory(4, 2);
  std::vector<double> alpha(3);
  // Token 0 must take experts 0 and 1. q = 1. Of the others, 0: -1 and 1 of which the best counts; 1: 0, 0; 2: 1, -1 by rank 1; 3: 2, -2.
  std::vector<double> const some{1, 2, never, never, 0, 1, 2, 3, 3, 2, 1, 0};
  REQUIRE(balance::quantile_rule<double>({some.data(), 3, 4}, {}, 2, 0, bias, alpha, memory.of));
  // α = −inf, 1, 1: experts 0: {-1, 2}, 1: {0, 1}, with one of q = 1 forced, hence the best; 2: {1, 0} and 3: {2, -1}, hence the second.
  CHECK(alpha[0] == never);
  CHECK(bias == std::vector<float>{-1.5f, -.5f, .5f, 1.5f});

  std::vector<double> const closed{1, 2, never, 3, 2, 2, never, 1, 3, 1, never, 2};
  bias = {0, 0, .25f, 0};
  REQUIRE(balance::quantile_rule<double>({closed.data(), 3, 4}, {}, 2, 0, bias, alpha, memory.of));
  CHECK(bias[2] == .25f);
  for (auto const b : bias) CHECK(std::isfinite(b));

  std::vector<double> const forced{1, 2, never, never, 1, 2, never, never, 1, 2, never, never};
  bias = {.5f, 0, 0, 0};
  REQUIRE(balance::quantile_rule<double>({forced.data(), 3, 4}, {}, 2, 0, bias, alpha, memory.of));
  CHECK(bias == std::vector<float>{.5f, 0, 0, 0});                // nobody has a choice
}

TEST_CASE("quantile balancing leaves the bias where there is nothing to balance") {
  std::vector<double> const scores{1, 2, 3, 4};
  std::vector<double> alpha(2);
  std::vector<float> bias{0.5f, -0.5f};
  owning_scratch const memory(2, 2);
  REQUIRE(balance::quantile_rule<double>({scores.data(), 2, 2}, {}, 2, 0, bias, alpha, memory.of));
  REQUIRE(balance::quantile_rule<double>({scores.data(), 2, 2}, std::vector<std::uint8_t>{1, 1}, 1, 0, bias, alpha, memory.of));
  REQUIRE(balance::quantile_rule<double>({nullptr, 0, 2}, {}, 1, 0, bias, alpha, memory.of));
  CHECK(bias == std::vector<float>{0.5f, -0.5f});
}

TEST_CASE("what does not fit is said") {
  std::vector<std::int64_t> counts(4);
  std::vector<float> bias(4), three(3);
  std::vector<double> d(16);
  choices const c{counts, 8};
  auto const what = [](status const& s) { return std::string(s.what); };
  CHECK(what(balance::sign_rule(counts, 1, three)) == "there must be a bias an expert");
  CHECK(what(balance::longcat_rule(c, 2, 2, 1, 1, three)) == "there must be a bias an expert");
  CHECK(what(balance::longcat_rule(c, 2, 5, 1, 1, bias)) == "ffn_experts must be from 1 to all experts");
  CHECK(what(balance::longcat_rule(c, 2, 0, 1, 1, bias)) == "ffn_experts must be from 1 to all experts");
  CHECK(what(balance::longcat_rule(c, 0, 2, 0, 1, bias)) == "a token chooses at least once");
  CHECK(what(balance::longcat_rule(c, 2, 2, 2.5, 1, bias)) == "mean_ffn must be from 0 to top_k");
  CHECK(what(balance::longcat_rule(c, 2, 2, std::nan(""), 1, bias)) == "mean_ffn must be from 0 to top_k");
  owning_scratch const memory(4, 2), small(3, 2);
  view<const double> const scores{d.data(), 4, 4};
  CHECK(what(balance::quantile_rule<double>(scores, {}, 2, 0, three, d, memory.of)) == "there must be a bias an expert");
  CHECK(what(balance::quantile_rule<double>(scores, {}, 2, 0, bias, {d.data(), 3}, memory.of)) == "alpha must have room for every token");
  CHECK(what(balance::quantile_rule<double>(scores, {}, 2, 1.5, bias, d, memory.of)) == "keep must be from 0 to 1");
  CHECK(what(balance::quantile_rule<double>(scores, {}, 5, 0, bias, d, memory.of)) == "top_k must be at least 1 and at most the number of experts");
  CHECK(what(balance::quantile_rule<double>(scores, {}, 2, 0, bias, d, small.of)) == "the scratch must have room for every expert");
  CHECK(what(balance::quantile_rule<double>(scores, std::vector<std::uint8_t>(3), 2, 0, bias, d, memory.of)) ==
        "padding must have an entry a token, or none at all");
}
