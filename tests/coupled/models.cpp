// Rules over a batch in whole layers and models: silent where they ask for nothing, and on top of policies that are written elsewhere.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/layer/decoder.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/route/cap.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;

template <class Policy>
struct mixture {
  static constexpr block_config config{.hidden = 32,
                                       .attention = {.heads = 4, .kv_heads = 2},
                                       .router = {.experts = 12, .top_k = 3, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5, .score_bias = true},
                                       .expert = {.intermediate = 16},
                                       .storage = {.weights = dtype::fp32}};
  using routing = Policy;
};
template <class Policy>
struct model {
  static constexpr decoder_config config{.vocabulary = 64};
  using layers = moesaic::layers<repeat<mixture<Policy>, 3>>;
};

/// Counts the distinct experts of a call, layer by layer.
struct expert_tap {
  static constexpr bool wants(stage s) { return s == stage::topk_index; }
  int& distinct;
  template <class X>
  void operator()(tap_point at, view<const X> ids) {
    if (at.stage != stage::topk_index) return;
    bool used[12] = {};
    for (std::int64_t t = 0; t < ids.rows; ++t)
      for (std::int64_t i = 0; i < ids.columns; ++i)
        if (auto const e = static_cast<int>(ids(t, i)); e >= 0) used[e] = true;
    for (bool const u : used) distinct += u;
  }
};

struct seen {
  matrix<float> logits;
  int distinct = 0;
};

/// One step of 16 sequences, from the same weights whatever the policy.
template <class Policy>
seen decode(typename Policy::state const& state) {
  using net = decoder<model<Policy>>;
  constexpr int tokens = 16;
  host::pool where(2);
  auto const weights = net::load(where, random_source{seed});
  auto const caches = net::make_cache(where, tokens, 1);
  host::buffer workspace{net::template workspace_bytes<expert_tap>(tokens, tokens)};
  std::vector<std::int32_t> ids, sequence, position(tokens, 0);
  for (int t = 0; t < tokens; ++t) ids.push_back((11 * t) % 64), sequence.push_back(t);
  seen s{{tokens, 64}};
  auto const done = net::forward(where, weights, {ids, sequence, position}, caches, every_token, s.logits.view(), workspace, state, expert_tap{s.distinct});
  INFO(moesaic::to_string(done));
  REQUIRE(static_cast<bool>(done));
  return s;
}

/// As a user writes it: a price of their own, and what an expert gains.
struct own_price : routing::standard {
  struct state {
    float per_index = 0;
  };
  template <class T>
  static T price(router_config const&, state const& s, routing_site at, T) {
    return static_cast<T>(s.per_index * static_cast<float>(at.expert));
  }
  template <class T>
  static T gain(router_config const&, state const&, routing_site, T score) {
    return score * score;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a model whose rule asks for nothing gives the plain model's bits", Policy, routing::two_phase<>, routing::marginal<>,
                   routing::cap<>, routing::greedy_cap<>, routing::two_prices<>, routing::two_prices_refilled<>, routing::elimination<>) {
  auto const plain = decode<routing::standard>({});
  typename Policy::state idle;
  if constexpr (requires { idle.own; }) idle.own = 3;
  auto const got = decode<Policy>(idle);
  CHECK(got.distinct == plain.distinct);
  CHECK(same_bits(got.logits.view(), plain.logits.view()));
}

TEST_CASE_TEMPLATE("a model whose rule asks for something reads fewer experts", Policy, routing::two_phase<>, routing::marginal<>,
                   routing::cap<>, routing::greedy_cap<>, routing::two_prices<>, routing::two_prices_refilled<>, routing::elimination<>) {
  auto const plain = decode<routing::standard>({});
  typename Policy::state busy;
  if constexpr (requires { busy.experts; }) busy.experts = 6;
  if constexpr (requires { busy.compute; }) busy.compute = 0.55f;
  if constexpr (requires { busy.read; }) busy.read = 1.5f;
  if constexpr (requires { busy.price; }) busy.price = 1;
  auto const got = decode<Policy>(busy);
  CHECK(got.distinct < plain.distinct);
  CHECK(got.distinct >= 3);
  CHECK(compare(got.logits.view(), got.logits.view()).worst == 0);   // finite
}

TEST_CASE_TEMPLATE("a rule works on top of a policy with a price and a state of its own", Rule, routing::elimination<own_price>,
                   routing::marginal<own_price>, routing::cap<own_price>, routing::two_prices_refilled<own_price>, routing::two_phase<own_price>, routing::greedy_cap<own_price>) {
  auto const below = decode<own_price>({0.1f});
  typename Rule::state state;
  state.per_index = 0.1f;
  if constexpr (requires { state.own; }) state.own = 3;
  auto const idle = decode<Rule>(state);
  CHECK(same_bits(idle.logits.view(), below.logits.view()));
  auto const plain = decode<routing::standard>({});
  CHECK_FALSE(same_bits(idle.logits.view(), plain.logits.view()));
}

TEST_CASE("a policy below that has padding and steps of its own lends them") {
  struct stepped : routing::standard {
    struct state {
      list<const std::uint8_t> padding = {};
      std::int64_t together = 0;
    };
  };
  routing::elimination<stepped>::state s;
  s.padding = {nullptr, 0};
  s.together = 3;
  CHECK(static_cast<stepped::state const&>(s).together == 3);
  CHECK(step_of(s, 12) == 3);
  CHECK(sizeof(s) == sizeof(routing::elimination<>::state));
}
