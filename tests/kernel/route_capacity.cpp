// Experts of limited capacity, and experts that choose, on a model of a device.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cap.hpp>
#include <moesaic/route/expert_choice.hpp>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;

struct softmax16 {
  static constexpr router_config config{.experts = 16, .top_k = 3, .renormalize = true};
};
struct top2 {
  static constexpr router_config config{.experts = 12, .top_k = 2};
};

template <class Policy, class Config>
void check_rule(typename Policy::state state) {
  for (std::int64_t const tokens : {1, 60}) {
    CAPTURE(tokens);
    for (std::uint64_t s = seed; s < seed + 2; ++s) {
      auto b = draw_batch(Config::config, tokens, s);
      std::vector<std::uint8_t> padding(static_cast<std::size_t>(tokens), 0);
      if (tokens > 30) b.logits(9, 3) = std::nanf(""), padding[0] = padding[33] = 1, state.padding = padding;
      check_on_model<Policy>(Config{}, state, b);
      check_on_model<Policy>(Config::config, state, b);
      state.padding = {};
    }
  }
}

}  // namespace

TEST_CASE("every room and order of a capacity, and what is dropped is counted") {
  using policy = routing::capacity<>;
  policy::state s;
  auto const each_order = [&] {
    for (auto const order : {routing::drop_order::first_choices, routing::drop_order::tokens, routing::drop_order::weights}) {
      s.capacity.order = order;
      check_rule<policy, softmax16>(s);
    }
  };
  check_rule<policy, softmax16>(s);
  s.capacity = routing::mesh_capacity(1.25, 24, 2);
  each_order();
  s.capacity = routing::megatron_capacity(0.8);
  each_order();
  s.capacity = routing::absolute_capacity(3, 20);
  each_order();
  s.capacity = routing::absolute_capacity(0);
  each_order();
}

TEST_CASE("what is dropped is counted") {
  using policy = routing::capacity<>;
  auto const b = draw_batch(softmax16::config, 50, seed);
  policy::state s;
  s.capacity = routing::absolute_capacity(4);
  std::vector<std::int32_t> on_host(16), on_model(16);
  s.dropped = on_host;
  auto const want = route_on_host<policy>(softmax16::config, s, b);
  s.dropped = on_model;
  auto got = results_for<policy>(softmax16::config, 50);
  small_stream where;
  cuda::route<policy>(where, softmax16{}, s, b.logits.view(), {}, got.scores.view(), got.choice.view(), got.slots(), got.batch_memory, &got.not_finite);
  CHECK(static_cast<bool>(cuda::finish(where)));
  check_findings();
  check_routed(got, want);
  CHECK(on_model == on_host);
}

TEST_CASE("a second expert above a threshold, inside a capacity") {
  using policy = routing::capacity<routing::second_above<>>;
  policy::state s;
  s.second_threshold = 0.2, s.capacity = routing::absolute_capacity(7);
  check_rule<policy, top2>(s);
}

TEST_CASE("a capacity over a rule of the batch") {
  using policy = routing::capacity<routing::cap<>>;
  policy::state s;
  s.experts = 7, s.capacity = routing::megatron_capacity(1.0);
  check_rule<policy, softmax16>(s);
}

TEST_CASE("experts choose") {
  using policy = routing::expert_choice<>;
  policy::state s;
  for (double const factor : {1.0, 2.5, 0.0}) {
    s.factor = factor, s.round_up = factor > 2, s.together = factor > 2 ? 25 : 0;
    check_rule<policy, softmax16>(s);
  }
}
