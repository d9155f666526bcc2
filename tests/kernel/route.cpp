// The plain router on a model of a device: sizes, ties, padding, tokens that are not finite, no tokens, and the plan.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr float inf = std::numeric_limits<float>::infinity();

struct mixtral {
  static constexpr router_config config{.experts = 8, .top_k = 2, .renormalize = true};
};
struct qwen2 {
  static constexpr router_config config{.experts = 60, .top_k = 4};
};
struct qwen3 {
  static constexpr router_config config{.experts = 128, .top_k = 8, .renormalize = true};
};
struct deepseek {
  static constexpr router_config config{.experts = 256, .top_k = 8, .score = score::sigmoid, .groups = 8, .top_groups = 4, .renormalize = true,
                                        .routed_scale = 2.5, .score_bias = true};
};

struct few {
  static constexpr router_config config{.experts = 4, .top_k = 1};
};

/// A plan by three warps.
struct few_threads : small_blocks {
  struct route : small_blocks::route {
    static constexpr int plan_threads = 96;
  };
};

struct plan_size {
  int tokens, slots, experts;
};

struct padded : routing::standard {
  using state = routing::state_with_padding<routing::standard::state>;
};

}  // namespace

TEST_CASE_TEMPLATE("experts, weights and plan are the host's, whatever the number of tokens and experts", Config, mixtral, qwen2, qwen3, deepseek) {
  for (std::int64_t const tokens : {0, 1, 3, 64, 130})
    for (std::uint64_t s = seed; s < seed + (tokens < 64 ? 3 : 1); ++s) {
      CAPTURE(tokens);
      CAPTURE(s);
      check_on_model<routing::standard>(Config{}, {}, draw_batch(Config::config, tokens, s));
    }
}

TEST_CASE("a configuration of the call does what a constant one does") {
  for (auto const& config : {mixtral::config, qwen2::config, deepseek::config}) check_on_model<routing::standard>(config, {}, draw_batch(config, 21, seed + 1));
}

TEST_CASE("every score, position, mask of groups and weight that a configuration may ask for") {
  for (auto const score : {score::softmax, score::sigmoid, score::sqrt_softplus, score::relu, score::identity})
    for (auto const position : {score_position::before_top_k, score_position::after_top_k})
      for (int variant = 0; variant < 6; ++variant) {
        router_config c{.experts = 24, .top_k = 5, .score = score, .position = position};
        if (variant == 1) c.renormalize = true, c.sum_floor = 0.5, c.routed_scale = 1.5;
        if (variant == 2) c.logit_softcap = 2.0;
        if (variant == 3) c.groups = 6, c.top_groups = 3, c.group_worth = group_worth::max;
        if (variant == 4) c.groups = 4, c.top_groups = 2, c.group_mask = group_mask::zero, c.score_bias = true;
        if (variant == 5) c.weights = combine_weight::ones;
        CAPTURE(static_cast<int>(score));
        CAPTURE(static_cast<int>(position));
        CAPTURE(variant);
        check_on_model<routing::standard>(c, {}, draw_batch(c, 9, seed + static_cast<std::uint64_t>(variant)));
      }
}

TEST_CASE_TEMPLATE("of equal experts the lower ones are chosen, of −0 and 0 too", Config, mixtral, qwen2, qwen3) {
  auto b = draw_batch(Config::config, 6, seed);
  for (std::int64_t t = 0; t < b.logits.rows; ++t)
    for (std::int64_t e = 0; e < b.logits.columns; ++e) {
      float& z = b.logits(t, e);
      if (t == 0) z = 0.25f;
      if (t == 1) z = e % 3 == 0 ? 0.0f : -0.0f;
      if (t == 2) z = e == b.logits.columns - 1 ? 1.0f : -inf;              // one expert is left
      if (t == 3) z = e % 2 == 0 ? -1.0f : -inf;
    }
  router_config c = Config::config;
  c.score = score::identity, c.renormalize = false;
  check_on_model<routing::standard>(c, {}, b);
  check_on_model<routing::standard>(Config{}, {}, b);
}

TEST_CASE("tokens that are not finite raise the flag and get nobody, padding gets nobody and is silent") {
  auto b = draw_batch(qwen3::config, 12, seed);
  std::vector<std::uint8_t> padding(12, 0);
  padding[1] = padding[2] = padding[11] = 1;
  b.logits(2, 5) = std::nanf("");
  SUBCASE("padding alone") {}
  SUBCASE("NaN") { b.logits(4, 77) = std::nanf(""); }
  SUBCASE("infinity") { b.logits(4, 127) = inf; }
  SUBCASE("all forbidden") {
    for (int e = 0; e < 128; ++e) b.logits(4, e) = -inf;
  }
  padded::state state;
  state.padding = padding;
  check_on_model<padded>(qwen3{}, state, b);
  check_on_model<padded>(qwen3::config, state, b);
}

TEST_CASE("all tokens to one expert, and the rows of scores longer than the experts") {
  auto b = draw_batch(qwen2::config, 70, seed);
  for (std::int64_t t = 0; t < 70; ++t)
    for (int e = 56; e < 60; ++e) b.logits(t, e) = 30.0f - static_cast<float>(e);
  check_on_model<routing::standard>(qwen2{}, {}, b);
}

TEST_CASE("kernels for any device, without redux, and blocks of the default size") {
  struct oldest {
    static constexpr bool has(cuda::rung r) { return r == cuda::rung::simt; }
  };
  check_on_model<routing::standard, qwen3, oldest>({}, {}, draw_batch(qwen3::config, 70, seed));
}

TEST_CASE("route and plan as calls of their own, and together without counters") {
  auto const b = draw_batch(qwen2::config, 37, seed);
  auto const want = route_on_host<routing::standard>(qwen2::config, {}, b);
  each_schedule([&] {
    auto got = results_for<routing::standard>(qwen2::config, 37);
    small_stream where;
    cuda::route<routing::standard>(where, qwen2{}, {}, b.logits.view(), {}, got.scores.view(), got.choice.view(), got.slots(), {}, &got.not_finite);
    check_routed(got, want);
    cuda::plan(where, got.ids.view(), got.plan());
    check_planned(got, want);
    auto both = results_for<routing::standard>(qwen2::config, 37);
    cuda::route_and_plan<routing::standard>(where, qwen2{}, {}, b.logits.view(), {}, both.scores.view(), both.choice.view(), both.slots(), {}, &both.not_finite,
                                            nullptr, both.plan());
    check_routed(both, want);
    check_planned(both, want);
    CHECK(static_cast<bool>(cuda::finish(where)));
    check_findings();
  });
}

TEST_CASE("a warp's rows of experts meet no bank twice") {
  if (!device_model::sees_races()) return;
  auto const b = draw_batch(deepseek::config, 24, seed);
  device_model::scope const counting({.count_conflicts = true});
  (void)device_model::take_conflicts();
  auto got = results_for<routing::standard>(deepseek::config, 24);
  small_stream where;
  cuda::route<routing::standard>(where, deepseek{}, {}, b.logits.view(), b.score_bias, got.scores.view(), got.choice.view(), got.slots(), {}, &got.not_finite);
  CHECK(static_cast<bool>(cuda::finish(where)));
  check_findings();
  auto const conflicts = device_model::take_conflicts();
  CHECK(conflicts.instructions > 1000);
  CHECK(conflicts.passes - conflicts.instructions <= 2 * 24);   // the scores of those chosen lie where they lie
}

TEST_CASE("at the default tuning: no tokens, and more than one launch routes and plans") {
  static_assert(4100 > cuda::default_route_tuning::planned_tokens);
  device_model::scope const scoped({.when = device_model::delivery::late, .seed = 3});
  for (std::int64_t const tokens : {0, 4100}) {
    CAPTURE(tokens);
    auto const b = draw_batch(few::config, tokens, seed);
    check_once<routing::standard, cuda::default_tuning>(few{}, {}, b, route_on_host<routing::standard>(few::config, {}, b));
  }
}

TEST_CASE("at the default tuning every architecture gets a kernel that was compiled for it") {
  auto const b = draw_batch(few::config, 9, seed);
  auto const want = route_on_host<routing::standard>(few::config, {}, b);
  for (int const architecture : {75, 80, 86, 90, 100}) {
    CAPTURE(architecture);
    device_model::scope const scoped({.architecture = architecture});
    check_once<routing::standard, cuda::default_tuning>(few{}, {}, b, want);
    cuda::stream_ref where;
    std::int32_t offsets[2];
    bool const runs = where.device.architecture < 80 || where.device.architecture > 90;
    CHECK(static_cast<bool>(cuda::launch<cuda::replaced_on<cuda::plan_of_all, 80, 90>>(where, {}, {19, offsets})) == runs);
    check_findings();
  }
}

TEST_CASE("the plan of a dense layer") {
  std::int32_t offsets[2] = {-7, -7};
  cuda::stream_ref where;
  cuda::plan_whole(where, 19, offsets);
  CHECK(static_cast<bool>(cuda::finish(where)));
  CHECK(offsets[0] == 0);
  CHECK(offsets[1] == 19);
  check_findings();
}

TEST_CASE("the plan alone, of any number of choices and experts, is make_plan's") {
  random_stream random(seed);
  for (auto const& of : {plan_size{1, 1, 1}, {5, 3, 700}, {333, 8, 60}, {1500, 2, 1100}, {40, 200, 256}, {9, 4, 513}}) {
    int const tokens = of.tokens, slots = of.slots, experts = of.experts;
    CAPTURE(tokens);
    CAPTURE(experts);
    route_results want(tokens, experts, slots, 0);
    auto const few = 1 + random.below(experts);            // some experts stay without tokens
    for (auto& e : want.ids.data) e = random.below(5) == 0 ? -1 : static_cast<std::int32_t>(experts - 1 - random.below(few));
    make_plan(want.ids.view(), want.plan());
    each_schedule([&] {
      route_results got(tokens, experts, slots, 0), by_few(tokens, experts, slots, 0);
      cuda::stream_ref where;
      cuda::plan(where, want.ids.view(), got.plan());
      check_planned(got, want);
      cuda::basic_stream_ref<few_threads> other;
      cuda::plan(other, want.ids.view(), by_few.plan());
      check_planned(by_few, want);
      CHECK(static_cast<bool>(cuda::finish(where)));
      CHECK(static_cast<bool>(cuda::finish(other)));
      check_findings();
    });
  }
}

TEST_CASE("what a device's sort has put in order becomes make_plan's plan") {
  random_stream random(seed);
  for (auto const& of : {plan_size{0, 2, 5}, {1, 1, 1}, {333, 8, 60}, {41, 3, 700}}) {
    int const tokens = of.tokens, slots = of.slots, experts = of.experts;
    route_results want(tokens, experts, slots, 0), got(tokens, experts, slots, 0);
    for (auto& e : want.ids.data) e = random.below(5) == 0 ? -1 : static_cast<std::int32_t>(random.below(experts));
    make_plan(want.ids.view(), want.plan());
    std::vector<std::uint32_t> key(want.ids.data.size()), choice(key), sorted_key;
    cuda::stream_ref where;
    cuda::start<cuda::list_choices>(where, {.x = 3}, {want.ids.view(), static_cast<std::uint32_t>(experts), key.data(), choice.data()});
    std::stable_sort(choice.begin(), choice.end(), [&](auto a, auto b) { return key[a] < key[b]; });
    for (auto const c : choice) sorted_key.push_back(key[c]);
    cuda::start<cuda::place_choices>(where, {.x = 3}, {sorted_key.data(), choice.data(), got.plan()});
    CHECK(static_cast<bool>(cuda::finish(where)));
    check_findings();
    check_planned(got, want);
  }
}
