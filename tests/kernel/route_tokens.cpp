// Policies that choose for each token by itself, on a model of a device: every one is the host's, by a warp a token, its source unchanged.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/allowed.hpp>
#include <moesaic/route/hash.hpp>
#include <moesaic/route/hierarchical.hpp>
#include <moesaic/route/null_experts.hpp>
#include <moesaic/route/replay.hpp>
#include <moesaic/route/sparse_mixer.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/variable_k.hpp>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;

struct softmax40 {
  static constexpr router_config config{.experts = 40, .top_k = 6, .renormalize = true};
};
struct plain40 {
  static constexpr router_config config{.experts = 40, .top_k = 6};
};
struct relu40 {
  static constexpr router_config config{.experts = 40, .top_k = 6, .score = score::relu};
};
struct grouped40 {
  static constexpr router_config config{.experts = 40, .top_k = 6, .score = score::sigmoid, .groups = 5, .top_groups = 3, .renormalize = true, .score_bias = true};
};
struct gated40 {
  static constexpr router_config config{.experts = 40, .top_k = 6, .groups = 5, .top_groups = 3, .renormalize = true, .group_gate = true};
};

/// With rows in shared memory and in global memory, and kinds of logits.
template <class Policy, class Config>
void check_policy(typename Policy::state const& state, std::int64_t tokens = 19) {
  for (std::uint64_t s = seed; s < seed + 3; ++s) {
    CAPTURE(s);
    auto const b = draw_batch(Config::config, tokens, s);
    check_on_model<Policy>(Config{}, state, b);
    check_on_model<Policy>(Config::config, state, b);
  }
}

}  // namespace

TEST_CASE("top_p") {
  for (float const p : {0.0f, 0.3f, 0.8f, 1.0f}) {
    routing::top_p<>::state s;
    s.p = p;
    check_policy<routing::top_p<>, softmax40>(s);
  }
}

TEST_CASE("thresholds and positive scores") {
  std::vector<float> thresholds(40, 0.5f);
  for (std::size_t e = 0; e < 40; e += 3) thresholds[e] = 0.9f;
  for (bool const one : {true, false}) {
    routing::threshold<>::state s;
    s.thresholds = thresholds, s.at_least_one = one;
    check_policy<routing::threshold<>, grouped40>(s);
  }
  check_policy<routing::positive<>, relu40>({});
}

TEST_CASE("sparse_mixer") {
  routing::sparse_mixer<>::state s;
  check_policy<routing::sparse_mixer<>, plain40>(s);
  s.epsilon = 0.2f;
  check_policy<routing::sparse_mixer<>, plain40>(s);
}

TEST_CASE("hierarchical, and of allowed experts") {
  check_policy<routing::hierarchical<>, gated40>({});
  using both = routing::hierarchical<routing::allowed<>>;
  std::vector<std::uint8_t> mask(2 * 40, 1);
  for (int e = 0; e < 40; ++e) mask[static_cast<std::size_t>(e)] = e % 3 != 0, mask[static_cast<std::size_t>(40 + e)] = e >= 16;
  std::vector<std::int32_t> kind;
  for (int t = 0; t < 19; ++t) kind.push_back(t % 4 - 1);
  both::state s;
  s.kind = kind, s.mask = {mask.data(), 2, 40};
  check_policy<both, gated40>(s);
}

TEST_CASE("allowed") {
  std::vector<std::uint8_t> mask(3 * 40, 0);
  for (int e = 0; e < 40; ++e) mask[static_cast<std::size_t>(e)] = e % 3 == 0, mask[static_cast<std::size_t>(40 + e)] = e >= 37;   // the third may use none
  std::vector<std::int32_t> kind;
  for (int t = 0; t < 19; ++t) kind.push_back(t % 5 - 1);
  routing::allowed<>::state s;
  s.kind = kind, s.mask = {mask.data(), 3, 40};
  check_policy<routing::allowed<>, softmax40>(s);
  check_policy<routing::allowed<>, grouped40>(s);
}

TEST_CASE("hash and replay") {
  std::vector<std::int32_t> table(11 * 8), token_ids, ids(19 * 7);
  random_stream random(seed);
  routing::fill_hash_table({table.data(), 11, 8}, 40, seed);
  for (int t = 0; t < 19; ++t) token_ids.push_back(static_cast<std::int32_t>(random.below(13)) - 1);
  for (auto& e : ids) e = static_cast<std::int32_t>(random.below(44)) - 2;
  routing::hash<>::state h;
  h.token_ids = token_ids, h.table = {table.data(), 11, 8};
  check_policy<routing::hash<>, softmax40>(h);
  routing::replay<>::state r;
  r.ids = {ids.data(), 19, 7};
  check_policy<routing::replay<>, grouped40>(r);
}

TEST_CASE("weights over true experts only") {
  check_policy<routing::without_nulls<expert_range{30, 40}>, softmax40>({});
}
