// A batch through a routing policy twice, on the host and by the kernels on a model of a device, and how the results must agree.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <device_model/model.hpp>
#include <moesaic/base/random.hpp>
#include <moesaic/cuda/route.hpp>
#include <moesaic/host/route.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

namespace moesaic::test {

/// Blocks of a few warps, so that a batch takes several of them.
struct small_blocks {
  static constexpr bool has(cuda::rung r) { return r == cuda::rung::sm80; }
  struct route : cuda::default_route_tuning {
    static constexpr std::int64_t planned_tokens = 128;
    static constexpr int blocks = 1;
    static constexpr cuda::route_tile rows(int, int) { return {128, 0}; }
  };
};
using small_stream = cuda::basic_stream_ref<small_blocks>;

/// What comes of a batch: filled with what no router leaves.
struct route_results {
  matrix<float> scores, choice, weights;
  matrix<std::int32_t> ids, slot_of_choice;
  std::vector<std::int32_t> count, offsets, token_of_slot;
  std::vector<std::byte> batch_memory;
  std::int32_t not_finite = 0;

  route_results(std::int64_t tokens, int experts, int slots, std::int64_t batch_bytes)
      : scores(tokens, experts), choice(tokens, experts), weights(tokens, slots), ids(tokens, slots), slot_of_choice(tokens, slots),
        count(static_cast<std::size_t>(tokens), -7), offsets(static_cast<std::size_t>(experts) + 1, -7),
        token_of_slot(static_cast<std::size_t>(tokens * slots), -7), batch_memory(static_cast<std::size_t>(batch_bytes), std::byte{0xff}) {
    for (auto* m : {&scores, &choice, &weights})
      for (auto& x : m->data) x = std::numeric_limits<float>::signaling_NaN();
    for (auto* m : {&ids, &slot_of_choice})
      for (auto& x : m->data) x = -7;
  }
  routing_slots<float> slots() { return {ids.view(), weights.view(), count}; }
  dispatch_plan plan() { return {offsets, token_of_slot, slot_of_choice.view()}; }
};

template <class Policy>
route_results results_for(router_config const& c, std::int64_t tokens) {
  return {tokens, c.experts, Policy::slots(c), batch_bytes_of<Policy>(c, tokens)};
}

/// A batch to route. `more_columns`: of logits beyond the experts, as a group gate has.
struct route_batch {
  matrix<float> logits;
  std::vector<float> score_bias;
};
inline route_batch draw_batch(router_config const& c, std::int64_t tokens, std::uint64_t seed) {
  random_stream random(seed);
  auto const columns = c.experts + (c.group_gate ? c.groups : 0);
  route_batch b{random_matrix<float>(tokens, columns, random), {}};
  auto const kind = seed % 3;                              // plain; many equal ones; wide, with some experts forbidden
  for (auto& z : b.logits.data) {
    if (kind == 1) z = std::round(2 * z) / 2;
    if (kind == 2) z = random.below(16) == 0 ? -std::numeric_limits<float>::infinity() : 4 * z;
  }
  if (c.group_gate)
    for (std::int64_t t = 0; t < tokens; ++t)
      for (auto i = std::int64_t{c.experts}; i < columns; ++i) b.logits(t, i) = random.normal();
  if (c.score_bias)
    for (int e = 0; e < c.experts; ++e) b.score_bias.push_back(kind == 1 ? static_cast<float>(random.below(3)) / 8 : 0.2f * random.normal());
  return b;
}

template <class Policy>
route_results route_on_host(router_config const& c, typename Policy::state const& state, route_batch const& b) {
  auto r = results_for<Policy>(c, b.logits.rows);
  host::pool pool(1);
  host::route<Policy>(pool, c, state, b.logits.view(), b.score_bias, r.scores.view(), r.choice.view(), r.slots(), r.batch_memory, &r.not_finite);
  make_plan(r.ids.view(), r.plan());
  return r;
}

/// Of a score, a choice or a weight: exponentials and sums in another order, −inf and NaN in the same places.
inline bool close(float got, float want) {
  if (want != want) return got != got;
  if (std::isinf(want)) return got == want;
  auto const size = std::fabs(static_cast<double>(want));
  return std::fabs(static_cast<double>(got) - static_cast<double>(want)) <= routing_tolerance<float> * (size > 1 ? size : 1);
}
inline void check_close(char const* what, matrix<float> const& got, matrix<float> const& want) {
  CAPTURE(what);
  for (std::int64_t t = 0; t < want.rows; ++t)
    for (std::int64_t i = 0; i < want.columns; ++i)
      if (!close(got(t, i), want(t, i))) {
        CAPTURE(t);
        CAPTURE(i);
        REQUIRE(got(t, i) == want(t, i));
      }
}
inline void check_ids(route_results const& got, route_results const& want) {
  for (std::int64_t t = 0; t < want.ids.rows; ++t)
    for (std::int64_t i = 0; i < want.ids.columns; ++i)
      if (got.ids(t, i) != want.ids(t, i)) {
        CAPTURE(t);
        CAPTURE(i);
        REQUIRE(got.ids(t, i) == want.ids(t, i));
      }
}
inline void check_routed(route_results const& got, route_results const& want) {
  check_ids(got, want);
  CHECK(got.count == want.count);
  CHECK(got.not_finite == want.not_finite);
  check_close("scores", got.scores, want.scores);
  check_close("choice", got.choice, want.choice);
  check_close("weights", got.weights, want.weights);
}
inline void check_planned(route_results const& got, route_results const& want) {
  CHECK(got.offsets == want.offsets);
  CHECK(got.slot_of_choice.data == want.slot_of_choice.data);
  auto const used = static_cast<std::size_t>(want.offsets.back());
  for (std::size_t s = 0; s < want.token_of_slot.size(); ++s) REQUIRE(got.token_of_slot[s] == (s < used ? want.token_of_slot[s] : -7));
}

inline void check_findings() {
  for (auto const& finding : device_model::take_findings()) FAIL_CHECK(finding);
}

/// Every way in which a device may order things: blocks one after another, and side by side.
template <class F>
void each_schedule(F&& f) {
  using device_model::delivery;
  for (auto const& o : {device_model::options{.when = delivery::eager}, device_model::options{.when = delivery::late, .seed = 3},
                        device_model::options{.when = delivery::random, .seed = 17, .resident_blocks = 4}}) {
    device_model::scope const scoped(o);
    CAPTURE(o.seed);
    f();
  }
}

template <class Config>
router_config config_of(Config const& config) {
  if constexpr (cuda::constant_router<Config>) return Config::config;
  else return config;
}

/// route_and_plan on the model must be `want`, what host::route and make_plan say.
template <class Policy, class Tuning, class Config>
void check_once(Config const& config, typename Policy::state const& state, route_batch const& b, route_results const& want) {
  auto got = results_for<Policy>(config_of(config), b.logits.rows);
  cuda::route_counters counters;
  cuda::basic_stream_ref<Tuning> where;
  cuda::route_and_plan<Policy>(where, config, state, b.logits.view(), b.score_bias, got.scores.view(), got.choice.view(), got.slots(), got.batch_memory,
                               &got.not_finite, &counters, got.plan());
  auto const done = cuda::finish(where);
  INFO(to_string(done));
  REQUIRE(static_cast<bool>(done));
  check_findings();
  check_routed(got, want);
  check_planned(got, want);
  CHECK(counters.of_grid == 0);
}
template <class Policy, class Config, class Tuning = small_blocks>
void check_on_model(Config const& config, typename Policy::state const& state, route_batch const& b) {
  auto const want = route_on_host<Policy>(config_of(config), state, b);
  each_schedule([&] { check_once<Policy, Tuning>(config, state, b, want); });
}

}  // namespace moesaic::test
