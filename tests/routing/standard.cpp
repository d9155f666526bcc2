// The rules that a router_config describes: published vectors, every subset, random configurations, and every way that input can be odd.
// SPDX-License-Identifier: Apache-2.0
#include <barrier>
#include <numeric>
#include <thread>

#include <moesaic/route/hash.hpp>
#include <moesaic/route/replay.hpp>

#include "routing/support.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

// ln(1 + e^z) and its root, and so on, in long double.
long double reference_score(score kind, long double z) {
  switch (kind) {
    case score::sigmoid: return 1 / (1 + std::exp(-z));
    case score::sqrt_softplus: return std::sqrt(std::max(z, 0.0L) + std::log1p(std::exp(-std::fabs(z))));
    case score::relu: return std::max(z, 0.0L);
    default: return z;
  }
}

template <class T>
std::vector<long double> reference_scores(router_config const& c, std::vector<T> const& logits) {
  std::vector<long double> z(logits.begin(), logits.end());
  if (c.logit_softcap != 0)
    for (auto& x : z) x = std::isinf(x) ? x : c.logit_softcap * std::tanh(x / c.logit_softcap);
  if (c.position == score_position::after_top_k) return z;
  if (c.score == score::softmax) return softmax(z);
  for (auto& x : z) x = reference_score(c.score, x);
  return z;
}

std::vector<long double> reference_weights(router_config const& c, std::vector<long double> const& scores, ids_of_token const& ids) {
  std::vector<long double> w;
  for (auto const e : ids) w.push_back(c.weights == combine_weight::ones ? 1 : scores[static_cast<std::size_t>(e)]);
  if (c.weights == combine_weight::ones || w.empty()) return w;
  if (c.position == score_position::after_top_k && c.score == score::softmax) w = softmax(w);
  else if (c.position == score_position::after_top_k)
    for (auto& x : w) x = reference_score(c.score, x);
  auto sum = std::accumulate(w.begin(), w.end(), 0.0L) + c.sum_epsilon;
  sum = std::max<long double>(sum, c.sum_floor);
  for (auto& x : w) x *= c.routed_scale / (c.renormalize ? (sum == 0 ? 1 : sum) : 1);
  return w;
}

// Whether a set of members is one of `size` of n.
std::vector<unsigned> subsets(int n, int size) {
  std::vector<unsigned> all;
  for (unsigned set = 0; set < 1u << n; ++set)
    if (__builtin_popcount(set) == size) all.push_back(set);
  return all;
}

// The groups that stay: of all sets of top_groups groups that of largest worth; of several, that of the lowest indices.
template <class T>
unsigned best_groups(router_config const& c, std::vector<T> const& choice) {
  int const width = c.experts / c.groups;
  std::vector<T> worth;
  for (int group = 0; group < c.groups; ++group) {
    std::vector<T> members(choice.begin() + group * width, choice.begin() + (group + 1) * width);
    std::sort(members.rbegin(), members.rend());
    bool const two = c.group_worth == group_worth::top2_sum && members[1] > -infinity<T>;
    worth.push_back(two ? members[0] + members[1] : members[0]);
  }
  unsigned best = 0;
  std::vector<T> best_worths;
  for (auto const set : subsets(c.groups, c.top_groups)) {
    std::vector<T> worths;
    for (int group = 0; group < c.groups; ++group)
      if (set >> group & 1) worths.push_back(worth[static_cast<std::size_t>(group)]);
    std::sort(worths.rbegin(), worths.rend());
    bool const lower = best != 0 && (set ^ best) != 0 && ((set ^ best) & -(set ^ best) & set) != 0;   // owns the first group that differs
    if (best == 0 || worths > best_worths || (worths == best_worths && lower)) best = set, best_worths = worths;
  }
  return best;
}

router_config random_config(random_stream& random) {
  router_config c;
  c.groups = static_cast<int>(1 + random.below(4));
  int const width = static_cast<int>(1 + random.below(12 / c.groups));
  c.experts = c.groups * width;
  c.top_groups = static_cast<int>(1 + random.below(c.groups));
  c.top_k = static_cast<int>(1 + random.below(c.top_groups * width));
  std::vector const kinds{score::softmax, score::sigmoid, score::identity, score::sqrt_softplus, score::relu};
  c.score = kinds[static_cast<std::size_t>(random.below(5))];
  c.score_bias = random.below(2) == 0;
  c.position = !c.score_bias && random.below(3) == 0 ? score_position::after_top_k : score_position::before_top_k;
  c.logit_softcap = random.below(3) == 0 ? 2.5 : 0;
  c.group_worth = width < 2 || random.below(2) == 0 ? group_worth::max : group_worth::top2_sum;
  c.group_mask = random.below(4) == 0 ? group_mask::zero : group_mask::minus_infinity;
  c.renormalize = c.score != score::identity && random.below(2) == 0;
  if (c.renormalize && random.below(3) == 0) c.sum_epsilon = 1e-3, c.sum_floor = 0.25;
  c.routed_scale = random.below(2) == 0 ? 2.5 : 1;
  if (!c.renormalize && c.routed_scale == 1 && random.below(3) == 0) c.weights = combine_weight::ones;
  return c;
}

}  // namespace

TEST_CASE_TEMPLATE("DeepSeek-V3's rule: groups by the sum of their two best, weights of the unbiased scores", T, float, double) {
  router_config const c{.top_k = 2, .score = score::sigmoid, .groups = 4, .top_groups = 2, .renormalize = true, .routed_scale = 2.5,
                        .score_bias = true};
  auto const r = route_one<routing::standard, T>(c, as<T>(golden), {}, {0, .6f, -.5f, -.2f, 0, .3f, -.1f, -.2f});
  CHECK(r.ids[0] == ids_of_token{1, 0});
  check_printed(r.weights[0], {.851391, 1.648609});
  check_printed(r.scores, {.731059, .377541, .880797, .574443, .574443, .231475, .710950, .832018});
}

TEST_CASE_TEMPLATE("a group mask of zero beats negative choices; minus infinity does not", T, float, double) {
  router_config c{.top_k = 2, .score = score::sigmoid, .groups = 4, .top_groups = 2, .score_bias = true};
  std::vector<float> const bias(8, -1.5f);
  CHECK(route_one<routing::standard, T>(c, as<T>(golden), {}, bias).ids[0] == ids_of_token{2, 7});
  c.group_mask = group_mask::zero;
  CHECK(route_one<routing::standard, T>(c, as<T>(golden), {}, bias).ids[0] == ids_of_token{0, 1});
  auto shut = as<T>(golden);
  shut[0] = shut[1] = -infinity<T>;                              // are not lifted: they may never be chosen
  CHECK(route_one<routing::standard, T>(c, shut, {}, bias).ids[0] == ids_of_token{4, 5});
}

TEST_CASE_TEMPLATE("DeepSeek-V2's rule: groups by their best", T, float, double) {
  router_config const c{.top_k = 2, .groups = 4, .top_groups = 2, .group_worth = group_worth::max};
  auto const r = route_one<routing::standard, T>(c, as<T>(golden));
  CHECK(r.ids[0] == ids_of_token{2, 7});
  check_printed(r.weights[0], {.349738, .234436});
}

TEST_CASE_TEMPLATE("a soft cap squeezes logits before the score", T, float, double) {
  router_config const c{.top_k = 3, .score = score::identity, .logit_softcap = 30};
  auto const r = route_one<routing::standard, T>(c, as<T>({1, 30, 100}));
  CHECK(r.ids[0] == ids_of_token{2, 1, 0});
  check_printed(r.weights[0], {29.923739, 22.847825, .999630});
}

TEST_CASE_TEMPLATE("the root of a softplus, far out on both sides", T, float, double) {
  router_config const c{.top_k = 5, .score = score::sqrt_softplus};
  auto const r = route_one<routing::standard, T>(c, as<T>({0, 1, -3, 200, -60}));
  check_printed(r.scores, {0.832555, 1.145976, 0.220425, 14.142136, 0});
  CHECK(r.scores[4] > T(0));
  CHECK(r.count[0] == 5);
}

TEST_CASE_TEMPLATE("ReLU scores: an expert of a negative logit weighs nothing, and renormalising nothing leaves nothing", T, float, double) {
  router_config c{.top_k = 3, .score = score::relu, .renormalize = true};
  check_printed(route_one<routing::standard, T>(c, as<T>({-1, 3, -2, 1})).weights[0], {.75, .25, 0});
  c.sum_epsilon = 0;
  check_printed(route_one<routing::standard, T>(c, as<T>({-1, -3, -2, -1})).weights[0], {0, 0, 0});
}

TEST_CASE_TEMPLATE("what is added to the sum, and the least that it may be", T, float, double) {
  router_config c{.top_k = 2, .score = score::relu, .renormalize = true, .sum_epsilon = 1};
  check_printed(route_one<routing::standard, T>(c, as<T>({1, 2})).weights[0], {.5, .25});
  c.sum_floor = 10;
  check_printed(route_one<routing::standard, T>(c, as<T>({1, 2})).weights[0], {.2, .1});
}

TEST_CASE_TEMPLATE("two of four experts for four tokens: the published counts of each slot", T, float, double) {
  auto const r = route_all<routing::standard, T>({.experts = 4, .top_k = 2}, {}, as<T>({2, 0, 0, 0, 1, 1.5, 0, -1, 0, 0, 3, 0, 2, 1, 0, 0}));
  std::vector<int> first(4), second(4);
  for (auto const& ids : r.ids) ++first[static_cast<std::size_t>(ids[0])], ++second[static_cast<std::size_t>(ids[1])];
  CHECK(first == std::vector<int>{2, 1, 1, 0});
  CHECK(second == std::vector<int>{2, 2, 0, 0});
}

TEST_CASE_TEMPLATE("any configuration: scores as by their formula, the best of all subsets, weights as by their formula", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 600; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    auto logits = random_logits<T>(random, c.experts);
    bool const gaps = c.experts > 1 && random.below(4) == 0;
    if (gaps) logits[static_cast<std::size_t>(random.below(c.experts))] = -infinity<T>;
    std::vector<float> bias;
    for (int e = 0; c.score_bias && e < c.experts; ++e) bias.push_back(0.3f * random.normal());
    auto const r = route_one<routing::standard, T>(c, logits, {}, bias);
    REQUIRE(r.finite);

    auto const scores = reference_scores(c, logits);
    for (std::size_t e = 0; e < scores.size(); ++e)
      if (logits[e] > -infinity<T>) CHECK(near(r.scores[e], scores[e], 1 + std::fabs(scores[e])));

    auto choice = r.scores;                                     // selection is exact, so it starts from the very numbers
    for (std::size_t e = 0; e < choice.size(); ++e) {
      if (c.score_bias) choice[e] += static_cast<T>(bias[e]);
      if (!(logits[e] > -infinity<T>)) choice[e] = -infinity<T>;
    }
    auto const groups = best_groups(c, choice);
    for (int e = 0; e < c.experts; ++e)
      if (!(groups >> (e / (c.experts / c.groups)) & 1))
        if (auto& x = choice[static_cast<std::size_t>(e)]; x > -infinity<T>) x = c.group_mask == group_mask::zero ? T(0) : -infinity<T>;
    auto best = by_value(choice);
    if (static_cast<int>(best.size()) > c.top_k) best.resize(static_cast<std::size_t>(c.top_k));
    CHECK(r.ids[0] == best);
    CHECK(r.count[0] == static_cast<int>(best.size()));

    auto const total = [&](unsigned set) {
      long double sum = 0;
      for (int e = 0; e < c.experts; ++e)
        if (set >> e & 1) sum += choice[static_cast<std::size_t>(e)];
      return sum;
    };
    unsigned taken = 0;
    for (auto const e : r.ids[0]) taken |= 1u << e;
    for (auto const set : subsets(c.experts, static_cast<int>(best.size()))) CHECK_FALSE(total(set) > total(taken) + 1e-16L);

    auto const weights = reference_weights(c, scores, r.ids[0]);
    for (std::size_t i = 0; i < weights.size(); ++i) CHECK(near(r.weights[0][i], weights[i], 4 + std::fabs(weights[i])));
  }
}

TEST_CASE_TEMPLATE("tokens do not see each other: a batch is its tokens, for any number of threads", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    std::int64_t const tokens = random.below(50);
    auto const logits = random_logits<T>(random, tokens * c.experts);
    std::vector<float> bias;
    for (int e = 0; c.score_bias && e < c.experts; ++e) bias.push_back(0.3f * random.normal());
    auto const one = route_all<routing::standard, T>(c, {}, logits, bias), three = route_all<routing::standard, T>(c, {}, logits, bias, 0, 3);
    CHECK(one.raw_ids == three.raw_ids);
    CHECK(one.raw_weights == three.raw_weights);
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const alone = route_one<routing::standard, T>(c, row_of(logits, t, c.experts), {}, bias);
      CHECK(alone.raw_ids == row_of(one.raw_ids, t, c.top_k));
      CHECK(alone.raw_weights == row_of(one.raw_weights, t, c.top_k));
    }
  }
}

TEST_CASE_TEMPLATE("no token, one expert, all experts, and every token to the same one", T, float, double) {
  CHECK(route_all<routing::standard, T>({.experts = 4, .top_k = 2}, {}, {}).ids.empty());
  for (auto const kind : {score::softmax, score::sigmoid, score::sqrt_softplus, score::relu}) {
    auto const one = route_one<routing::standard, T>({.top_k = 1, .score = kind, .renormalize = true}, {T(3)});
    CHECK(one.ids[0] == ids_of_token{0});
    CHECK(one.weights[0][0] == T(1));
  }
  auto const all = route_one<routing::standard, T>({.top_k = 8, .renormalize = true}, as<T>(golden));
  CHECK(all.ids[0] == ids_of_token{2, 7, 0, 6, 3, 4, 1, 5});
  CHECK(near(std::accumulate(all.weights[0].begin(), all.weights[0].end(), T(0)), 1));
  std::vector<T> crowd;
  for (int t = 0; t < 100; ++t) crowd.insert(crowd.end(), {T(0), T(50), T(1)});
  auto const same = route_all<routing::standard, T>({.experts = 3, .top_k = 1}, {}, crowd);
  for (auto const& ids : same.ids) CHECK(ids == ids_of_token{1});
}

TEST_CASE_TEMPLATE("logits that are NaN or infinite choose nobody and raise the flag; their neighbours are as ever", T, float, double) {
  auto const nan = std::numeric_limits<T>::quiet_NaN();
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    std::vector<float> const bias(c.score_bias ? static_cast<std::size_t>(c.experts) : 0, 0.25f);
    auto logits = random_logits<T>(random, 5 * c.experts);
    auto const sound = route_all<routing::standard, T>(c, {}, logits, bias);
    CHECK(sound.finite);
    auto const bad = static_cast<std::size_t>(2 * c.experts + random.below(c.experts));
    for (auto const value : {nan, infinity<T>}) {
      auto broken = logits;
      broken[bad] = value;
      auto const r = route_all<routing::standard, T>(c, {}, broken, bias);
      CHECK_FALSE(r.finite);
      CHECK(r.count[2] == 0);
      CHECK(r.ids[2].empty());
      for (std::int64_t t : {0, 1, 3, 4}) {
        CHECK(r.ids[static_cast<std::size_t>(t)] == sound.ids[static_cast<std::size_t>(t)]);
        CHECK(r.weights[static_cast<std::size_t>(t)] == sound.weights[static_cast<std::size_t>(t)]);
      }
    }
    auto shut = logits;
    std::fill_n(shut.begin() + 2 * c.experts, c.experts, -infinity<T>);
    auto const r = route_all<routing::standard, T>(c, {}, shut, bias);
    CHECK_FALSE(r.finite);
    CHECK(r.ids[2].empty());
  }
}

TEST_CASE_TEMPLATE("an expert whose logit is −inf has no share in a softmax under a soft cap", T, float, double) {
  router_config const c{.top_k = 3, .logit_softcap = 1};
  auto const r = route_one<routing::standard, T>(c, {T(0), -infinity<T>, T(0)});
  CHECK(r.ids[0] == ids_of_token{0, 2});
  check_printed(r.weights[0], {.5, .5});
}

TEST_CASE_TEMPLATE("a group whose last open expert is good is worth that expert", T, float, double) {
  router_config const c{.top_k = 1, .score = score::identity, .groups = 2, .top_groups = 1};
  auto const r = route_one<routing::standard, T>(c, {T(-9), T(-9), T(5), -infinity<T>});
  CHECK(r.ids[0] == ids_of_token{2});
}

TEST_CASE("huge finite logits stay finite") {
  auto const largest = std::numeric_limits<float>::max();
  for (auto const kind : {score::softmax, score::sigmoid, score::sqrt_softplus, score::relu, score::identity}) {
    auto const r = route_one<routing::standard, float>({.top_k = 2, .score = kind}, {largest, -largest, 0});
    CHECK(r.ids[0][0] == 0);
    CHECK(r.count[0] == 2);
    for (auto const w : r.weights[0]) CHECK(std::isfinite(w));
  }
}

namespace {

// Threads as the members of a group: what they give is combined in the order of their ranks.
struct team {
  static constexpr int members = 4;
  std::barrier<> all{members};
  double given[members] = {};
};
struct member {
  team* of;
  int mine;
  int rank() const { return mine; }
  int size() const { return team::members; }
  void sync() const { of->all.arrive_and_wait(); }
  template <class T>
  T sum(T x) const {
    return combined(x, [](T a, T b) { return a + b; });
  }
  template <class T>
  T max(T x) const {
    return combined(x, [](T a, T b) { return a < b ? b : a; });
  }

 private:
  template <class T, class F>
  T combined(T x, F f) const {
    of->given[mine] = static_cast<double>(x);
    sync();
    T all = static_cast<T>(of->given[0]);
    for (int i = 1; i < team::members; ++i) all = f(all, static_cast<T>(of->given[i]));
    sync();
    return all;
  }
};
template <class F>
void by_team(F f) {
  team of;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < team::members; ++rank) threads.emplace_back([&, rank] { f(member{&of, rank}); });
  for (auto& t : threads) t.join();
}

// One token by a team: who is chosen, that one member wrote it, and that all of them know how many.
template <class Policy>
void check_team(router_config const& c, typename Policy::state const& state, std::vector<double> const& z) {
  auto const alone = route_all<Policy, double>(c, state, z);
  auto const k = static_cast<std::size_t>(c.top_k);
  std::vector<double> scores(z.size()), choice(z.size()), weights(k);
  std::vector<std::int32_t> ids(k), untouched(k, -7), of[team::members];
  int found[team::members], count[team::members];
  by_team([&](member g) {
    auto const me = static_cast<std::size_t>(g.rank());
    score_token<Policy>(c, g, state, {}, 0, z.data(), scores.data(), choice.data());
    of[me] = untouched;
    found[me] = select_token<Policy>(c, g, state, 0, scores.data(), choice.data(), c.top_k, of[me].data());
    int const chosen = select_token<Policy>(c, g, state, 0, scores.data(), choice.data(), c.top_k, ids.data());
    count[me] = finish_token<Policy>(c, g, state, 0, scores.data(), choice.data(), chosen, c.top_k, ids.data(), weights.data());
  });
  CHECK(ids == alone.raw_ids);
  for (std::size_t i = 0; i < k; ++i) CHECK(std::fabs(weights[i] - alone.raw_weights[i]) <= routing_tolerance<double>);
  for (int rank = 0; rank < team::members; ++rank) {
    CAPTURE(rank);
    CHECK(count[rank] == alone.count[0]);
    CHECK(found[rank] == alone.count[0]);
    CHECK(of[rank] == (rank == 0 ? ids : untouched));
  }
}

}  // namespace

TEST_CASE("of a group of threads one writes the ids, and all know how many") {
  random_stream random(79);
  auto const z = random_logits<double>(random, 24);
  for (router_config c : {router_config{.top_k = 5, .renormalize = true},
                          router_config{.top_k = 3, .score = score::sigmoid, .groups = 4, .top_groups = 2},
                          router_config{.top_k = 4, .position = score_position::after_top_k}}) {
    c.experts = 24;
    check_team<routing::standard>(c, {}, z);
    auto few = z;
    for (std::size_t e = 2; e < few.size(); ++e) few[e] = -infinity<double>;   // slots that stay unused
    check_team<routing::standard>(c, {}, few);
    std::vector<std::int32_t> const listed{7, 1, 7, 23, 4}, id{0};
    check_team<routing::replay<>>(c, {{}, {listed.data(), 1, 5}}, z);
    check_team<routing::hash<>>(c, {{}, id, {listed.data(), 1, 5}}, z);
  }
}
