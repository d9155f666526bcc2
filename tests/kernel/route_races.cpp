// Whether the hooks of rules over a batch are free of races under a group of threads: a batch in shared memory, chosen by a block, and by a warp, whose
// sums and maxima order no memory.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/cap.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/expert_choice.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr int tokens = 26, experts = 40;

struct softmax40 {
  static constexpr router_config config{.experts = experts, .top_k = 4, .renormalize = true};
};
constexpr router_config fixed = softmax40::config;

/// Routes `tokens` tokens by one block of one or two warps.
template <class Policy, int Threads>
struct rule_in_shared {
  static constexpr int threads = Threads, slots = Policy::slots(fixed), warps = Threads / device::warp_size;
  static constexpr cuda::rung needs = cuda::rung::sm80;
  struct params {
    typename Policy::state state;
    view<const float> logits;
    routing_slots<float> slots;
    std::int32_t* not_finite;
  };
  struct shared {
    alignas(64) std::byte memory[static_cast<std::size_t>(batch_bytes_of<Policy>(fixed, tokens)) + 64];
    float scores[tokens][experts], choice[tokens][experts], weights[tokens][slots];
    std::int32_t ids[tokens][slots], count[tokens];
    typename cuda::block_group<Threads>::scratch sums;
  };

  void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    constexpr router_config c = fixed;
    constexpr cuda::warp_group<experts, needs> one;
    routing_batch<float> const batch{view<const float>(&s.scores[0][0], tokens, experts), view<const float>(&s.choice[0][0], tokens, experts), 0};
    routing_slots<float> const chosen{{&s.ids[0][0], tokens, slots}, {&s.weights[0][0], tokens, slots}, {s.count, tokens}};
    auto const each_token = [&](auto&& f) {
      for (int t = device::warp_id(); t < tokens; t += warps) f(t), one.sync();
      device::block_sync();
    };
    each_token([&](int t) {
      bool const finite = score_token<Policy>(c, one, p.state, {}, t, p.logits.row(t), s.scores[t], s.choice[t]);
      if (!finite && one.rank() == 0) *p.not_finite = 1;
      if constexpr (!Policy::coupled) {
        int const found = select_token<Policy>(c, one, p.state, t, &s.scores[t][0], &s.choice[t][0], slots, s.ids[t]);
        if (one.rank() == 0) s.count[t] = found;
      }
    });
    list<std::byte> const memory{s.memory, batch_bytes_of<Policy>(fixed, tokens)};
    if constexpr (Policy::coupled) {
      by_all(s, [&](auto const& g) { Policy::select_batch(c, g, p.state, batch, chosen, memory); });
    }
    each_token([&](int t) {
      int const count = finish_token<Policy>(c, one, p.state, t, &s.scores[t][0], &s.choice[t][0], s.count[t], slots, s.ids[t], s.weights[t]);
      one.sync();
      if (one.rank() == 0) s.count[t] = count;
    });
    if constexpr (Policy::settles) {
      by_all(s, [&](auto const& g) { Policy::settle_batch(c, g, p.state, batch, chosen, memory); });
    }
    for (int t = device::thread_id(); t < tokens; t += Threads) {
      p.slots.count[t] = s.count[t];
      for (int i = 0; i < slots; ++i) p.slots.ids(t, i) = s.ids[t][i], p.slots.weights(t, i) = s.weights[t][i];
    }
  }

 private:
  template <class F>
  static void by_all(shared& s, F&& f) {
    if constexpr (warps == 1) f(cuda::warp_group<experts, needs>{});
    else f(cuda::block_group<Threads>{s.sums});
    device::block_sync();
  }
};

template <class Policy>
void check_races(typename Policy::state const& state) {
  auto b = draw_batch(fixed, tokens, seed);
  b.logits(7, 7) = std::nanf("");
  auto const want = route_on_host<Policy>(fixed, state, b);
  auto const check = [&]<int Threads>() {
    each_schedule([&] {
      CAPTURE(Threads);
      auto got = results_for<Policy>(fixed, tokens);
      small_stream where;
      cuda::start<rule_in_shared<Policy, Threads>>(where, {}, {state, b.logits.view(), got.slots(), &got.not_finite});
      CHECK(static_cast<bool>(cuda::finish(where)));
      check_findings();
      check_ids(got, want);
      CHECK(got.count == want.count);
      check_close("weights", got.weights, want.weights);
    });
  };
  check.template operator()<64>();
  check.template operator()<32>();
}

std::vector<float> cost_of_each() {
  random_stream random(seed);
  std::vector<float> cost;
  for (int e = 0; e < experts; ++e) cost.push_back(0.25f + random.uniform());
  return cost;
}

}  // namespace

TEST_CASE("two_phase") {
  routing::two_phase<>::state s;
  s.own = 2;
  check_races<routing::two_phase<>>(s);
}

TEST_CASE("marginal") {
  routing::marginal<>::state s;
  s.price = 0.7f;
  check_races<routing::marginal<>>(s);
}

TEST_CASE("cap and greedy_cap") {
  auto const cost = cost_of_each();
  routing::cap<>::state s;
  routing::greedy_cap<>::state g;
  s.where.ranks = g.where.ranks = 2;
  s.experts = g.experts = 10;
  g.cost = cost, g.budget = 12;
  check_races<routing::cap<>>(s);
  check_races<routing::greedy_cap<>>(g);
}

TEST_CASE("two_prices, and the same for k slots") {
  auto const cost = cost_of_each();
  routing::two_prices<>::state s;
  s.compute = 0.02f, s.read = 0.1f, s.size = cost;
  check_races<routing::two_prices<>>(s);
  routing::two_prices_refilled<>::state r;
  r.read = 0.4f, r.size = cost;
  check_races<routing::two_prices_refilled<>>(r);
}

TEST_CASE("elimination, one expert at a time and in rounds") {
  routing::elimination<>::state s;
  s.price = 0.4f;
  for (int const rounds : {0, 3, 5}) s.rounds = rounds, check_races<routing::elimination<>>(s);
}

TEST_CASE("elimination over costs") {
  using policy = routing::elimination<routing::cost_aware<costs::table>>;
  auto const cost = cost_of_each();
  policy::state s;
  static_cast<routing::cost_aware<costs::table>::state&>(s).cost = costs::table::of_experts(cost);
  static_cast<routing::cost_aware<costs::table>::state&>(s).price = 0.01f;
  s.price = 0.4f, s.rounds = 3;
  check_races<policy>(s);
}

TEST_CASE("capacity, over a second choice that must be worth it") {
  using policy = routing::capacity<routing::second_above<>>;
  policy::state s;
  s.second_threshold = 0.2;
  for (auto const order : {routing::drop_order::first_choices, routing::drop_order::weights}) {
    s.capacity = routing::absolute_capacity(2, 13), s.capacity.order = order;
    check_races<policy>(s);
  }
}

TEST_CASE("experts choose") {
  routing::expert_choice<>::state s;
  s.factor = 2;
  check_races<routing::expert_choice<>>(s);
}
