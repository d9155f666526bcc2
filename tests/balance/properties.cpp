// What holds of every loss on any batch: padding, order, nothing, one expert, broken logits, balance, and fp32 beside fp64.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <support/compare.hpp>
#include <support/tolerance.hpp>

#include "batch.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr int trials = 5;

template <class T>
struct outcome {
  T value = 0;
  matrix<T> gradient;
};

template <class T, class Loss>
outcome<T> evaluate(Loss const& loss, test::batch<T> const& b, T before = T(0)) {
  outcome<T> o{0, matrix<T>(b.tokens(), b.experts())};
  for (auto& g : o.gradient.data) g = before;
  auto const done = loss(b, o.gradient.view());
  REQUIRE_MESSAGE(done.done, to_string(done.done));
  o.value = done.value;
  CHECK(loss(b, {}).value == o.value);                                 // the value does not depend on whether a gradient is wanted
  return o;
}

test::batch<double> some_batch(random_stream& random) {
  auto const experts = static_cast<int>(2 + 2 * random.below(5));
  return random_batch<double>({static_cast<int>(1 + random.below(6)), static_cast<int>(1 + random.below(9)), 5}, experts,
                              static_cast<int>(1 + random.below(experts)), random);
}

}  // namespace

TEST_CASE("padding never counts, whatever it holds, and gets no gradient: the same bits") {
  for (std::uint64_t trial = 0; trial < trials; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    auto const b = some_batch(random);
    std::vector<std::int64_t> where;
    auto const with = padded(b, where, random);
    each_loss<double>([&](std::string const& name, auto const& loss) {
      CAPTURE(name);
      auto const plain = evaluate<double>(loss, b), other = evaluate<double>(loss, with);
      CHECK(plain.value == other.value);
      matrix<double> spread(with.tokens(), with.experts());
      for (std::int64_t t = 0; t < b.tokens(); ++t)
        for (std::int64_t e = 0; e < b.experts(); ++e) spread(where[static_cast<std::size_t>(t)], e) = plain.gradient(t, e);
      CHECK(spread.data == other.gradient.data);
    });
  }
}

TEST_CASE("the order of the tokens does not matter") {
  for (std::uint64_t trial = 0; trial < trials; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    auto const b = some_batch(random);
    std::vector<std::int64_t> where;
    auto const mixed = permuted(b, where, random);
    each_loss<double>([&](std::string const& name, auto const& loss) {
      CAPTURE(name);
      auto const plain = evaluate<double>(loss, b), other = evaluate<double>(loss, mixed);
      CHECK(std::abs(plain.value - other.value) <= stage_tolerance<double> * (1 + std::abs(plain.value)));
      for (std::int64_t t = 0; t < b.tokens(); ++t)
        for (std::int64_t e = 0; e < b.experts(); ++e)
          CHECK(std::abs(plain.gradient(t, e) - other.gradient(where[static_cast<std::size_t>(t)], e)) <= stage_tolerance<double>);
    });
  }
}

TEST_CASE("the gradient is added to what is there, and its rows sum to 0 where only differences of logits matter") {
  random_stream random(seed);
  auto const b = some_batch(random);
  each_loss<double>([&](std::string const& name, auto const& loss) {
    CAPTURE(name);
    auto const plain = evaluate<double>(loss, b), added = evaluate<double>(loss, b, 8.0);
    for (std::size_t i = 0; i < plain.gradient.data.size(); ++i) CHECK(std::abs(added.gradient.data[i] - 8.0 - plain.gradient.data[i]) <= 1e-13);
    bool const of_softmax = name != "z" && name.find("sigmoid") == name.npos && name.find("sqrt") == name.npos && name.find("relu") == name.npos &&
                            name.find("Tutel") == name.npos;           // it compares probabilities with logits
    for (std::int64_t t = 0; t < b.tokens() && of_softmax; ++t) {
      double sum = 0;
      for (std::int64_t e = 0; e < b.experts(); ++e) sum += plain.gradient(t, e);
      CHECK(std::abs(sum) <= 1e-12);
    }
  });
}

TEST_CASE("no tokens, and nothing but padding, give 0") {
  random_stream random(seed);
  auto const none = random_batch<double>({0, 0}, 4, 2, random);
  auto padding = random_batch<double>({3, 2}, 4, 2, random);
  padding.padding.assign(5, 1);
  each_loss<double>([&](std::string const& name, auto const& loss) {
    CAPTURE(name);
    CHECK(evaluate<double>(loss, none).value == 0);
    auto const o = evaluate<double>(loss, padding);
    CHECK(o.value == 0);
    for (auto const g : o.gradient.data) CHECK(g == 0);
  });
}

TEST_CASE("one expert: balanced by definition, and without a gradient but for the z-loss") {
  random_stream random(seed);
  auto b = random_batch<double>({3, 2}, 1, 1, random);
  owning_scratch const memory(1, 1);
  std::vector<std::int64_t> counts{5};
  balance::choices const chosen{counts, 5};
  matrix<double> g(5, 1);
  auto const z = b.logits.view();
  CHECK(balance::load_balance<double>(score::sigmoid, z, {}, chosen, 1, 0.5, g.view()).value == doctest::Approx(0.5));
  CHECK(balance::device_balance<double>(score::softmax, z, {}, chosen, 1, 0.5, g.view()).value == 0.5);
  CHECK(balance::switch_balance<double>(z, {}, 2, 0.5, g.view(), memory.of).value == 0.5);
  CHECK(balance::sequence_balance<double>(score::softmax, z, {}, b.sequences, 1, 0.5, g.view(), memory.of).value == 0.5);
  CHECK(balance::entropy<double>(z, {}, 1, g.view()).value == 0);
  CHECK(balance::importance<double>(z, {}, {}, balance::variation::population, 1, g.view(), memory.of).value == 0);
  CHECK(balance::importance<double>(z, {}, b.ids.view(), balance::variation::sample, 1, g.view(), memory.of).value == 0);
  auto const noisy = b.noisy();
  CHECK(balance::load<double>(z, noisy.view(), b.noise.view(), {}, 1, 1, g.view(), g.view(), memory.of).value == 0);
  CHECK(balance::load_importance<double>(z, noisy.view(), 1, {}, 1, 1, g.view(), memory.of).value == 0);
  for (auto const x : g.data) CHECK(std::abs(x) <= roundoff<double>);
  double squares = 0;
  for (auto const x : b.logits.data) squares += x * x / 5;
  CHECK(balance::z_loss<double>(z, {}, 1, g.view()).value == doctest::Approx(squares));
  for (std::int64_t t = 0; t < 5; ++t) CHECK(g(t, 0) == doctest::Approx(2.0 / 5 * b.logits(t, 0)));
}

TEST_CASE("a token whose logits are not finite counts as padding; an expert at −inf has no share and no gradient") {
  auto const infinity = std::numeric_limits<double>::infinity();
  random_stream random(seed);
  auto b = random_batch<double>({4, 3}, 4, 2, random);
  for (double const bad : {std::numeric_limits<double>::quiet_NaN(), infinity}) {
    auto broken = b, absent = b;
    broken.logits(2, 1) = bad;
    for (int e = 0; e < 4; ++e) broken.draws(2, e) = 0;
    broken.ids(2, 0) = broken.ids(2, 1) = -1;
    absent.padding[2] = 1;
    each_loss<double>([&](std::string const& name, auto const& loss) {
      CAPTURE(name);
      auto const o = evaluate<double>(loss, broken);
      CHECK(std::isfinite(o.value));
      for (int e = 0; e < 4; ++e) CHECK(o.gradient(2, e) == 0);
      if (name != "pooled") CHECK(o.value == evaluate<double>(loss, absent).value);   // its other layer has the row
    });
  }
  auto masked = b;
  for (std::int64_t t = 0; t < 7; ++t) {
    masked.logits(t, 3) = -infinity;
    masked.draws(t, 3) = 0;
    for (int i = 0; i < 2; ++i)
      if (masked.ids(t, i) == 3) masked.ids(t, i) = -1;
  }
  each_loss<double>([&](std::string const& name, auto const& loss) {
    CAPTURE(name);
    auto const o = evaluate<double>(loss, masked);
    CHECK(std::isfinite(o.value));
    for (std::int64_t t = 0; t < 7; ++t) {
      for (int e = 0; e < 3; ++e) CHECK(std::isfinite(o.gradient(t, e)));
      CHECK(o.gradient(t, 3) == 0);
    }
  });
  auto forbidden = b;
  for (int e = 0; e < 4; ++e) forbidden.logits(1, e) = -infinity, forbidden.draws(1, e) = 0;
  each_loss<double>([&](std::string const& name, auto const& loss) {
    CAPTURE(name);
    auto const o = evaluate<double>(loss, forbidden);
    CHECK(std::isfinite(o.value));
    for (int e = 0; e < 4; ++e) CHECK(o.gradient(1, e) == 0);
  });
}

TEST_CASE("even counts give the coefficient, whatever the scores, and no gradient; a step against the gradient evens them") {
  for (std::uint64_t trial = 0; trial < trials; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    auto b = random_batch<double>({12}, 6, 2, random);
    for (auto const kind : {score::softmax, score::sigmoid, score::sqrt_softplus}) {
      std::vector<std::int64_t> even(6, 4), skewed{10, 6, 4, 2, 1, 1};
      matrix<double> g(12, 6), down(12, 6);
      CHECK(balance::load_balance<double>(kind, b.logits.view(), {}, {even, 12}, 2, 0.5, g.view()).value == doctest::Approx(0.5));
      for (auto const x : g.data) CHECK(std::abs(x) <= 1e-16);
      auto const before = balance::load_balance<double>(kind, b.logits.view(), {}, {skewed, 12}, 2, 0.5, down.view()).value;
      auto stepped = b.logits;
      for (std::size_t i = 0; i < down.data.size(); ++i) stepped.data[i] -= 0.1 * down.data[i];
      CHECK(balance::load_balance<double>(kind, stepped.view(), {}, {skewed, 12}, 2, 0.5).value < before);
      for (std::int64_t t = 0; t < 12; ++t) CHECK(down(t, 0) > 0);     // the fullest expert's logits go down
    }
  }
}

TEST_CASE("uniform logits are the minimum of what is least there") {
  owning_scratch const memory(6, 2);
  auto const infinity = std::numeric_limits<double>::infinity();
  auto const global = [&](matrix<double> const& z, view<double> g) {
    return balance::global_entropy<double>(z.view(), {}, infinity, 1, g, memory.of).value;
  };
  auto const importance = [&](matrix<double> const& z, view<double> g) {
    return balance::importance<double>(z.view(), {}, {}, balance::variation::population, 1, g, memory.of).value;
  };
  matrix<double> const uniform(12, 6);
  matrix<double> g(12, 6);
  CHECK(importance(uniform, g.view()) == doctest::Approx(0));
  CHECK(global(uniform, g.view()) == doctest::Approx(-std::log(6)));
  for (auto const x : g.data) CHECK(std::abs(x) <= 1e-15);
  random_stream random(seed);
  for (int trial = 0; trial < 20; ++trial) {
    auto const z = random_matrix<double>(12, 6, random);
    CHECK(importance(z, {}) > 0);
    CHECK(global(z, {}) > -std::log(6));
    // f = P is what a router that draws its experts by p tends to: E Σ P² is never below 1, its value at uniform P.
    std::vector<std::int64_t> counts(6);
    std::int64_t total = 0;
    for (std::size_t e = 0; e < 6; ++e) {
      std::vector<double> one(6);
      one[e] = 1;
      counts[e] = std::llround(1e12 * balance::expected_cost<double>(z.view(), {}, {one.data(), 12, 6, 0}, 1).value);
      total += counts[e];
    }
    CHECK(balance::load_balance<double>(score::softmax, z.view(), {}, {counts, total}, 1, 1).value > 1);
  }
}

TEST_CASE("fp32 gives what fp64 gives of the same logits") {
  for (std::uint64_t trial = 0; trial < trials; ++trial) {
    CAPTURE(seed + trial);
    random_stream random(seed + trial);
    auto const narrow = random_batch<float>({7, 20, 5}, 8, 2, random);
    test::batch<double> wide;
    wide.top_k = narrow.top_k, wide.ids = narrow.ids, wide.padding = narrow.padding, wide.sequences = narrow.sequences;
    wide.logits = convert<double>(narrow.logits), wide.draws = convert<double>(narrow.draws);
    wide.noise = convert<double>(narrow.noise), wide.cost = convert<double>(narrow.cost);
    wide.widths.assign(narrow.widths.begin(), narrow.widths.end());
    std::vector<outcome<double>> exact;
    each_loss<double>([&](std::string const&, auto const& loss) { exact.push_back(evaluate<double>(loss, wide)); });
    std::size_t at = 0;
    each_loss<float>([&](std::string const& name, auto const& loss) {
      CAPTURE(name);
      auto const got = evaluate<float>(loss, narrow);
      auto const& want = exact[at++];
      CHECK(std::abs(static_cast<double>(got.value) - want.value) <= stage_tolerance<float> * (1 + std::abs(want.value)));
      double scale = 0;
      for (auto const g : want.gradient.data) scale = std::fmax(scale, std::abs(g));
      for (std::size_t i = 0; i < want.gradient.data.size(); ++i)
        CHECK(std::abs(static_cast<double>(got.gradient.data[i]) - want.gradient.data[i]) <= stage_tolerance<float> * scale);
    });
    CHECK(at == exact.size());
  }
}
