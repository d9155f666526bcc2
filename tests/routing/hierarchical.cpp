// Two levels of gates: against formulas in long double, and where they must be a flat router.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include <moesaic/route/allowed.hpp>
#include <moesaic/route/hierarchical.hpp>

#include "routing/support.hpp"

using namespace moesaic;
using namespace moesaic::test;

using two_levels = routing::hierarchical<>;
static_assert(routing_policy<two_levels, float> && routing_policy<two_levels, double>);

namespace {

router_config random_config(random_stream& random) {
  router_config c;
  c.groups = static_cast<int>(1 + random.below(4));
  int const width = static_cast<int>(1 + random.below(4));
  c.experts = c.groups * width;
  c.top_groups = static_cast<int>(1 + random.below(c.groups));
  c.top_k = c.top_groups * static_cast<int>(1 + random.below(width));
  c.group_gate = true;
  c.renormalize = random.below(2) == 0;
  c.routed_scale = random.below(2) == 0 ? 2.5 : 1;
  c.logit_softcap = random.below(3) == 0 ? 3 : 0;
  c.score_bias = random.below(2) == 0;
  return c;
}

// Normal and without ties: which group is best must not hang on a rounding.
template <class T>
std::vector<T> drawn(random_stream& random, std::int64_t n) {
  std::vector<T> z;
  for (std::int64_t i = 0; i < n; ++i) z.push_back(static_cast<T>(random.normal()));
  return z;
}

}  // namespace

TEST_CASE_TEMPLATE("scores are products, groups are chosen by the gate and experts inside them, weights by both levels", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    int const width = c.experts / c.groups, each = c.top_k / c.top_groups;
    auto const logits = drawn<T>(random, c.experts + c.groups);
    std::vector<float> bias;
    for (int e = 0; c.score_bias && e < c.experts; ++e) bias.push_back(0.3f * random.normal());
    auto const r = route_one<two_levels, T>(c, logits, {}, bias);
    REQUIRE(r.finite);

    std::vector<long double> z(logits.begin(), logits.end());
    if (c.logit_softcap != 0)
      for (auto& x : z) x = c.logit_softcap * std::tanh(x / c.logit_softcap);
    auto const gate = softmax({z.begin() + c.experts, z.end()});
    std::vector<std::vector<long double>> inner;
    for (int i = 0; i < c.groups; ++i) inner.push_back(softmax({z.begin() + i * width, z.begin() + (i + 1) * width}));
    auto groups = by_value(gate);
    groups.resize(static_cast<std::size_t>(c.top_groups));
    std::vector<T> choice(static_cast<std::size_t>(c.experts), -infinity<T>);
    std::vector<long double> weight(static_cast<std::size_t>(c.experts));
    long double chosen_groups = 0;
    for (auto const i : groups) chosen_groups += gate[static_cast<std::size_t>(i)];
    for (int i = 0; i < c.groups; ++i)
      for (int e = 0; e < width; ++e) {
        auto const at = static_cast<std::size_t>(i * width + e);
        CHECK(near(r.scores[at], gate[static_cast<std::size_t>(i)] * inner[static_cast<std::size_t>(i)][static_cast<std::size_t>(e)]));
      }
    for (auto const i : groups) {
      std::vector<T> of_group;
      for (int e = i * width; e < (i + 1) * width; ++e)
        of_group.push_back(r.scores[static_cast<std::size_t>(e)] + (c.score_bias ? static_cast<T>(bias[static_cast<std::size_t>(e)]) : T(0)));
      auto best = by_value(of_group);
      best.resize(static_cast<std::size_t>(each));
      long double sum = 0;
      for (auto const e : best) sum += inner[static_cast<std::size_t>(i)][static_cast<std::size_t>(e)];
      for (auto const e : best) {
        auto const at = static_cast<std::size_t>(i * width + e);
        choice[at] = of_group[static_cast<std::size_t>(e)];
        auto const p = gate[static_cast<std::size_t>(i)], q = inner[static_cast<std::size_t>(i)][static_cast<std::size_t>(e)];
        weight[at] = c.routed_scale * (c.renormalize ? p / chosen_groups * q / sum : p * q);
      }
    }
    auto const expected = by_value(choice);
    CHECK(r.ids[0] == expected);
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(near(r.weights[0][i], weight[static_cast<std::size_t>(expected[i])], 2.5));
    if (c.renormalize) CHECK(near(std::accumulate(r.weights[0].begin(), r.weights[0].end(), T(0)), c.routed_scale, 2.5));
  }
}

TEST_CASE_TEMPLATE("one group, or groups of one expert: the flat router, bit for bit", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const n = static_cast<int>(1 + random.below(12)), k = static_cast<int>(1 + random.below(n));
    bool const renormalize = random.below(2) == 0;
    auto const logits = random_logits<T>(random, n);
    router_config const flat{.experts = n, .top_k = k, .renormalize = renormalize};
    auto const plain = route_one<routing::standard, T>(flat, logits);

    auto one = logits;                                              // a gate of one group: its logit says nothing
    one.push_back(static_cast<T>(random.normal()));
    auto c = flat;
    c.group_gate = true;
    auto const of_one = route_one<two_levels, T>(c, one);
    CHECK(of_one.raw_ids == plain.raw_ids);
    CHECK(of_one.raw_weights == plain.raw_weights);

    auto single = drawn<T>(random, n);                              // groups of one: the expert's own logit says nothing
    single.insert(single.end(), logits.begin(), logits.end());
    c.groups = n;
    c.top_groups = k;
    auto const of_single = route_one<two_levels, T>(c, single);
    CHECK(of_single.raw_ids == plain.raw_ids);
    CHECK(of_single.raw_weights == plain.raw_weights);
  }
}

TEST_CASE_TEMPLATE("everything chosen: the flat softmax of product weights, summing to one with and without renormalising", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    router_config c{.experts = 12, .top_k = 12, .groups = 3, .top_groups = 3, .renormalize = random.below(2) == 0, .group_gate = true};
    auto const logits = drawn<T>(random, 15);
    auto const r = route_one<two_levels, T>(c, logits);
    std::vector<long double> product;                               // log (G_i · G_ij)
    auto const gate = softmax({logits.begin() + 12, logits.end()});
    for (int i = 0; i < 3; ++i)
      for (auto const q : softmax({logits.begin() + 4 * i, logits.begin() + 4 * (i + 1)}))
        product.push_back(std::log(gate[static_cast<std::size_t>(i)] * q));
    auto const flat = softmax(product);
    for (std::size_t i = 0; i < 12; ++i) CHECK(near(r.weights[0][i], flat[static_cast<std::size_t>(r.ids[0][i])]));
    CHECK(near(std::accumulate(r.weights[0].begin(), r.weights[0].end(), T(0)), 1));
  }
}

TEST_CASE_TEMPLATE("of equal experts of a group the lower ones, and no more than its share of k", T, float, double) {
  router_config const c{.experts = 8, .top_k = 4, .groups = 2, .top_groups = 2, .group_gate = true};
  auto const r = route_one<two_levels, T>(c, {T(1), T(1), T(1), T(0), T(0), T(1), T(0), T(1), T(3), T(0)});
  CHECK(r.ids[0] == ids_of_token{0, 1, 5, 7});
}

TEST_CASE_TEMPLATE("a gate that is not finite, a group shut by its gate or by its experts, and masks", T, float, double) {
  router_config const c{.experts = 4, .top_k = 2, .groups = 2, .top_groups = 1, .renormalize = true, .group_gate = true};
  auto const nan = std::numeric_limits<T>::quiet_NaN();
  for (auto const bad : {nan, infinity<T>}) {
    auto const r = route_one<two_levels, T>(c, {T(1), T(2), T(3), T(4), T(0), bad});
    CHECK_FALSE(r.finite);
    CHECK(r.ids[0].empty());
  }
  CHECK_FALSE(route_one<two_levels, T>(c, {T(1), T(2), T(3), T(4), -infinity<T>, -infinity<T>}).finite);
  CHECK(route_one<two_levels, T>(c, {T(1), T(2), T(3), T(4), T(0), T(1)}).ids[0] == ids_of_token{3, 2});
  CHECK(route_one<two_levels, T>(c, {T(1), T(2), T(3), T(4), T(0), -infinity<T>}).ids[0] == ids_of_token{1, 0});
  CHECK(route_one<two_levels, T>(c, {T(1), T(2), -infinity<T>, -infinity<T>, T(0), T(9)}).ids[0] == ids_of_token{1, 0});
  CHECK(route_one<two_levels, T>(c, {T(1), T(2), T(3), -infinity<T>, T(0), T(9)}).ids[0] == ids_of_token{2});
  auto both = c;
  both.top_groups = 2;
  CHECK(route_one<two_levels, T>(both, {T(1), T(2), T(3), T(4), T(0), -infinity<T>}).ids[0] == ids_of_token{1});
  std::vector<std::uint8_t> const mask{1, 1, 0, 1}, none(4);
  using masked = routing::hierarchical<routing::allowed<>>;
  CHECK(route_one<masked, T>(c, {T(1), T(2), T(3), T(4), T(0), T(9)}, {{}, {}, {mask.data(), 1, 4}}).ids[0] == ids_of_token{3});
  auto const nobody = route_one<masked, T>(c, {T(1), T(2), T(3), T(4), T(0), T(9)}, {{}, {}, {none.data(), 1, 4}});
  CHECK(nobody.ids[0].empty());
  CHECK(nobody.finite);
}

TEST_CASE_TEMPLATE("a mask under two levels is logits of −inf, bit for bit", T, float, double) {
  using masked = routing::hierarchical<routing::allowed<>>;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    auto logits = drawn<T>(random, c.experts + c.groups);
    std::vector<float> const bias(static_cast<std::size_t>(c.score_bias ? c.experts : 0), .125f);
    std::vector<std::uint8_t> mask, second;
    for (int e = 0; e < c.experts; ++e) mask.push_back(random.below(3) != 0), second.push_back(random.below(4) != 0);
    masked::state s{};
    s.mask = {mask.data(), 1, c.experts};
    auto const r = route_one<masked, T>(c, logits, s, bias);
    auto forbidden = logits;
    bool open = false;
    for (std::size_t e = 0; e < mask.size(); ++e) mask[e] == 0 ? void(forbidden[e] = -infinity<T>) : void(open = true);
    CHECK(r.finite);
    if (!open) CHECK(r.ids[0].empty());
    if (!open) continue;
    auto const want = route_one<two_levels, T>(c, forbidden, {}, bias);
    CHECK(r.raw_ids == want.raw_ids);
    CHECK(r.raw_weights == want.raw_weights);
    CHECK(r.scores == want.scores);

    using twice = routing::hierarchical<routing::allowed<routing::allowed<>>>;
    twice::state both{};
    both.mask = {second.data(), 1, c.experts};
    static_cast<routing::allowed<>::state&>(both).mask = s.mask;
    auto const none_forbidden = [&](ids_of_token const& ids) {
      return std::all_of(ids.begin(), ids.end(), [&](auto e) { return mask[static_cast<std::size_t>(e)] && second[static_cast<std::size_t>(e)]; });
    };
    CHECK(none_forbidden(route_one<twice, T>(c, logits, both, bias).ids[0]));
  }
}
