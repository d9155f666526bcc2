// The monitor against its definitions: by hand, by brute force in double, in parts, and behind a running model.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <moesaic/base/random.hpp>
#include <moesaic/config/random_source.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/io/monitor.hpp>
#include <moesaic/moesaic.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/refusal.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

/// A monitor and its memory.
struct owned : router_monitor {
  host::buffer memory;
  explicit owned(monitor_shape const& of) {
    arena counting;
    carve(counting, of);
    memory = host::buffer(counting.used() + arena::alignment);
    arena over(memory.data(), memory.size());
    static_cast<router_monitor&>(*this) = carve(over, of);
    clear(*this);
  }
};
struct owned_detector : collapse_detector {
  host::buffer memory;
  owned_detector(collapse_limits const& chosen, int experts) : memory(4096) {
    arena over(memory.data(), memory.size());
    static_cast<collapse_detector&>(*this) = carve(over, chosen, experts);
    clear(*this);
  }
};

/// Near in the measure of T, relative to values of 1 or more.
template <class T = double>
bool near(double got, double want) {
  return std::abs(got - want) <= stage_tolerance<T> * std::max(1.0, std::abs(want));
}

/// A batch of random tokens and what a router made of them: everything that an observation may hold.
template <class T>
struct random_batch {
  matrix<T> logits, scores;
  matrix<std::int32_t> ids, previous;
  std::vector<std::int32_t> count, domain;
  std::vector<std::uint8_t> padding;

  random_batch(std::int64_t tokens, int experts, int slots, int domains, bool softmax_later, random_stream& random)
      : logits(tokens, experts), scores(tokens, experts), ids(tokens, slots), previous(tokens, slots),
        count(static_cast<std::size_t>(tokens)), domain(count.size()), padding(count.size()) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const at = static_cast<std::size_t>(t);
      auto const fate = random.below(8);
      padding[at] = fate == 0;
      count[at] = static_cast<std::int32_t>(random.below(slots + 1));
      domain[at] = static_cast<std::int32_t>(random.below(domains + 1)) - 1;
      for (int e = 0; e < experts; ++e) {
        logits(t, e) = static_cast<T>(3 * random.normal());
        if (experts > 1 && random.below(9) == 0) logits(t, e) = static_cast<T>(-infinity);
        scores(t, e) = softmax_later ? logits(t, e) : sigmoid(logits(t, e));
      }
      if (experts > 1 && fate == 1) logits(t, random.below(experts)) = static_cast<T>(random.below(2) == 0 ? nan : infinity);
      if (fate == 2) std::fill_n(&scores(t, 0), experts, static_cast<T>(nan));   // left out though its logits are fine
      for (auto* rows : {&ids, &previous}) {
        for (int e = 0; e < experts; ++e) order[static_cast<std::size_t>(e)] = e;
        for (int i = 0; i < slots; ++i) {
          std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(i + random.below(experts - i))]);
          bool const dropped = random.below(5) == 0;
          (*rows)(t, i) = i < count[at] && !dropped ? order[static_cast<std::size_t>(i)] : -1;
        }
      }
    }
  }
  router_observation<T> seen(std::int64_t first, std::int64_t n) const {
    auto const rows = [&](auto const& m) { return decltype(m.view()){m.data.data() + first * m.columns, n, m.columns}; };
    return {rows(ids),      rows(logits), rows(scores), {count.data() + first, n}, {padding.data() + first, n}, {domain.data() + first, n},
            rows(previous)};
  }
  router_observation<T> seen() const { return seen(0, ids.rows); }
};

/// What a monitor of the batch must say, word by word from the definitions, a step being `step` tokens.
struct expected {
  std::vector<double> counts, probability;
  std::vector<std::vector<double>> of_domain, together;
  double tokens = 0, padding = 0, not_finite = 0, wanted = 0, chosen = 0, compared = 0, steps = 0;
  double confidence = 0, mass = 0, entropy = 0, lse = 0, largest = 0, margin = 0, overlap = 0, violation = 0, worst = 0;
};
double violation_of(std::vector<double> const& counts) {
  double sum = 0;
  for (auto const c : counts) sum += c;
  return *std::max_element(counts.begin(), counts.end()) / (sum / static_cast<double>(counts.size())) - 1;
}
template <class T>
expected brute_force(random_batch<T> const& b, int domains, bool softmax_later, std::int64_t step) {
  auto const experts = static_cast<std::size_t>(b.logits.columns);
  expected x{std::vector<double>(experts), std::vector<double>(experts), {}, {}};
  x.of_domain.assign(static_cast<std::size_t>(domains), std::vector<double>(experts));
  x.together.assign(experts, std::vector<double>(experts));
  std::vector<double> of_step(experts);
  for (std::int64_t t = 0; t < b.ids.rows; ++t) {
    std::vector<double> z(experts), p(experts);
    bool bad = false;
    double open = 0, partition = 0, sum = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      z[e] = static_cast<double>(b.logits(t, static_cast<std::int64_t>(e)));
      bad = bad || std::isnan(z[e]) || z[e] == infinity;
      open += z[e] > -infinity;
      partition += std::exp(z[e]);
      auto const s = static_cast<double>(b.scores(t, static_cast<std::int64_t>(e)));
      sum += p[e] = softmax_later ? std::exp(s) : s;
    }
    auto const at = static_cast<std::size_t>(t);
    if (b.padding[at] != 0) ++x.padding;
    else if (bad || open == 0) ++x.not_finite;
    else if (std::isnan(sum)) ++x.padding;
    else {
      ++x.tokens;
      x.lse += std::log(partition);
      for (auto const v : z)
        if (v > -infinity) x.largest = std::max(x.largest, std::abs(v));
      std::set<std::int32_t> now, before;
      for (std::int64_t i = 0; i < b.ids.columns; ++i) {
        if (b.ids(t, i) >= 0) now.insert(b.ids(t, i));
        if (b.previous(t, i) >= 0) before.insert(b.previous(t, i));
      }
      for (std::size_t e = 0; e < experts; ++e) {
        p[e] /= sum;
        x.probability[e] += p[e];
        if (p[e] > 0) x.entropy -= p[e] * std::log(p[e]);
      }
      for (auto const e : now) {
        auto const i = static_cast<std::size_t>(e);
        ++x.counts[i], ++of_step[i], x.mass += p[i];
        if (b.domain[at] >= 0) ++x.of_domain[static_cast<std::size_t>(b.domain[at])][i];
        for (auto const other : now)
          if (e < other) ++x.together[i][static_cast<std::size_t>(other)];
      }
      x.wanted += b.count[at];
      x.chosen += static_cast<double>(now.size());
      std::sort(p.begin(), p.end());
      x.confidence += p.back();
      x.margin += p.back() - (experts > 1 ? p[experts - 2] : 0);
      if (!now.empty() && !before.empty()) {
        std::set<std::int32_t> all = now;
        all.insert(before.begin(), before.end());
        x.overlap += static_cast<double>(now.size() + before.size() - all.size()) / static_cast<double>(all.size());
        ++x.compared;
      }
    }
    if ((t + 1) % step == 0 || t + 1 == b.ids.rows) {
      if (std::any_of(of_step.begin(), of_step.end(), [](double c) { return c > 0; })) {
        ++x.steps;
        x.violation += violation_of(of_step);
        x.worst = std::max(x.worst, violation_of(of_step));
      }
      std::fill(of_step.begin(), of_step.end(), 0.0);
    }
  }
  return x;
}

bool same_counts(router_monitor const& a, router_monitor const& b) {
  auto const &x = a.totals[0], &y = b.totals[0];
  bool same = x.tokens == y.tokens && x.padding == y.padding && x.not_finite == y.not_finite && x.with_logits == y.with_logits &&
              x.with_scores == y.with_scores && x.wanted == y.wanted && x.chosen == y.chosen && x.compared == y.compared &&
              x.steps == y.steps;
  for (int e = 0; e < a.shape.experts; ++e) same = same && a.counts[e] == b.counts[e] && a.step_counts[e] == b.step_counts[e];
  return same && same_bits(view<const std::int64_t>(a.domain_counts), view<const std::int64_t>(b.domain_counts)) &&
         same_bits(view<const std::int64_t>(a.coactivation), view<const std::int64_t>(b.coactivation));
}
bool near_sums(router_monitor const& a, router_monitor const& b) {
  auto const &x = a.totals[0], &y = b.totals[0];
  bool close = near(x.log_partition, y.log_partition) && near(x.confidence, y.confidence) &&
               near(x.chosen_probability, y.chosen_probability) && near(x.entropy, y.entropy) && near(x.margin, y.margin) && near(x.overlap, y.overlap) && near(x.violation, y.violation) &&
               x.largest_violation == y.largest_violation && x.largest_logit == y.largest_logit && x.bias_spread == y.bias_spread;
  for (int e = 0; e < a.shape.experts; ++e) close = close && near(a.probability[e], b.probability[e]);
  return close;
}

}  // namespace

TEST_CASE("four tokens by hand: f = (.5, .25, .25, 0), P = (.4, .3, .2, .1)") {
  std::vector<std::int32_t> const ids{0, 0, 1, 2};
  std::vector<double> scores, logits;
  for (int t = 0; t < 4; ++t)
    for (auto const p : {.4, .3, .2, .1}) scores.push_back(p), logits.push_back(std::log(p) + 1);
  owned m({.experts = 4});
  REQUIRE(observe(m, router_observation<double>{{ids.data(), 4, 1}, {logits.data(), 4, 4}, {scores.data(), 4, 4}}));
  std::vector<float> const bias{-.25f, 0, 0, .5f};
  observe_bias(m, bias);
  auto const s = summarize(m);
  CHECK(near(s.load.max_violation, 1.0));
  CHECK(near(s.load.min_violation, -1.0));
  CHECK(near(s.load.effective_experts, std::sqrt(8.0)));       // exp(1.5 ln 2) = 2.828
  CHECK(near(s.load.entropy, .75));
  CHECK(near(s.load.variation, std::sqrt(.5)));
  CHECK(near(s.gini, .375));
  CHECK(s.load.dead == 1);
  CHECK(near(s.balance, 1.3));
  CHECK(near(s.confidence, .4));
  CHECK(near(s.margin, .1));
  CHECK(near(s.chosen_probability, (.4 + .4 + .3 + .2) / 4));
  CHECK(near(s.router_entropy, -(.4 * std::log(.4) + .3 * std::log(.3) + .2 * std::log(.2) + .1 * std::log(.1))));
  CHECK(near(s.log_partition, 1.0));
  CHECK(near(s.largest_logit, -std::log(.1) - 1));
  CHECK(s.bias_spread == .75);
  CHECK(s.step_violation == s.load.max_violation);
  CHECK(s.drop_rate == 0);
  CHECK(s.stability == 0);
}

TEST_CASE_TEMPLATE("random batches are what the definitions say", T, double, float) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const experts = static_cast<int>(1 + random.below(24)), slots = static_cast<int>(1 + random.below(std::min(experts, 6)));
    auto const domains = static_cast<int>(random.below(4));
    auto const tokens = random.below(90), step = 1 + random.below(40);
    bool const softmax_later = random.below(2) == 0;
    random_batch<T> const batch(tokens, experts, slots, domains, softmax_later, random);
    owned m({experts, softmax_later ? probabilities::softmax : probabilities::shares, domains, true});
    for (std::int64_t first = 0; first < tokens; first += step) REQUIRE(observe(m, batch.seen(first, std::min(step, tokens - first))));

    auto const x = brute_force(batch, domains, softmax_later, step);
    auto const& totals = m.totals[0];
    CHECK(static_cast<double>(totals.tokens) == x.tokens);
    CHECK(static_cast<double>(totals.padding) == x.padding);
    CHECK(static_cast<double>(totals.not_finite) == x.not_finite);
    CHECK(static_cast<double>(totals.wanted) == x.wanted);
    CHECK(static_cast<double>(totals.chosen) == x.chosen);
    CHECK(static_cast<double>(totals.compared) == x.compared);
    CHECK(static_cast<double>(totals.steps) == x.steps);
    for (int e = 0; e < experts; ++e) {
      auto const i = static_cast<std::size_t>(e);
      CHECK(static_cast<double>(m.counts[e]) == x.counts[i]);
      CHECK(m.step_counts[e] == 0);
      CHECK(near<T>(m.probability[e], x.probability[i]));
      for (int d = 0; d < domains; ++d) CHECK(static_cast<double>(m.domain_counts(d, e)) == x.of_domain[static_cast<std::size_t>(d)][i]);
      for (int other = 0; other < experts; ++other)
        CHECK(static_cast<double>(m.coactivation(e, other)) == x.together[i][static_cast<std::size_t>(other)]);
    }
    CHECK(near<T>(totals.confidence, x.confidence));
    CHECK(near<T>(totals.chosen_probability, x.mass));
    CHECK(near<T>(totals.entropy, x.entropy));
    CHECK(near<T>(totals.log_partition, x.lse));
    CHECK(near<T>(totals.margin, x.margin));
    CHECK(near(totals.overlap, x.overlap));
    CHECK(near(totals.violation, x.violation));
    CHECK(near(totals.largest_violation, x.worst));
    CHECK(totals.largest_logit == x.largest);

    auto const s = summarize(m);
    double sum = 0, squares = 0, entropy = 0, apart = 0;
    for (auto const c : x.counts) sum += c;
    if (sum == 0) continue;
    auto const mean = sum / experts;
    for (auto const c : x.counts) {
      squares += (c / mean - 1) * (c / mean - 1);
      if (c > 0) entropy -= c / sum * std::log(c / sum);
      for (auto const other : x.counts) apart += std::abs(c - other);
    }
    CHECK(near(s.load.max_violation, violation_of(x.counts)));
    CHECK(near(s.load.min_violation, *std::min_element(x.counts.begin(), x.counts.end()) / mean - 1));
    CHECK(near(s.load.variation, std::sqrt(squares / experts)));
    CHECK(near(s.load.effective_experts, std::exp(entropy)));
    CHECK(near(s.load.entropy, experts == 1 ? 1 : entropy / std::log(experts)));
    CHECK(s.load.dead == std::count(x.counts.begin(), x.counts.end(), 0.0));
    CHECK(near(s.gini, apart / (2 * experts * sum)));
    CHECK(near(s.drop_rate, (x.wanted - x.chosen) / x.wanted));
    for (int d = 0; d < domains; ++d) {
      auto const& own = x.of_domain[static_cast<std::size_t>(d)];
      double all = 0, divergence = 0;
      for (auto const c : own) all += c;
      for (std::size_t e = 0; e < own.size(); ++e)
        if (own[e] > 0) divergence += own[e] / all * std::log(own[e] / all / (x.counts[e] / sum));
      CHECK(near(specialisation(m, d), divergence));
    }
  }
}

TEST_CASE("parts make the whole, in any order: counts to the bit, sums to rounding") {
  for (std::uint64_t seed = 101; seed <= 130; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    monitor_shape const shape{7, probabilities::shares, 3, true};
    random_batch<float> const batch(60, 7, 3, 3, false, random);
    std::int64_t const cut[] = {0, random.below(30), 30, 30 + random.below(30), 60};
    auto const part = [&](router_monitor const& m, int i) { return observe_part(m, batch.seen(cut[i], cut[i + 1] - cut[i])); };

    owned whole(shape);                            // two steps of 30 tokens
    REQUIRE(observe(whole, batch.seen(0, 30)));
    REQUIRE(observe(whole, batch.seen(30, 30)));

    owned a(shape), b(shape), c(shape), d(shape);  // each step by two threads, the second one first
    REQUIRE((part(a, 0) && part(b, 1) && part(c, 2) && part(d, 3)));
    REQUIRE(merge(b, a));
    end_step(b);
    REQUIRE(merge(d, c));
    end_step(d);
    REQUIRE(merge(d, b));
    CHECK(same_counts(whole, d));
    CHECK(near_sums(whole, d));

    owned left(shape), right(shape), x(shape), y(shape), z(shape), inner(shape);   // (x + y) + z = x + (y + z)
    REQUIRE((part(x, 0) && part(y, 1) && part(z, 2)));
    REQUIRE((merge(left, x) && merge(left, y) && merge(left, z)));
    REQUIRE((merge(inner, y) && merge(inner, z) && merge(right, x) && merge(right, inner)));
    CHECK(same_counts(left, right));
    CHECK(near_sums(left, right));
  }
}

TEST_CASE("monitors of different shapes do not merge") {
  owned four({.experts = 4}), five({.experts = 5}), kinds({.experts = 4, .domains = 1}), pairs({.experts = 4, .coactivation = true});
  CHECK(to_string(merge(four, five)).find("as many experts (expected 4, found 5)") != std::string::npos);
  CHECK(to_string(merge(four, kinds)).find("as many domains (expected 0, found 1)") != std::string::npos);
  CHECK(to_string(merge(four, pairs)).find("pairs of experts, or neither") != std::string::npos);
}

TEST_CASE("padding never counts, whatever it holds, and a bad token counts apart") {
  random_stream random(7);
  random_batch<float> batch(40, 6, 2, 2, false, random);
  owned clean({6, probabilities::shares, 2, true}), dirty(clean.shape);
  REQUIRE(observe(clean, batch.seen()));
  for (std::int64_t t = 0; t < 40; ++t)
    if (batch.padding[static_cast<std::size_t>(t)] != 0)
      for (int e = 0; e < 6; ++e) batch.logits(t, e) = batch.scores(t, e) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(observe(dirty, batch.seen()));
  CHECK(clean.totals[0].padding > 0);
  CHECK(clean.totals[0].not_finite > 0);
  CHECK(same_counts(clean, dirty));
  CHECK(near_sums(clean, dirty));
  auto const s = summarize(dirty);
  for (auto const x : {s.confidence, s.router_entropy, s.log_partition, s.largest_logit, s.margin, s.balance, s.load.variation})
    CHECK(std::isfinite(x));
}

TEST_CASE("ids alone are enough for the load") {
  std::vector<std::int32_t> const ids{0, 1, 1, -1, 2, 0};
  owned m({.experts = 3});
  REQUIRE(observe(m, router_observation<float>{{ids.data(), 3, 2}}));
  auto const s = summarize(m);
  CHECK(s.load.choices == 5);
  CHECK(near(s.drop_rate, 1.0 / 6));
  CHECK(s.confidence == 0);
  CHECK(m.totals[0].with_scores == 0);
}

TEST_CASE("no tokens, one expert, scores that are all zero") {
  owned none({.experts = 5, .domains = 1});
  REQUIRE(observe(none, router_observation<float>{}));
  auto const nothing = summarize(none);
  CHECK(nothing.load.choices == 0);
  CHECK(nothing.load.max_violation == 0);
  CHECK(nothing.load.effective_experts == 0);
  CHECK(nothing.drop_rate == 0);
  CHECK(nothing.balance == 0);
  CHECK(specialisation(none, 0) == 0);
  CHECK(none.totals[0].steps == 0);

  owned one({.experts = 1});
  std::vector<std::int32_t> const ids{0, 0};
  std::vector<float> const logits{3, -2}, scores{1, 1};
  REQUIRE(observe(one, router_observation<float>{{ids.data(), 2, 1}, {logits.data(), 2, 1}, {scores.data(), 2, 1}}));
  auto const all = summarize(one);
  CHECK(all.load.entropy == 1);
  CHECK(all.load.effective_experts == 1);
  CHECK(all.load.max_violation == 0);
  CHECK(all.gini == 0);
  CHECK(all.margin == 1);                                        // there is no second
  CHECK(all.balance == 1);
  CHECK(all.log_partition == .5);

  owned still({.experts = 2});                                   // ReLU scores may all be zero
  std::vector<float> const zero{0, 0};
  REQUIRE(observe(still, router_observation<float>{{ids.data(), 1, 1}, {}, {zero.data(), 1, 2}}));
  CHECK(summarize(still).router_entropy == 0);
  CHECK(summarize(still).confidence == 0);
}

TEST_CASE("an observation that does not fit is refused, and nothing of it counts") {
  owned m({.experts = 3, .domains = 2});
  std::vector<std::int32_t> const ids{0, 1, 3, 2}, fine{0, 1, 2, -1}, domain{0, 2};
  std::vector<float> const logits(8);
  std::vector<std::uint8_t> const padding(1);
  auto const says = [&](router_observation<float> const& o) { return to_string(observe(m, o)); };
  view<const std::int32_t> const two{fine.data(), 2, 2};
  CHECK(says({two, {logits.data(), 2, 4}}).find("must have a column an expert (expected 3, found 4)") != std::string::npos);
  CHECK(says({two, {}, {logits.data(), 1, 3}}).find("must have a row a token, or be empty (expected 2, found 1)") != std::string::npos);
  CHECK(says({.ids = two, .count = {fine.data(), 3}}).find("count must have an entry a token") != std::string::npos);
  CHECK(says({.ids = two, .padding = padding}).find("padding must have an entry a token") != std::string::npos);
  CHECK(says({.ids = two, .domain = {fine.data(), 1}}).find("domain must have an entry a token") != std::string::npos);
  CHECK(says({.ids = two, .domain = domain}).find("domain must be one of the monitor's") != std::string::npos);
  CHECK(says({.ids = two, .previous_ids = {fine.data(), 1, 2}}).find("previous_ids must be of the shape of ids") != std::string::npos);
  CHECK(says({{ids.data(), 2, 2}}).find("ids must be experts of the monitor, or −1 (expected 0 to 2, found 3)") != std::string::npos);
  CHECK(m.totals[0].tokens == 0);
  CHECK(m.step_counts[0] == 0);
}

namespace {

/// A stream of top-2 choices of 8 experts; the bias of the first `favourites` experts grows by `pull` a step, as without a balance loss.
struct stream {
  random_stream random;
  double pull;
  int favourites;
  int steps_until(collapse_detector const& detector, int steps, int tokens) {
    owned m({.experts = 8});
    for (int step = 1; step <= steps; ++step) {
      matrix<std::int32_t> ids(tokens, 2);
      for (std::int64_t t = 0; t < tokens; ++t) {
        double choice[8];
        for (int e = 0; e < 8; ++e) choice[e] = static_cast<double>(random.normal()) + (e < favourites ? pull * step : 0);
        top_k(choice, 8, 2, &ids(t, 0));
      }
      REQUIRE(observe(m, router_observation<float>{ids.view()}, &detector));
      if (detector.collapsed()) return step;
    }
    return 0;
  }
};

}  // namespace

TEST_CASE("the detector finds a planted collapse and leaves a balanced stream alone, at any size of step") {
  for (auto const tokens : {2, 16, 300})
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      CAPTURE(seed);
      CAPTURE(tokens);
      owned_detector const balanced({}, 8), planted({}, 8), dead({.least_effective = 0}, 8), slow({.most_dead = 1}, 8);
      auto const steps = std::max(20, 60 * 128 / tokens);
      CHECK(stream{random_stream(seed), 0, 0}.steps_until(balanced, steps, tokens) == 0);
      CHECK(balanced.state[0].last.choices >= 8 * 32);
      auto const pull = 8.0 / steps;
      CHECK(stream{random_stream(seed), pull, 2}.steps_until(planted, steps, tokens) > 0);
      CHECK(stream{random_stream(seed), pull, 2}.steps_until(dead, steps, tokens) > 0);
      CHECK(dead.state[0].last.dead > 2);
      CHECK(stream{random_stream(seed), pull, 2}.steps_until(slow, steps, tokens) > 0);
      CHECK(slow.state[0].last.effective_experts < 4);
    }
}

TEST_CASE("the detector wants low looks in a row, and stays tripped") {
  owned_detector const d({.least_effective = .6, .most_dead = 1, .looks = 3, .choices = 1}, 4);
  std::vector<std::int64_t> const low{9, 9, 0, 0}, high{5, 5, 5, 5}, none(4);
  CHECK_FALSE(watch(d, low));
  CHECK_FALSE(watch(d, low));
  CHECK_FALSE(watch(d, none));                     // no step, no look
  CHECK_FALSE(watch(d, high));                     // begins anew
  CHECK_FALSE(watch(d, low));
  CHECK_FALSE(watch(d, low));
  CHECK(watch(d, low));
  CHECK(watch(d, high));
  clear(d);
  CHECK_FALSE(watch(d, high));
  owned_detector const early({.most_dead = .25, .choices = 1}, 4);
  CHECK(watch(early, low));                        // half of them are dead: one look is enough
}

namespace {

/// Every second choice beyond the first falls away, as under a capacity.
struct dropping : routing::standard {
  static constexpr bool settles = true;
  static void settle_batch(router_config const&, serial_group const&, state const&, auto const&, auto const& slots, list<std::byte>) {
    for (std::int64_t t = 0; t < slots.ids.rows; t += 2) slots.ids(t, 1) = -1, slots.weights(t, 1) = 0;
  }
};
/// Every second token is content with one expert.
struct sparing : routing::standard {
  template <class T>
  static int cut(router_config const&, state const&, std::int64_t token, T const*, T const*, std::int32_t const*, int) {
    return token % 2 == 0 ? 1 : 2;
  }
};
template <dtype Activations>
struct mixture {
  static constexpr block_config config{.hidden = 48,
                                       .attention = {.heads = 4},
                                       .router = {.experts = 6, .top_k = 2, .renormalize = true, .score_bias = true},
                                       .expert = {.intermediate = 32},
                                       .storage = {.activations = Activations}};
};
template <dtype Activations>
struct capped : mixture<Activations> {
  using routing = dropping;
};
template <dtype Activations>
struct short_lists : mixture<Activations> {
  using routing = sparing;
};
template <dtype Activations>
struct plain {
  static constexpr block_config config{
      .hidden = 48, .attention = {.heads = 4}, .expert = {.intermediate = 40}, .storage = {.activations = Activations}};
};
template <dtype Activations>
struct model {
  static constexpr decoder_config config{.vocabulary = 50};
  using layers = moesaic::layers<plain<Activations>, mixture<Activations>, capped<Activations>, short_lists<Activations>>;
};

}  // namespace

TEST_CASE_TEMPLATE("behind a running model: every layer with a router, whatever the threads, and the same output", Model,
                   model<dtype::fp32>, model<dtype::bf16>, model<dtype::fp64>) {
  using net = decoder<Model>;
  using monitors = layer_monitors<typename Model::layers>;
  constexpr int rows = 20, steps = 3;
  static constexpr monitor_options options{.domains = 2, .coactivation = true, .compared_rows = rows};
  std::vector<std::int32_t> ids(rows), sequence(rows), position(rows), domain(rows);
  std::vector<std::uint8_t> padding(rows);
  for (std::size_t i = 0; i < rows; ++i) sequence[i] = static_cast<std::int32_t>(i), domain[i] = i % 2 == 0, padding[i] = i < 3;

  auto const run = [&](int threads, bool watched) {
    host::pool cpu(threads);
    auto const weights = net::load(cpu, random_source{5});
    auto const caches = net::make_cache(cpu, rows, steps);
    host::buffer const memory{monitors::bytes(options)}, workspace{net::workspace_bytes(rows, rows)};
    monitors seen{memory, options};
    matrix<typename net::sum> logits(rows, 50);
    for (std::int32_t step = 0; step < steps; ++step) {
      for (std::int32_t i = 0; i < rows; ++i) ids[static_cast<std::size_t>(i)] = (7 * i + 3 * step) % 50;
      position.assign(rows, step);
      auto const call = [&](auto&& tap) {
        return net::forward(cpu, weights, {ids, sequence, position}, caches, every_token, logits.view(), workspace, {}, tap);
      };
      REQUIRE((watched ? call(seen.tap({padding, domain})) : call(no_tap{})));
    }
    seen.observe_biases(static_cast<decoder_weights const&>(weights).layers);
    CHECK(seen.counted());
    return std::pair{logits.data, to_json(routers_of(seen), {"even", "odd"})};
  };
  auto const alone = run(1, false), one = run(1, true), three = run(3, true);
  CHECK(alone.first == one.first);
  CHECK(one.first == three.first);
  CHECK(one.second == three.second);

  auto const json = nlohmann::json::parse(one.second);
  REQUIRE(json["layers"].size() == 3);
  for (int i = 0; i < 3; ++i) {
    auto const& layer = json["layers"][static_cast<std::size_t>(i)];
    CHECK(layer["layer"] == i + 1);
    CHECK(layer["experts"] == 6);
    CHECK(layer["steps"] == steps);
    CHECK(layer["tokens"] == (rows - 3) * steps);
    CHECK(layer["padding"] == 3 * steps);
    int choices = 0, pairs = 0;
    for (int const n : layer["counts"]) choices += n;
    for (auto const& pair : layer["together"]) pairs += pair[2].template get<int>();
    int const missing = i > 0 ? 8 * steps : 0;                   // of rows 4, 6, …, 18
    int const dropped = i == 1 ? missing : 0;
    CHECK(choices == 2 * (rows - 3) * steps - missing);
    CHECK(pairs == (rows - 3) * steps - missing);
    CHECK(near(layer["drop_rate"], dropped / (2.0 * (rows - 3) * steps)));
    CHECK(near(layer["experts_a_token"], static_cast<double>(choices) / ((rows - 3) * steps)));
    CHECK(layer["bias_spread"].template get<double>() > 0);
    CHECK(layer["stability"].template get<double>() > 0);
    CHECK(layer["stability"].template get<double>() < 1);
    double probability = 0;
    for (double const p : layer["probability"]) probability += p;
    CHECK(near<float>(probability, 1));
    auto const& domains = layer["domains"];
    CHECK(domains[0]["name"] == "even");
    for (std::size_t e = 0; e < 6; ++e)
      CHECK(domains[0]["counts"][e].template get<int>() + domains[1]["counts"][e].template get<int>() == layer["counts"][e]);
  }
}

namespace {
struct two_levels {
  static constexpr block_config config{.hidden = 48, .attention = {.heads = 4},
      .router = {.experts = 6, .top_k = 2, .groups = 3, .top_groups = 2, .group_gate = true}, .expert = {.intermediate = 40},
      .storage = {.weights = dtype::fp32}};
  using routing = moesaic::routing::hierarchical<>;
};
}  // namespace

TEST_CASE("a group gate's logits are no experts': the monitor sees those of the experts") {
  using L = layer_monitors<layers<two_levels>>;
  using lay = block<two_levels>;
  std::int32_t const rows = 5;
  std::vector<std::byte> memory(L::bytes());
  L monitors{memory};
  host::pool cpu(1);
  auto const weights = lay::load(cpu, random_source{1}, "");
  auto const cache = lay::make_cache(cpu, rows, 1);
  auto call = monitors.tap();
  host::buffer const workspace{lay::template workspace_bytes<L::call_tap>(rows)};
  matrix<float> x(rows, 48), y(rows, 48);
  for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] = static_cast<float>(i % 7) - 3;
  std::vector<std::int32_t> sequence, position(rows, 0);
  for (std::int32_t t = 0; t < rows; ++t) sequence.push_back(t);
  REQUIRE(lay::forward(cpu, weights, {x.view(), sequence, position}, cache, y.view(), workspace, {}, call));
  CHECK(to_string(monitors.counted()) == "ok");
  CHECK(monitors[0].totals[0].tokens == rows);
  CHECK(monitors[0].totals[0].with_logits == rows);
  CHECK(monitors[0].totals[0].chosen == 2 * rows);
}

TEST_CASE("monitors of a model: memory, merging, clearing, a call they cannot count, a collapse") {
  using monitors = layer_monitors<typename model<dtype::fp32>::layers>;
  std::vector<std::byte> memory(monitors::bytes()), more(monitors::bytes());
  CHECK(refusal([&] { monitors{{memory.data(), 100}}; }).find("layer_monitors: expected ") == 0);
  monitors a{memory}, b{more};
  CHECK(a[0].shape.experts == 0);
  std::vector<std::int32_t> const ids{3, 4, 3, 1}, count{2, 2};
  auto const call = [&](monitors& m, int layer, monitored_call const& about) {
    auto tap = m.tap(about);
    tap({layer, stage::topk_index}, view<const std::int32_t>{ids.data(), 2, 2});
    tap({layer, stage::topk_count}, view<const std::int32_t>{count.data(), 2, 1});
  };
  call(a, 1, {});
  call(b, 1, {});
  REQUIRE(a.merge(b));
  CHECK(a[1].counts[3] == 4);
  CHECK(a[1].totals[0].steps == 2);
  CHECK(a[2].totals[0].steps == 0);
  std::vector<std::uint8_t> const padding(3);
  call(a, 1, {.padding = padding});
  CHECK(to_string(a.counted()).find("padding must have an entry a token") == 0);
  a.clear();
  CHECK(a.counted());
  CHECK(a[1].counts[3] == 0);
  CHECK(a.collapsed() == -1);
  for (int i = 0; i < 100; ++i) call(a, 2, {});
  CHECK(a.collapsed() == 2);
}

TEST_CASE("the table has a line a layer, and JSON survives any name") {
  owned m({.experts = 4, .domains = 1});
  std::vector<std::int32_t> const ids{0, 0, 1, 2}, domain(4, 0);
  std::vector<float> const bad{0, 1, std::numeric_limits<float>::infinity(), 0};
  REQUIRE(observe(m, router_observation<float>{.ids = {ids.data(), 4, 1}, .domain = domain}));
  REQUIRE(observe(m, router_observation<float>{{ids.data(), 1, 1}, {bad.data(), 1, 4}}));
  auto const table = to_table({{7, m}}, {"prose"});
  CHECK(table.find("\n    7       4         4     1.000     1.000     1.000    -1.000") != std::string::npos);
  CHECK(table.find("prose") != std::string::npos);
  CHECK(table.find("layer 7: 1 tokens had logits that are not finite") != std::string::npos);
  std::string const name = "a \"quoted\\\" name,\n\ttwo lines, 100 %s";
  auto const json = nlohmann::json::parse(to_json({{7, m}}, {name}));
  CHECK(json["layers"][0]["domains"][0]["name"] == name);
  CHECK(json["layers"][0]["effective_experts"].get<double>() == summarize(m).load.effective_experts);
  CHECK(nlohmann::json::parse(to_json({}))["layers"].empty());
}
