// Experts priced by what they cost, on a model of a device: every source of costs, and the keepers of one token's budget.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/budget.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/residency.hpp>
#include <moesaic/route/top_p.hpp>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;
using routing::cost_aware;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr int experts = 40, tokens = 19;

struct sigmoid40 {
  static constexpr router_config config{.experts = experts, .top_k = 6, .score = score::sigmoid, .groups = 5, .top_groups = 4, .renormalize = true, .score_bias = true};
};
struct softmax12 {
  static constexpr router_config config{.experts = 12, .top_k = 3, .logit_softcap = 5.0, .renormalize = true};
};

struct drawn {
  random_stream random{seed};
  std::vector<float> us, flops, bytes, waiting{3, 0, 8};
  matrix<float> of_tokens{tokens, experts};
  std::vector<std::int32_t> rank, rank_of_token;
  residency where;
  std::vector<std::byte> memory;

  drawn() {
    for (int e = 0; e < experts; ++e) {
      us.push_back(0.25f + random.uniform()), flops.push_back(1e6f * random.uniform()), bytes.push_back(1e5f * (1 + random.uniform()));
      rank.push_back(static_cast<std::int32_t>(random.below(3)));
    }
    for (auto& x : of_tokens.data) x = random.uniform();
    for (int t = 0; t < tokens; ++t) rank_of_token.push_back(static_cast<std::int32_t>(random.below(3)));
    arena counted;
    residency::carve(counted, 2, experts, 10);
    memory.resize(counted.used() + arena::alignment);
    arena from(memory.data(), memory.size());
    where = residency::carve(from, 2, experts, 10);
    where.clear(1000);
    for (int e = 0; e < experts; e += 5) REQUIRE(static_cast<bool>(where.pin(1, e)));
    where.put(1, 3, tier::disk, 1000);
  }
};

template <class Policy, class Config = sigmoid40>
void check_priced(typename Policy::state state) {
  for (float const price : {0.0f, 0.3f})
    for (std::uint64_t s = seed; s < seed + 3; ++s) {
      CAPTURE(price);
      CAPTURE(s);
      state.price = price;
      auto const b = draw_batch(Config::config, tokens, s);
      check_on_model<Policy>(Config{}, state, b);
      check_on_model<Policy>(Config::config, state, b);
    }
}

}  // namespace

TEST_CASE("a table of costs, one row or a row a token, and the best protected") {
  drawn d;
  cost_aware<costs::table>::state s;
  s.cost = costs::table::of_experts(d.us);
  check_priced<cost_aware<costs::table>>(s);
  s.cost.microseconds = d.of_tokens.view();
  s.protect = 2;
  check_priced<cost_aware<costs::table>>(s);
}

TEST_CASE("a sum of all other sources") {
  drawn d;
  using all = costs::sum<costs::flops, costs::bytes, costs::rank_distance, costs::queue, costs::energy>;
  cost_aware<all>::state s;
  auto& cost = s.cost;
  static_cast<costs::detail::term<0, costs::flops>&>(cost) = {{d.flops, us_per_flop(1)}, 1};
  static_cast<costs::detail::term<1, costs::bytes>&>(cost) = {{d.bytes, d.where.where(1), {0.0f, 1e-5f, 4e-5f}}, 0.5f};
  static_cast<costs::detail::term<2, costs::rank_distance>&>(cost) = {{d.rank, d.rank_of_token, 0, 0.2f, 100, 1e-3f}, 1};
  static_cast<costs::detail::term<3, costs::queue>&>(cost) = {{d.rank, d.waiting, costs::queue::mean_of(d.waiting), 0.05f}, 1};
  static_cast<costs::detail::term<4, costs::energy>&>(cost) = {{d.flops, d.bytes, 1e-7f, 1e-6f}, 2};
  check_priced<cost_aware<all>>(s);
}

TEST_CASE("prices off logits, and the share of a softmax of what is left") {
  drawn d;
  using policy = routing::top_p_of_choice<cost_aware<costs::table, routing::standard, priced::logit>>;
  policy::state s;
  s.cost = costs::table::of_experts(list<const float>(d.us.data(), 12));
  check_priced<policy, softmax12>(s);
  s.share = 0.6f;
  check_priced<policy, softmax12>(s);
}

TEST_CASE("a hard budget a token, by all lists and by greedy ones; and experts that must be worth more than none") {
  drawn d;
  using policy = routing::null_expert<routing::knapsack<costs::table, cost_aware<costs::table>>>;
  policy::state s;
  s.cost = s.charge = costs::table::of_experts(d.us);
  for (float const budget : {infinity<float>, 2.5f, 0.1f}) {
    CAPTURE(budget);
    s.budget = budget;
    check_priced<policy>(s);
    auto few = s;
    few.cost = few.charge = costs::table::of_experts(list<const float>(d.us.data(), 12));
    few.null_choice = 0.02f;
    check_priced<policy, softmax12>(few);
  }
}
