// As many experts as a token needs: by share of the scores, by threshold, and those above zero.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/variable_k.hpp>

#include "routing/support.hpp"

using namespace moesaic;
using namespace moesaic::test;

TEST_CASE_TEMPLATE("top-p takes the crossing expert too: none of the shares, some, all", T, float, double) {
  // .349738 .234436 .128661 .116418 .063891 .063891 .028708 .014256: sums .349738 .584174 .712835 .829253 .893144 .957035 .985743 1
  auto const count = [](float p, int top_k = 8) {
    return route_one<routing::top_p<>, T>({.top_k = top_k}, as<T>(golden), {{}, p}).count[0];
  };
  CHECK(count(-1) == 1);
  CHECK(count(0) == 1);
  CHECK(count(.349f) == 1);
  CHECK(count(.35f) == 2);
  CHECK(count(.584f) == 2);
  CHECK(count(.585f) == 3);
  CHECK(count(.9f) == 6);
  CHECK(count(.9f, 4) == 4);                                     // top_k is the most
  CHECK(count(.99f) == 8);
  CHECK(count(1) == 8);
  CHECK(count(2) == 8);
}

TEST_CASE_TEMPLATE("top-p takes the smallest of all subsets that gather p", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = static_cast<int>(1 + random.below(12));
    auto const p = random.uniform();
    router_config const c{.experts = experts, .top_k = experts, .renormalize = random.below(2) == 0};
    auto const r = route_one<routing::top_p<>, T>(c, random_logits<T>(random, experts), {{}, p});
    unsigned smallest = static_cast<unsigned>(experts);
    double margin = 1;                                           // by how much the nearest subset of any size gathers more or less than p
    for (unsigned set = 1; set < 1u << experts; ++set) {
      double sum = 0;
      for (int e = 0; e < experts; ++e)
        if (set >> e & 1) sum += static_cast<double>(r.scores[static_cast<std::size_t>(e)]);
      auto const members = static_cast<unsigned>(__builtin_popcount(set));
      if (sum >= static_cast<double>(p)) smallest = std::min(smallest, members);
      margin = std::min(margin, std::fabs(sum - static_cast<double>(p)));
    }
    if (margin > routing_tolerance<T>) CHECK(r.count[0] == static_cast<int>(smallest));
    auto order = by_value(r.scores);
    order.resize(static_cast<std::size_t>(r.count[0]));
    CHECK(r.ids[0] == order);
  }
}

TEST_CASE_TEMPLATE("top-p gathers everything, and thresholds admit everyone: the plain router, bit for bit", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    router_config const c{.experts = 10, .top_k = static_cast<int>(1 + random.below(10)), .renormalize = random.below(2) == 0};
    auto const logits = random_logits<T>(random, 30 * 10);
    auto const plain = route_all<routing::standard, T>(c, {}, logits);
    auto const all = route_all<routing::top_p<>, T>(c, {{}, 1}, logits);
    CHECK(all.raw_ids == plain.raw_ids);
    CHECK(all.raw_weights == plain.raw_weights);
    float const low = -1;
    auto const admitted = route_all<routing::threshold<>, T>(c, {{}, {&low, 1}}, logits);
    CHECK(admitted.raw_ids == plain.raw_ids);
    CHECK(admitted.raw_weights == plain.raw_weights);
  }
}

TEST_CASE_TEMPLATE("a threshold an expert, one for all, and who is left where nobody passes", T, float, double) {
  router_config const c{.top_k = 8, .score = score::sigmoid};   // .731059 .377541 .880797 .574443 .574443 .231475 .710950 .832018
  std::vector<float> const each{.8f, .3f, .9f, .5f, .6f, .2f, .8f, .8f}, high(8, .95f);
  auto const r = route_one<routing::threshold<>, T>(c, as<T>(golden), {{}, each});
  CHECK(r.ids[0] == ids_of_token{7, 3, 1, 5});
  check_printed(r.weights[0], {.832018, .574443, .377541, .231475});
  float const one = .7f;
  CHECK(route_one<routing::threshold<>, T>(c, as<T>(golden), {{}, {&one, 1}}).ids[0] == ids_of_token{2, 7, 0, 6});
  CHECK(route_one<routing::threshold<>, T>(c, as<T>(golden), {{}, high}).ids[0] == ids_of_token{2});
  auto const none = route_one<routing::threshold<>, T>(c, as<T>(golden), {{}, high, false});
  CHECK(none.count[0] == 0);
  CHECK(none.finite);
  auto const equals = route_one<routing::threshold<>, T>({.top_k = 1, .score = score::sigmoid}, {T(0), T(0)}, {{}, {&high[0], 1}});
  CHECK(equals.ids[0] == ids_of_token{0});
}

TEST_CASE_TEMPLATE("thresholds against a list of those that pass", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = static_cast<int>(1 + random.below(12));
    router_config const c{.experts = experts, .top_k = static_cast<int>(1 + random.below(experts)), .score = score::sigmoid};
    std::vector<float> bar;
    for (int e = 0; e < experts; ++e) bar.push_back(random.uniform());
    bool const one = random.below(2) == 0;
    auto const r = route_one<routing::threshold<>, T>(c, random_logits<T>(random, experts), {{}, bar, one});
    ids_of_token passing;
    for (auto const e : by_value(r.scores))
      if (r.scores[static_cast<std::size_t>(e)] > static_cast<T>(bar[static_cast<std::size_t>(e)])) passing.push_back(e);
    if (passing.empty() && one) passing.push_back(by_value(r.scores)[0]);
    if (static_cast<int>(passing.size()) > c.top_k) passing.resize(static_cast<std::size_t>(c.top_k));
    CHECK(r.ids[0] == passing);
  }
}

TEST_CASE_TEMPLATE("ReLU routing drops the experts that weigh nothing, and nothing else", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = static_cast<int>(1 + random.below(12));
    router_config c{.experts = experts, .top_k = static_cast<int>(1 + random.below(experts)), .score = score::relu,
                    .renormalize = random.below(2) == 0};
    if (random.below(2) == 0) c.position = score_position::after_top_k;
    auto const logits = random_logits<T>(random, experts);
    auto const plain = route_one<routing::standard, T>(c, logits), r = route_one<routing::positive<>, T>(c, logits);
    ids_of_token ids;
    std::vector<T> weights;
    for (std::size_t i = 0; i < plain.ids[0].size(); ++i)
      if (logits[static_cast<std::size_t>(plain.ids[0][i])] > T(0)) ids.push_back(plain.ids[0][i]), weights.push_back(plain.weights[0][i]);
    CHECK(r.ids[0] == ids);
    CHECK(r.weights[0] == weights);
  }
}

TEST_CASE("thresholds of another number of experts are refused by name") {
  std::vector<float> const three(3);
  auto const done = state_fits<routing::threshold<>>({.experts = 8, .top_k = 2}, {{}, three}, 5);
  CHECK(to_string(done) == "thresholds must have an entry an expert, or one (expected 8, found 3)");
  CHECK(state_fits<routing::threshold<>>({.experts = 3, .top_k = 2}, {{}, three}, 5));
  CHECK(state_fits<routing::threshold<>>({.experts = 8, .top_k = 2}, {{}, {three.data(), 1}}, 5));
}
