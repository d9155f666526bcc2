// Whole layers and models: at a price of 0 every policy is the plain router to the bit; a policy from outside the library goes all the way.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/io/huggingface.hpp>
#include <moesaic/moesaic.hpp>
#include <support/tolerance.hpp>

#include "routed.hpp"

using namespace moesaic;
using namespace moesaic::test;
using routing::cost_aware, routing::knapsack, routing::null_expert, routing::standard, routing::top_p_of_choice;

namespace {

constexpr std::uint64_t seed = 44'000;

// ---- layers of three families, small

struct qwen_like {
  static constexpr block_config config{.hidden = 48,
                                       .attention = {.heads = 4, .kv_heads = 2, .qk_norm = qk_norm::per_head},
                                       .router = {.experts = 12, .top_k = 4, .renormalize = true},
                                       .expert = {.intermediate = 20},
                                       .storage = {.weights = dtype::fp32}};
};
struct deepseek_like {
  static constexpr block_config config{.hidden = 48,
                                       .attention = {.heads = 4},
                                       .router = {.experts = 12,
                                                  .top_k = 4,
                                                  .score = score::sigmoid,
                                                  .groups = 4,
                                                  .top_groups = 2,
                                                  .renormalize = true,
                                                  .routed_scale = 2.5,
                                                  .score_bias = true},
                                       .expert = {.intermediate = 20},
                                       .shared = {.intermediate = 24},
                                       .storage = {.weights = dtype::bf16, .activations = dtype::bf16}};
};
struct mixtral_like {
  static constexpr block_config config{.hidden = 48,
                                       .attention = {.heads = 4},
                                       .router = {.experts = 12, .top_k = 2, .position = score_position::after_top_k, .bias = true},
                                       .expert = {.intermediate = 20},
                                       .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};

using by_score = cost_aware<costs::table>;
using by_logit = cost_aware<costs::table, standard, priced::logit>;
using by_all = cost_aware<costs::sum<costs::flops, costs::bytes, costs::rank_distance, costs::queue, costs::energy, costs::table>>;

template <class Spec, class Policy>
struct routed_by : Spec {
  using routing = Policy;
};
template <class Spec>
struct model {
  static constexpr decoder_config config{.vocabulary = 40, .tied_head = true};
  using layers = moesaic::layers<repeat<Spec, 2>>;
};

/// Sees who was chosen in each layer, and what the router was told.
template <class T>
struct observer {
  std::vector<matrix<std::int32_t>> ids;
  std::vector<matrix<T>> logits, scores, weights;
  template <class X>
  void operator()(tap_point at, view<const X> values) {
    auto const keep = [&](auto& all) {
      auto& m = all.emplace_back(values.rows, values.columns);
      for (std::int64_t r = 0; r < values.rows; ++r)
        for (std::int64_t c = 0; c < values.columns; ++c) m(r, c) = values(r, c);
    };
    if constexpr (std::is_same_v<X, std::int32_t>) {
      if (at.stage == stage::topk_index) keep(ids);
    } else if constexpr (std::is_same_v<X, T>) {
      if (at.stage == stage::router_logits) keep(logits);
      if (at.stage == stage::router_scores) keep(scores);
      if (at.stage == stage::topk_weight) keep(weights);
    }
  }
};

constexpr int tokens = 19;

/// Logits of two sequences side by side through a decoder with random weights.
template <class Spec, class Tap = no_tap>
auto decode(typename policy_of<Spec>::state const& state, Tap&& tap = {}) {
  using decoder = moesaic::decoder<model<Spec>>;
  host::pool where;
  auto const weights = decoder::load(where, random_source{seed});
  auto const caches = decoder::make_cache(where, 2, 16);
  host::buffer workspace{decoder::template workspace_bytes<std::remove_cvref_t<Tap>>(tokens, tokens)};
  std::vector<std::int32_t> ids, sequence, position;
  random_stream random(seed);
  for (int t = 0; t < tokens; ++t) {
    ids.push_back(static_cast<std::int32_t>(random.below(40)));
    sequence.push_back(t % 2), position.push_back(t / 2);
  }
  matrix<typename decoder::sum> logits(tokens, 40);
  auto const done = decoder::forward(where, weights, {ids, sequence, position}, caches, every_token, logits.view(), workspace, state, tap);
  INFO(to_string(done));
  REQUIRE(static_cast<bool>(done));
  return logits;
}
/// One layer alone.
template <class Spec>
auto forward(typename policy_of<Spec>::state const& state) {
  using layer = block<Spec>;
  using scalar = typename layer::scalar;
  host::pool where;
  auto const weights = layer::load(where, random_source{seed}, "");
  auto const cache = layer::make_cache(where, 1, tokens);
  host::buffer workspace{layer::workspace_bytes(tokens)};
  random_stream random(seed);
  auto const x = convert<scalar>(random_matrix<float>(tokens, 48, random));
  matrix<scalar> y(tokens, 48);
  std::vector<std::int32_t> sequence(tokens, 0), position;
  for (int t = 0; t < tokens; ++t) position.push_back(t);
  auto const done = layer::forward(where, weights, {x.view(), sequence, position}, cache, y.view(), workspace, state);
  INFO(to_string(done));
  REQUIRE(static_cast<bool>(done));
  return y;
}

template <class T>
bool equal(matrix<T> const& a, matrix<T> const& b) {
  return same_bits(a.view(), b.view());
}

template <class Policy, class Spec>
void check_neutral(char const* name, typename Policy::state const& state) {
  CAPTURE(name);
  CHECK(equal(forward<Spec>({}), forward<routed_by<Spec, Policy>>(state)));
  CHECK(equal(decode<Spec>({}), decode<routed_by<Spec, Policy>>(state)));
}

/// Numbers that would show if they were read.
std::vector<float> const poison(12, std::numeric_limits<float>::quiet_NaN());

template <class Policy>
typename Policy::state poisoned() {
  typename Policy::state s;
  s.cost = costs::table::of_experts(poison);
  s.protect = 2;
  return s;
}

}  // namespace

TEST_CASE_TEMPLATE("neutral policies are the plain router to the bit, in a layer and in a model", Spec, qwen_like, deepseek_like, mixtral_like) {
  check_neutral<by_score, Spec>("score", poisoned<by_score>());
  check_neutral<by_logit, Spec>("logit", poisoned<by_logit>());
  check_neutral<by_all, Spec>("all sources", {});
  check_neutral<cost_aware<costs::table, by_logit>, Spec>("costs over costs", poisoned<cost_aware<costs::table, by_logit>>());
  check_neutral<knapsack<costs::table, by_score>, Spec>("knapsack", poisoned<knapsack<costs::table, by_score>>());
  check_neutral<null_expert<by_logit>, Spec>("null expert", poisoned<null_expert<by_logit>>());
  check_neutral<top_p_of_choice<by_logit>, Spec>("top-p", poisoned<top_p_of_choice<by_logit>>());
}

TEST_CASE("a price changes the output, and who is chosen keeps its weight") {
  std::vector<float> cost(12);
  for (std::size_t e = 0; e < 12; ++e) cost[e] = static_cast<float>(e % 4);
  auto const check = [&]<class Spec>(Spec, float price) {
    by_score::state s;
    s.cost = costs::table::of_experts(cost);
    s.price = price;
    auto const plain = forward<Spec>({}), priced = forward<routed_by<Spec, by_score>>(s);
    CHECK_FALSE(equal(plain, priced));
    std::vector<float> const same(12, 2.0f);                   // equal costs: the choice stays, so all bits do
    s.cost = costs::table::of_experts(same);
    s.price = 0x1p-12f;
    CHECK(equal(plain, forward<routed_by<Spec, by_score>>(s)));
  };
  check(qwen_like{}, .05f);
  check(deepseek_like{}, .05f);
  check(mixtral_like{}, .5f);
}

// ---- a policy from outside the library: a score, a price and a cost of its own

namespace {

/// Scores that no configuration knows.
struct bell : standard {
  struct state {
    float preference = 0;
  };
  template <class T, class Group>
  MOESAIC_FN static void score(router_config const& c, Group const& g, auto const&, std::int64_t, T const* logits, T* scores) {
    for (int e = g.rank(); e < c.experts; e += g.size()) scores[e] = T(1) / (T(1) + (logits[e] - T(1)) * (logits[e] - T(1)));
  }
  template <class T>
  MOESAIC_FN static T price(router_config const&, auto const& s, routing_site at, T) {
    return static_cast<T>(s.preference) * static_cast<T>(at.expert % 3);
  }
};
/// A cost that no source here has: a ring of experts, where a token's place moves with it.
struct ring {
  struct state {
    int size = 1;
    float us_per_hop = 0;
  };
  MOESAIC_FN static float cost(state const& s, routing_site at) {
    auto const away = static_cast<int>((at.token + at.expert) % s.size);
    return s.us_per_hop * static_cast<float>(away < s.size - away ? away : s.size - away);
  }
};
using outsider = cost_aware<ring, bell>;

}  // namespace

TEST_CASE_TEMPLATE("a policy with a score, a price and a cost of its own, through layer and model", Spec, qwen_like, mixtral_like) {
  using spec = routed_by<Spec, outsider>;
  using sum = typename block<spec>::scalar;
  static_assert(routing_policy<outsider, sum>);
  outsider::state s;
  s.preference = .0625f;
  s.cost = {12, .5f};
  s.price = .125f;
  observer<sum> seen;
  auto const logits = decode<spec>(s, seen);
  CHECK(equal(logits, decode<spec>(s)));
  CHECK_FALSE(equal(logits, decode<Spec>({})));
  CHECK_FALSE(equal(forward<spec>(s), forward<Spec>({})));
  REQUIRE(seen.ids.size() == 2);
  constexpr auto c = Spec::config.router;
  for (std::size_t layer = 0; layer < 2; ++layer)
    for (std::int64_t t = 0; t < tokens; ++t) {
      CAPTURE(layer);
      CAPTURE(t);
      std::vector<double> a(12), u(12);
      for (int e = 0; e < 12; ++e) {
        auto const z = static_cast<double>(seen.logits[layer](t, e)) - 1;
        auto const away = static_cast<int>((t + e) % 12);
        auto const i = static_cast<std::size_t>(e);
        a[i] = 1 / (1 + z * z);
        u[i] = a[i] - .125 * .5 * std::min(away, 12 - away) - .0625 * (e % 3);
      }
      double best = -1e300, got = 0;
      for_each_subset(12, c.top_k, c.top_k, [&](std::vector<int> const& set) {
        double worth = 0;
        for (int const e : set) worth += u[static_cast<std::size_t>(e)];
        best = std::max(best, worth);
      });
      double shares = 0, total = 0;
      auto const share = [&](std::int32_t e) {                 // after top-k: softmax over the chosen scores
        auto const own = a[static_cast<std::size_t>(e)];
        return c.position == score_position::after_top_k ? std::exp(own) : own;
      };
      for (int i = 0; i < c.top_k; ++i) {
        auto const e = seen.ids[layer](t, i);
        REQUIRE(e >= 0);
        got += u[static_cast<std::size_t>(e)];
        shares += share(e);
      }
      CHECK(std::abs(got - best) <= sum_tolerance<float>(12));
      for (int i = 0; i < c.top_k; ++i) {
        auto const w = static_cast<double>(seen.weights[layer](t, i));
        total += w;
        CHECK(std::abs(w - share(seen.ids[layer](t, i)) / shares) <= sum_tolerance<float>(12));
      }
      CHECK(std::abs(total - 1) <= sum_tolerance<float>(12));
    }
}

// ---- the trained pair

namespace {

struct trained_layer {
  static constexpr block_config config{.hidden = 128,
                                       .attention = {.heads = 4, .kv_heads = 2, .head_dim = 32, .qk_norm = qk_norm::per_head},
                                       .router = {.experts = 32, .top_k = 4, .renormalize = true},
                                       .expert = {.intermediate = 64},
                                       .norm = {.epsilon = 1e-6}};
};
template <class Policy>
struct trained {
  static constexpr decoder_config config{.vocabulary = 256, .norm = {.epsilon = 1e-6}, .tied_head = true};
  using layers = moesaic::layers<repeat<routed_by<trained_layer, Policy>, 4>>;
};

/// The mixture of examples/data on a window of text. Weights depend on no policy, so they are loaded once.
class reader {
 public:
  static constexpr int length = 96;
  using plain = decoder<trained<standard>>;

  reader() : weights_(plain::load(where_, checkpoint(std::string(MOESAIC_SOURCE_DIR) + "/examples/data/moe"))) {
    std::ifstream file(std::string(MOESAIC_SOURCE_DIR) + "/examples/data/text/scripture.txt", std::ios::binary);
    std::vector<unsigned char> const bytes{std::istreambuf_iterator<char>(file), {}};
    REQUIRE(bytes.size() > length);
    ids_.assign(bytes.begin(), bytes.begin() + length + 1);
  }
  template <class Policy, class States, class Tap = no_tap>
  matrix<float> read(States const& states, Tap&& tap = {}) {
    using decoder = moesaic::decoder<trained<Policy>>;
    auto const caches = decoder::make_cache(where_, 1, length);
    host::buffer workspace{decoder::template workspace_bytes<std::remove_cvref_t<Tap>>(length, length)};
    std::vector<std::int32_t> sequence(length, 0), position;
    for (int t = 0; t < length; ++t) position.push_back(t);
    matrix<float> logits(length, 256);
    auto const done = decoder::forward(where_, weights_, {{ids_.data(), length}, sequence, position}, caches, every_token, logits.view(), workspace,
                                       states, tap);
    INFO(to_string(done));
    REQUIRE(static_cast<bool>(done));
    return logits;
  }
  double bits_a_byte(matrix<float> const& logits) const {
    double sum = 0;
    for (int t = 0; t < length; ++t) {
      double all = 0;
      for (int v = 0; v < 256; ++v) all += std::exp(static_cast<double>(logits(t, v)));
      sum += std::log2(all) - static_cast<double>(logits(t, ids_[static_cast<std::size_t>(t) + 1])) / std::log(2.0);
    }
    return sum / length;
  }

 private:
  host::pool where_;
  decltype(plain::load(std::declval<host::pool&>(), std::declval<checkpoint>())) weights_;
  std::vector<std::int32_t> ids_;
};

/// Tells a residency who was chosen, after each layer.
struct loader_tap {
  residency& table;
  template <class X>
  void operator()(tap_point at, view<const X> values) {
    if constexpr (std::is_same_v<X, std::int32_t>)
      if (at.stage == stage::topk_index) table.use(at.layer, values);
  }
};

}  // namespace

TEST_CASE("a trained model: the same bits at a price of 0 by every policy, wherever its experts lie; cheaper at a price, for known bits") {
  reader pair;
  auto const plain = pair.read<standard>(no_states{});
  auto const before = pair.bits_a_byte(plain);
  CHECK(before < 4);                                           // it is trained
  std::vector<float> const nothing(32, std::numeric_limits<float>::quiet_NaN());
  auto const neutral = [&]<class Policy>(Policy) {
    typename Policy::state s;
    s.cost = costs::table::of_experts(nothing);
    CHECK(equal(plain, pair.read<Policy>(s)));
  };
  neutral(by_score{});
  neutral(by_logit{});
  neutral(knapsack<costs::table, by_logit>{});
  neutral(null_expert<by_logit>{});
  neutral(top_p_of_choice<by_logit>{});

  using by_bytes = cost_aware<costs::bytes, standard, priced::logit>;
  std::vector<float> const bytes(32, 49'152);                  // 3 · 128 · 64 in bf16
  std::int64_t loads[2] = {};
  for (float const price : {0.0f, .02f}) {
    for (auto const rule : {eviction::least_recent, eviction::least_frequent, eviction::never})
      for (int const slots : {0, 16, 64, 128}) {
        CAPTURE(static_cast<int>(rule));
        CAPTURE(slots);
        arena counting;
        residency::carve(counting, 4, 32, slots);
        std::vector<std::byte> memory(counting.used() + arena::alignment);
        arena over(memory.data(), memory.size());
        auto table = residency::carve(over, 4, 32, slots);
        table.rule = rule;
        table.clear(49'152);
        for (int layer = 0; layer < 4; ++layer)
          for (int e = 0; e < slots / 4; ++e) (void)table.pin(layer, e), table.unpin(layer, e);
        table.forget();
        auto const states = [&](int layer) {
          by_bytes::state s;
          s.cost = {bytes, table.where(layer), {0, us_per_byte(1), us_per_byte(.1)}};
          s.price = price;
          return s;
        };
        auto const logits = pair.read<by_bytes>(states, loader_tap{table});
        CHECK(table.counts.calls == 4);
        CHECK(table.counts.loaded() == table.counts.misses * 49'152);
        if (price == 0) CHECK(equal(plain, logits));
        else if (slots == 0) CHECK(pair.bits_a_byte(logits) == doctest::Approx(before).epsilon(1e-6));   // all alike: nothing to prefer
        if (rule == eviction::least_recent && slots == 64) {
          loads[price != 0] = table.counts.loaded();
          MESSAGE("price ", price, ": ", table.counts.loaded(), " bytes loaded, hit rate ", table.counts.hit_rate(), ", bits a byte ",
                  pair.bits_a_byte(logits), " (plain ", before, ")");
        }
      }
  }
  CHECK(loads[1] < loads[0]);
}
