// Experts that choose tokens: against sorting, against every set of pairs, with padding, steps and masks.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/allowed.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/expert_choice.hpp>

#include "routing/support.hpp"

using namespace moesaic;
using namespace moesaic::test;

static_assert(coupled_policy<routing::expert_choice<>, float> && coupled_policy<routing::expert_choice<>, double>);
static_assert(!routing::expert_choice<>::causal && !routing::expert_choice<>::batch_invariant && !routing::expert_choice<>::trainable);

TEST_CASE("how many tokens an expert takes: down or up, never more than there are") {
  using choice = routing::expert_choice<>;
  auto const down = [](double factor, std::int64_t tokens, int experts) { return choice::taken_by_each({{}, factor}, tokens, experts); };
  auto const up = [](double factor, std::int64_t tokens, int experts) { return choice::taken_by_each({{}, factor, true}, tokens, experts); };
  CHECK(down(1, 6, 4) == 1);
  CHECK(up(1, 6, 4) == 2);
  CHECK(down(1.25, 10, 4) == 3);
  CHECK(up(1.25, 10, 4) == 4);
  CHECK(down(1.25, 1024, 64) == 20);
  CHECK(up(1.25, 1024, 64) == 20);
  CHECK(down(1, 3, 4) == 0);
  CHECK(up(1, 3, 4) == 1);
  CHECK(up(100, 3, 4) == 3);
  CHECK(up(0, 3, 4) == 0);
  CHECK(up(-1, 3, 4) == 0);
  CHECK(up(std::numeric_limits<double>::quiet_NaN(), 3, 4) == 0);
  CHECK(up(2, 0, 4) == 0);
}

TEST_CASE_TEMPLATE("a batch small enough to read: four tokens, each expert takes two", T, float, double) {
  auto const logits = as<T>({2, 0, 0, 0, 1, 1.5, 0, -1, 0, 0, 3, 0, 2, 1, 0, 0});
  auto const r = route_all<routing::expert_choice<>, T>({.experts = 4, .top_k = 4}, {{}, 2}, logits);
  // expert 0 likes tokens 0 and 3 best, 1: 1 and 3, 2: 2 and 1 (.131 before .096), 3: 0 (.096), then 3 (.070)
  CHECK(r.ids == std::vector<ids_of_token>{{0, 3}, {1, 2}, {2}, {0, 1, 3}});
  for (std::size_t t = 0; t < 4; ++t)
    for (std::size_t i = 0; i < r.ids[t].size(); ++i) CHECK(r.weights[t][i] == r.scores[4 * t + static_cast<std::size_t>(r.ids[t][i])]);
}

TEST_CASE_TEMPLATE("against sorting; balance is perfect; at most top_k experts a token, its best", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = static_cast<int>(1 + random.below(12));
    auto const tokens = random.below(40);
    router_config const c{.experts = experts, .top_k = static_cast<int>(1 + random.below(experts)),
                          .score = random.below(2) ? score::softmax : score::sigmoid};
    routing::expert_choice<>::state s{{}, 0.25 * static_cast<double>(random.below(12)), random.below(2) == 0};
    std::vector<std::uint8_t> padding;
    if (random.below(2) == 0)
      for (std::int64_t t = 0; t < tokens; ++t) padding.push_back(random.below(4) == 0);
    s.padding = padding;
    auto logits = random_logits<T>(random, tokens * experts);
    std::int64_t broken = -1;
    if (tokens > 0 && random.below(3) == 0) {
      broken = random.below(tokens);
      logits[static_cast<std::size_t>(broken * experts)] = std::numeric_limits<T>::quiet_NaN();
    }
    auto const r = route_all<routing::expert_choice<>, T>(c, s, logits, {}, 0, static_cast<int>(1 + random.below(3)));

    std::vector<std::int32_t> partaking;
    for (std::int32_t t = 0; t < tokens; ++t)
      if (t != broken && (padding.empty() || !padding[static_cast<std::size_t>(t)])) partaking.push_back(t);
    auto const seen = static_cast<std::int64_t>(partaking.size());
    auto const each = static_cast<std::size_t>(routing::expert_choice<>::taken_by_each(s, seen, experts));
    std::vector<std::vector<T>> wanted(static_cast<std::size_t>(tokens), std::vector<T>(static_cast<std::size_t>(experts), -infinity<T>));
    for (std::int32_t e = 0; e < experts; ++e) {
      auto const at = [&](std::int32_t t) { return r.scores[static_cast<std::size_t>(t * experts + e)]; };
      auto order = partaking;
      std::sort(order.begin(), order.end(), [&](auto a, auto b) { return at(a) != at(b) ? at(a) > at(b) : a < b; });
      for (std::size_t i = 0; i < each; ++i) wanted[static_cast<std::size_t>(order[i])][static_cast<std::size_t>(e)] = at(order[i]);
    }
    std::vector<int> load(static_cast<std::size_t>(experts));
    for (std::size_t t = 0; t < r.ids.size(); ++t) {
      auto best = by_value(wanted[t]);
      if (static_cast<int>(best.size()) > c.top_k) best.resize(static_cast<std::size_t>(c.top_k));
      CHECK(r.ids[t] == best);
      for (auto const e : r.ids[t]) ++load[static_cast<std::size_t>(e)];
    }
    if (c.top_k == experts)
      for (auto const n : load) CHECK(n == static_cast<int>(each));
  }
}

TEST_CASE_TEMPLATE("of all sets of pairs with so many tokens an expert, the one of largest score", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    int const experts = static_cast<int>(1 + random.below(4)), tokens = static_cast<int>(1 + random.below(4));
    router_config const c{.experts = experts, .top_k = experts};
    auto const r = route_all<routing::expert_choice<>, T>(c, {{}, 1.5, true}, random_logits<T>(random, tokens * experts));
    auto const each = routing::expert_choice<>::taken_by_each({{}, 1.5, true}, tokens, experts);
    auto const score = [&](int pair) { return static_cast<double>(r.scores[static_cast<std::size_t>(pair)]); };
    double best = 0, got = 0;
    for (unsigned set = 0; set < 1u << (tokens * experts); ++set) {
      double sum = 0;
      bool legal = true;
      for (int e = 0; e < experts && legal; ++e) {
        int load = 0;
        for (int t = 0; t < tokens; ++t)
          if (set >> (t * experts + e) & 1) ++load, sum += score(t * experts + e);
        legal = load == each;
      }
      if (legal) best = std::max(best, sum);
    }
    for (std::size_t t = 0; t < r.ids.size(); ++t)
      for (auto const e : r.ids[t]) got += score(static_cast<int>(t) * experts + e);
    CHECK(std::fabs(best - got) <= routing_tolerance<double> * (1 + best));
  }
}

TEST_CASE_TEMPLATE("steps choose by themselves; masked pairs are left out", T, float, double) {
  random_stream random(7);
  router_config const c{.experts = 6, .top_k = 6};
  auto const logits = random_logits<T>(random, 14 * 6);
  routing::expert_choice<>::state s{{}, 1.5};
  s.together = 5;                                                // 5, 5 and 4
  auto const r = route_all<routing::expert_choice<>, T>(c, s, logits);
  std::size_t at = 0;
  for (std::int64_t first : {0, 5, 10}) {
    auto const end = std::min<std::int64_t>(first + 5, 14);
    auto const step = route_all<routing::expert_choice<>, T>(c, {{}, 1.5}, {logits.begin() + first * 6, logits.begin() + end * 6});
    for (auto const& ids : step.ids) CHECK(r.ids[at++] == ids);
  }
  std::vector<std::uint8_t> mask(14 * 6);
  for (auto& may : mask) may = random.below(2) == 0;
  using masked = routing::expert_choice<routing::allowed<>>;
  masked::state m;
  m.mask = {mask.data(), 14, 6};
  m.factor = 6;
  auto const all = route_all<masked, T>(c, m, logits);           // every expert wants every token that it may have
  for (std::size_t t = 0; t < 14; ++t)
    for (std::int32_t e = 0; e < 6; ++e)
      CHECK((std::find(all.ids[t].begin(), all.ids[t].end(), e) != all.ids[t].end()) == (mask[6 * t + static_cast<std::size_t>(e)] == 1));
}

TEST_CASE("a factor that is no number, or negative, is refused") {
  router_config const c{.experts = 4, .top_k = 2};
  auto const fits = [&](double factor) { return static_cast<bool>(state_fits<routing::expert_choice<>>(c, {{}, factor}, 3)); };
  CHECK(fits(0));
  CHECK(fits(1.25));
  CHECK_FALSE(fits(-1));
  CHECK_FALSE(fits(std::numeric_limits<double>::quiet_NaN()));
}

TEST_CASE("over a capacity there is memory for both, and what has no room is dropped") {
  using policy = routing::expert_choice<routing::capacity<>>;
  router_config const c{.experts = 8, .top_k = 3};
  CHECK(batch_bytes_of<policy>(c, 16) >= batch_bytes_of<routing::capacity<>>(c, 16));
  random_stream random(77);
  auto const logits = random_logits<float>(random, 16 * 8);
  policy::state s{};
  s.factor = 2;
  s.capacity = {.room = routing::room::absolute, .tokens = 1, .order = routing::drop_order::weights};
  auto const r = route_all<policy, float>(c, s, logits);
  std::vector<int> load(8);
  for (auto const& ids : r.ids)
    for (auto const e : ids) ++load[static_cast<std::size_t>(e)];
  CHECK(load == std::vector<int>(8, 1));
}

namespace {
struct member : serial_group {
  int mine;
  explicit member(int rank) : mine(rank) {}
  int rank() const { return mine; }
  int size() const { return 4; }
};
}  // namespace

TEST_CASE("of a group of several members one chooses, since there is one heap; the others touch nothing") {
  using policy = routing::expert_choice<>;
  router_config const c{.experts = 8, .top_k = 3};
  random_stream random(78);
  auto const r = route_all<policy, float>(c, {{}, 2}, random_logits<float>(random, 64 * 8));
  std::vector<std::int32_t> ids(64 * 3, -1), count(64, -7), memory(64, -7);
  auto const untouched = count;
  auto const choose = [&](int rank) {
    policy::select_batch(c, member(rank), {{}, 2}, routing_batch<float>{{r.scores.data(), 64, 8}, {r.choice.data(), 64, 8}, 0},
                         routing_slots<float>{{ids.data(), 64, 3}, {nullptr, 64, 3}, count}, {reinterpret_cast<std::byte*>(memory.data()), 256});
  };
  for (int rank = 1; rank < 4; ++rank) choose(rank);
  CHECK(count == untouched);
  CHECK(memory == untouched);
  choose(0);
  CHECK(ids == r.raw_ids);
  CHECK(count == r.count);
}
