// Experts that are supplied, looked up or forbidden: replay, hash tables, masks.
// SPDX-License-Identifier: Apache-2.0
#include <numeric>

#include <moesaic/route/allowed.hpp>
#include <moesaic/route/hash.hpp>
#include <moesaic/route/replay.hpp>

#include "routing/support.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

router_config random_config(random_stream& random) {
  router_config c;
  c.experts = static_cast<int>(1 + random.below(12));
  c.top_k = static_cast<int>(1 + random.below(c.experts));
  c.score = random.below(2) == 0 ? score::softmax : score::sigmoid;
  c.renormalize = random.below(2) == 0;
  if (c.experts % 2 == 0 && random.below(2) == 0) {
    c.groups = 2;
    c.group_worth = group_worth::max;
    c.top_k = std::min(c.top_k, c.experts / 2);
    c.group_mask = random.below(2) == 0 ? group_mask::zero : group_mask::minus_infinity;
  }
  return c;
}

}  // namespace

TEST_CASE_TEMPLATE("a recording replayed by the router that made it is the same routing, bit for bit", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    auto const logits = random_logits<T>(random, 20 * c.experts);
    auto const first = route_all<routing::standard, T>(c, {}, logits);
    auto const again = route_all<routing::replay<>, T>(c, {{}, {first.raw_ids.data(), 20, c.top_k}}, logits);
    CHECK(again.raw_ids == first.raw_ids);
    CHECK(again.raw_weights == first.raw_weights);
    CHECK(again.count == first.count);
  }
}

TEST_CASE_TEMPLATE("supplied ids keep their order, and the weights are this router's", T, float, double) {
  std::vector<std::int32_t> const ids{5, -1, 2, 5, 8, 7, 0};      // unused, twice, beyond the experts; the last beyond the slots
  auto const r = route_one<routing::replay<>, T>({.top_k = 3, .renormalize = true}, as<T>(golden), {{}, {ids.data(), 1, 7}});
  CHECK(r.ids[0] == ids_of_token{5, 2, 7});
  check_printed(r.weights[0], {.023822, .584425, .391752});       // of .014256, .349738, .234436
  auto const none = route_one<routing::replay<>, T>({.top_k = 3}, as<T>(golden), {{}, {ids.data() + 1, 1, 1}});
  CHECK(none.count[0] == 0);
  CHECK(none.finite);
  auto broken = as<T>(golden);
  broken[4] = std::numeric_limits<T>::quiet_NaN();
  auto const flagged = route_one<routing::replay<>, T>({.top_k = 3}, broken, {{}, {ids.data(), 1, 7}});
  CHECK(flagged.count[0] == 0);
  CHECK_FALSE(flagged.finite);
}

TEST_CASE_TEMPLATE("a hash table's experts, weighed by scores or by one", T, float, double) {
  std::vector<std::int32_t> const table{1, 3, 0, 7, 6, 6}, tokens{2, 0, 1, 3, -1};
  routing::hash<>::state const s{{}, tokens, {table.data(), 3, 2}};
  auto logits = as<T>(golden);
  for (int t = 1; t < 5; ++t) logits.insert(logits.end(), golden.begin(), golden.end());
  auto const r = route_all<routing::hash<>, T>({.experts = 8, .top_k = 2}, s, logits);
  CHECK(r.ids == std::vector<ids_of_token>{{6}, {1, 3}, {0, 7}, {}, {}});
  check_printed(r.weights[2], {.128661, .234436});
  auto const ones = route_all<routing::hash<>, T>({.experts = 8, .top_k = 2, .weights = combine_weight::ones}, s, logits);
  check_printed(ones.weights[2], {1, 1});
  auto const one = route_all<routing::hash<>, T>({.experts = 8, .top_k = 1}, s, logits);
  CHECK(one.ids == std::vector<ids_of_token>{{6}, {1}, {0}, {}, {}});
}

TEST_CASE("a random hash table: different experts in a row, all used alike") {
  std::vector<std::int32_t> table(6000 * 3);
  routing::fill_hash_table({table.data(), 6000, 3}, 12, 5);
  std::vector<int> used(12);
  for (std::size_t row = 0; row < 6000; ++row)
    for (std::size_t i = 0; i < 3; ++i) {
      auto const e = table[3 * row + i];
      REQUIRE(e >= 0);
      REQUIRE(e < 12);
      ++used[static_cast<std::size_t>(e)];
      for (std::size_t j = 0; j < i; ++j) CHECK(table[3 * row + j] != e);
    }
  for (auto const n : used) CHECK(std::abs(n - 1500) < 200);      // mean 1500, deviation 34
}

TEST_CASE_TEMPLATE("a mask is logits of −inf, bit for bit, groups and all", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    random_stream random(seed);
    auto const c = random_config(random);
    std::int64_t const tokens = 8;
    auto const size = static_cast<std::size_t>(tokens * c.experts);
    auto const logits = random_logits<T>(random, tokens * c.experts);
    std::vector<std::uint8_t> mask(size);
    auto forbidden = logits;
    for (std::size_t i = 0; i < size; ++i) {
      mask[i] = random.below(3) != 0;
      if (!mask[i]) forbidden[i] = -infinity<T>;
    }
    auto const masked = route_all<routing::allowed<>, T>(c, {{}, {}, {mask.data(), tokens, c.experts}}, logits);
    auto const plain = route_all<routing::standard, T>(c, {}, forbidden);
    CHECK(masked.finite);
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const at = static_cast<std::size_t>(t);
      bool const open = std::accumulate(mask.begin() + t * c.experts, mask.begin() + (t + 1) * c.experts, 0) > 0;
      for (auto const e : masked.ids[at]) CHECK(mask[static_cast<std::size_t>(t * c.experts + e)] == 1);
      if (!open) CHECK(masked.count[at] == 0);
      if (!open) continue;
      CHECK(masked.ids[at] == plain.ids[at]);
      CHECK(masked.weights[at] == plain.weights[at]);
    }
    std::vector<std::uint8_t> const full(size, 1);
    auto const all = route_all<routing::allowed<>, T>(c, {{}, {}, {full.data(), tokens, c.experts}}, logits);
    auto const unmasked = route_all<routing::standard, T>(c, {}, logits);
    CHECK(all.raw_ids == unmasked.raw_ids);
    CHECK(all.raw_weights == unmasked.raw_weights);
  }
}

TEST_CASE_TEMPLATE("modalities: a row of the mask for each kind, no kind may do everything, an unknown one nothing", T, float, double) {
  std::vector<std::uint8_t> const mask{1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1};   // text, picture
  std::vector<std::int32_t> const kind{0, 1, -1, 2};
  auto logits = as<T>(golden);
  for (int t = 1; t < 4; ++t) logits.insert(logits.end(), golden.begin(), golden.end());
  auto const r = route_all<routing::allowed<>, T>({.experts = 8, .top_k = 2}, {{}, kind, {mask.data(), 2, 8}}, logits);
  CHECK(r.ids == std::vector<ids_of_token>{{2, 0}, {7, 6}, {2, 7}, {}});
  CHECK(r.finite);
  auto const text = route_one<routing::standard, T>({.top_k = 2}, std::vector<T>(logits.begin(), logits.begin() + 4));
  CHECK(r.weights[0] == text.weights[0]);                         // the softmax is over its own experts
}

TEST_CASE("states of another shape are refused by name") {
  router_config const c{.experts = 8, .top_k = 2};
  std::vector<std::uint8_t> const mask(16, 1);
  std::vector<std::int32_t> const three(3);
  CHECK(to_string(state_fits<routing::allowed<>>(c, {{}, {}, {mask.data(), 2, 8}}, 3)) ==
        "a mask without kinds must have a row a token (expected 3, found 2)");
  CHECK(to_string(state_fits<routing::allowed<>>(c, {{}, {}, {mask.data(), 4, 4}}, 4)) ==
        "a mask must have a column an expert (expected 8, found 4)");
  CHECK(to_string(state_fits<routing::allowed<>>(c, {{}, three, {mask.data(), 2, 8}}, 4)) ==
        "kind must have an entry a token, or none (expected 4, found 3)");
  CHECK(state_fits<routing::allowed<>>(c, {{}, three, {mask.data(), 2, 8}}, 3));
  CHECK(to_string(state_fits<routing::replay<>>(c, {{}, {three.data(), 3, 1}}, 4)) ==
        "the supplied ids must have a row a token (expected 4, found 3)");
  CHECK(to_string(state_fits<routing::hash<>>(c, {{}, three, {}}, 4)) == "token_ids must have an entry a token (expected 4, found 3)");
}
