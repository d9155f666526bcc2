// Policies inside whole layers: neutral ones are the plain router bit for bit, recordings replay, wrong states are refused.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>

#include "routing/support.hpp"
#include "support/compare.hpp"
#include "support/matrix.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr int tokens = 17, experts = 12;

template <dtype Activations>
struct plain {
  static constexpr block_config config{.hidden = 24,
                                       .attention = {.heads = 2},
                                       .router = {.experts = experts, .top_k = 5},
                                       .expert = {.intermediate = 16},
                                       .storage = {.weights = dtype::fp32, .activations = Activations}};
};
template <class Spec, class Policy>
struct with : Spec {
  using routing = Policy;
};
template <dtype Activations>
struct grouped : plain<Activations> {
  static constexpr block_config config = [] {
    auto c = plain<Activations>::config;
    c.router = {.experts = experts, .top_k = 4, .groups = 3, .top_groups = 2, .renormalize = true, .group_gate = true};
    return c;
  }();
  using routing = moesaic::routing::hierarchical<>;
};
template <dtype Activations>
struct angular : plain<Activations> {
  static constexpr block_config config = [] {
    auto c = plain<Activations>::config;
    c.router.cosine = 10;
    return c;
  }();
};

/// Keeps a call's expert ids.
struct recorder {
  std::vector<std::int32_t>* ids;
  static constexpr bool wants(stage s) { return s == stage::topk_index; }
  template <class X>
  void operator()(tap_point at, view<const X> values) const {
    if constexpr (std::is_same_v<X, std::int32_t>)
      if (at.stage == stage::topk_index) ids->assign(values.data, values.data + values.rows * values.columns);
  }
};

template <class T>
struct outcome {
  status done;
  matrix<T> y;
  std::vector<std::int32_t> ids;
};

template <class Spec, class T = typename block<Spec>::scalar>
outcome<T> run(block_weights const& weights, typename block<Spec>::policy_state const& state = {}) {
  using layer = block<Spec>;
  host::pool where(2);
  random_stream random(seed);
  auto const x = random_matrix<T>(tokens, 24, random);
  std::vector<std::int32_t> sequence, position;
  for (int t = 0; t < tokens; ++t) sequence.push_back(t % 3), position.push_back(t / 3);
  auto const cache = layer::make_cache(where, 3, 8);
  host::buffer workspace{layer::template workspace_bytes<recorder>(tokens)};
  outcome<T> r{{}, matrix<T>(tokens, 24), {}};
  r.done = layer::forward(where, weights, {x.view(), sequence, position}, cache, r.y.view(), workspace, state, recorder{&r.ids});
  return r;
}

template <class T>
bool equal(outcome<T> const& a, outcome<T> const& b) {
  REQUIRE(static_cast<bool>(a.done));
  REQUIRE(static_cast<bool>(b.done));
  return a.ids == b.ids && same_bits(a.y.view(), b.y.view());
}

template <class T>
inline constexpr dtype activations_of = dtype_of<T>;

}  // namespace

TEST_CASE_TEMPLATE("a neutral policy is the plain router, and a recording of any policy replays, bit for bit", T, float, double) {
  using spec = plain<activations_of<T>>;
  host::pool where;
  auto const loaded = block<spec>::load(where, random_source{seed}, "");
  block_weights const& weights = loaded;                     // one set of weights for every policy
  auto const expected = run<spec>(weights);
  auto const replayed = [&](outcome<T> const& r) {
    return run<with<spec, routing::replay<>>>(weights, {{}, {r.ids.data(), tokens, spec::config.router.top_k}});
  };

  float const low = -1;
  std::vector<std::uint8_t> const full(experts, 1);
  std::vector<std::int32_t> const kinds(tokens, 0);
  CHECK(equal(run<with<spec, routing::top_p<>>>(weights, {{}, 1}), expected));
  CHECK(equal(run<with<spec, routing::threshold<>>>(weights, {{}, {&low, 1}}), expected));
  CHECK(equal(run<with<spec, routing::positive<>>>(weights), expected));           // a softmax is positive
  CHECK(equal(run<with<spec, routing::allowed<>>>(weights, {{}, kinds, {full.data(), 1, experts}}), expected));
  CHECK(equal(replayed(expected), expected));

  auto const share = run<with<spec, routing::top_p<>>>(weights, {{}, .3f});
  CHECK_FALSE(equal(share, expected));
  CHECK(equal(replayed(share), share));
  float const bar = .12f;
  auto const above = run<with<spec, routing::threshold<>>>(weights, {{}, {&bar, 1}});
  CHECK_FALSE(equal(above, expected));
  CHECK(equal(replayed(above), above));
  std::vector<std::uint8_t> half(2 * experts);
  for (std::size_t e = 0; e < experts; ++e) half[e] = e < experts / 2, half[experts + e] = e >= experts / 2;
  std::vector<std::int32_t> modality;
  for (int t = 0; t < tokens; ++t) modality.push_back(t % 2);
  auto const apart = run<with<spec, routing::allowed<>>>(weights, {{}, modality, {half.data(), 2, experts}});
  REQUIRE(static_cast<bool>(apart.done));
  for (std::size_t i = 0; i < apart.ids.size(); ++i) CHECK(apart.ids[i] / (experts / 2) == modality[i / 5]);

  auto const chosen = run<with<spec, routing::expert_choice<>>>(weights, {{}, 2});
  CHECK(equal(replayed(chosen), chosen));
  std::vector<std::int32_t> words, table(7 * 3);
  for (int t = 0; t < tokens; ++t) words.push_back((5 * t) % 7);
  routing::fill_hash_table({table.data(), 7, 3}, experts, 1);
  auto const hashed = run<with<spec, routing::hash<>>>(weights, {{}, words, {table.data(), 7, 3}});
  CHECK(equal(replayed(hashed), hashed));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t i = 0; i < 3; ++i) CHECK(hashed.ids[5 * t + i] == table[3 * static_cast<std::size_t>(words[t]) + i]);

  CHECK(static_cast<bool>(run<with<spec, routing::sparse_mixer<>>>(weights, {}).done));
}

TEST_CASE_TEMPLATE("two levels load a router of experts + groups rows, and route by them", T, float, double) {
  using spec = grouped<activations_of<T>>;
  host::pool where;
  auto const weights = block<spec>::load(where, random_source{seed}, "");
  block_weights const& w = weights;
  CHECK(w.ffn.router.weight.outputs == experts + 3);
  static_assert(parameters(spec::config).router == (experts + 3) * 24 && parameters(plain<dtype::fp32>::config).router == experts * 24);
  auto const r = run<spec>(w);
  REQUIRE(static_cast<bool>(r.done));
  for (std::size_t t = 0; t < tokens; ++t) {
    int of_group[3] = {};
    for (std::size_t i = 0; i < 4; ++i) ++of_group[r.ids[4 * t + i] / 4];
    for (auto const n : of_group) CHECK((n == 0 || n == 2));
  }
}

TEST_CASE_TEMPLATE("logits are cosines times the scale, and a row without a length is like none", T, float, double) {
  using spec = angular<activations_of<T>>;
  using layer = router<spec>;
  host::pool where;
  auto const loaded = block<spec>::load(where, random_source{seed}, "");
  auto const& w = static_cast<block_weights const&>(loaded).ffn.router;
  random_stream random(seed + 1);
  auto x = random_matrix<T>(tokens, 24, random);
  for (int i = 0; i < 24; ++i) x(3, i) = T(0), x(5, i) *= static_cast<T>(1e4), x(6, i) = x(5, i) * static_cast<T>(0x1p-30);
  x(7, 2) = std::numeric_limits<T>::quiet_NaN();
  arena counting;
  layer::carve(counting, tokens);
  host::buffer memory{counting.used() + arena::alignment};
  arena over(memory.data(), memory.size());
  auto const s = layer::carve(over, tokens);
  call_flags flags;
  REQUIRE(static_cast<bool>(layer::forward(where, w, x.view(), {}, s, &flags)));
  CHECK(flags.not_finite == 1);
  CHECK(s.slots.count[7] == 0);
  for (int t = 0; t < tokens; ++t)
    for (int e = 0; e < experts && t != 7; ++e) {
      long double dot = 0, of_x = 0, of_w = 0;
      for (int i = 0; i < 24; ++i) {
        long double const a = x(t, i), b = host::unpack(w.weight, 0, 0, e, i);
        dot += a * b, of_x += a * a, of_w += b * b;
      }
      auto const cosine = t == 3 ? 0 : dot / std::sqrt(of_x * of_w);
      CHECK(std::fabs(cosine) <= 1);
      CHECK(near(s.logits(t, e), 10 * cosine, 10));
    }
  for (int e = 0; e < experts; ++e) CHECK(near(s.logits(6, e), static_cast<long double>(s.logits(5, e)), 10));   // length says nothing
}

TEST_CASE("a state of another shape is refused before anything is written") {
  using spec = plain<dtype::fp32>;
  host::pool where;
  auto const loaded = block<spec>::load(where, random_source{seed}, "");
  block_weights const& weights = loaded;
  std::vector<std::int32_t> const ids(30, 1);
  auto const replayed = run<with<spec, routing::replay<>>>(weights, {{}, {ids.data(), 6, 5}});
  CHECK(moesaic::to_string(replayed.done) == "the supplied ids must have a row a token (expected 17, found 6)");
  for (auto const y : replayed.y.data) CHECK(y == 0.0f);
  std::vector<std::uint8_t> const padding(3);
  routing::expert_choice<>::state s;
  s.padding = padding;
  CHECK(moesaic::to_string(run<with<spec, routing::expert_choice<>>>(weights, s).done) ==
        "padding of a routing state must have an entry a token, or none (expected 17, found 3)");
}
