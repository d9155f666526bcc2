// Routing of one's own, outside the library: a price an expert, and a rule over a whole batch. The kernels stay as they are.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdio>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>

struct plain {
  static constexpr moesaic::block_config config{.hidden = 128,
                                                .attention = {.heads = 4},
                                                .router = {.experts = 16, .top_k = 4, .renormalize = true},
                                                .expert = {.intermediate = 64},
                                                .storage = {.weights = moesaic::dtype::bf16}};
};

/// Experts cost what `cost` says; a token pays `price` score points a unit. Weights still come from the plain scores.
struct thrifty : moesaic::routing::standard {
  struct state {
    moesaic::list<const float> cost;   // [experts]
    float price = 0;
  };
  template <class T>
  MOESAIC_FN static T price(moesaic::router_config const&, state const& s, moesaic::routing_site at, T /*score*/) {
    return static_cast<T>(s.price * s.cost[at.expert]);
  }
  /// A layer asks before anything reads the list.
  static constexpr moesaic::status fits(moesaic::router_config const& c, state const& s, std::int64_t /*tokens*/) {
    return s.cost.size == c.experts ? moesaic::status{} : moesaic::invalid("cost must have an entry an expert", c.experts, s.cost.size);
  }
};
struct priced : plain {
  using routing = thrifty;
};

/// Every token takes its best `own` experts; the rest of its list comes from what somebody in the batch has taken already. (The library has
/// this one, on top of any policy: routing::two_phase.)
struct sociable : moesaic::routing::standard {
  struct state {
    int own = 1;
  };
  static constexpr bool coupled = true;   // a sequence's output depends on its batch mates
  template <class T>
  static void select_batch(moesaic::router_config const& c, moesaic::serial_group const&, state const& s, moesaic::routing_batch<T> const& batch,
                           moesaic::routing_slots<T> const& slots, moesaic::list<std::byte> /*memory*/) {
    bool taken[plain::config.router.experts] = {};
    for (std::int64_t t = 0; t < batch.choice.rows; ++t) {
      int const found = moesaic::top_k(batch.choice.row(t), c.experts, s.own, slots.ids.row(t));
      for (int i = 0; i < found; ++i) taken[slots.ids(t, i)] = true;
    }
    for (std::int64_t t = 0; t < batch.choice.rows; ++t) {
      T inside[plain::config.router.experts];
      for (int e = 0; e < c.experts; ++e) inside[e] = taken[e] ? batch.choice(t, e) : -std::numeric_limits<T>::infinity();
      slots.count[t] = moesaic::top_k(inside, c.experts, c.top_k, slots.ids.row(t));
    }
  }
};
struct together : plain {
  using routing = sociable;
};

/// Counts what was chosen: a tap sees every intermediate.
struct expert_counter {
  std::vector<int> tokens_of_expert = std::vector<int>(plain::config.router.experts);
  template <class X>
  void operator()(moesaic::tap_point at, moesaic::view<const X> values) {
    if (at.stage != moesaic::stage::topk_index) return;
    for (std::int64_t t = 0; t < values.rows; ++t)
      for (std::int64_t i = 0; i < values.columns; ++i)
        if (auto const e = static_cast<int>(values(t, i)); e >= 0) ++tokens_of_expert[static_cast<std::size_t>(e)];
  }
};

template <class Spec>
void show(const char* name, moesaic::block_weights const& weights, typename moesaic::policy_of<Spec>::state const& state) {
  using layer = moesaic::block<Spec>;
  constexpr int tokens = 16;
  moesaic::host::pool cpu;
  auto const cache = layer::make_cache(cpu, tokens, 1);
  moesaic::host::buffer workspace{layer::template workspace_bytes<expert_counter>(tokens)};
  std::vector<float> x(tokens * 128), y(x.size());
  moesaic::random_stream numbers(7);
  for (auto& value : x) value = numbers.normal();
  std::vector<std::int32_t> sequence(tokens), position(tokens, 0);
  for (int t = 0; t < tokens; ++t) sequence[static_cast<std::size_t>(t)] = t;

  expert_counter seen;
  if (auto done = layer::forward(cpu, weights, {{x.data(), tokens, 128}, sequence, position}, cache, {y.data(), tokens, 128}, workspace, state, seen); !done) {
    std::fprintf(stderr, "%s\n", moesaic::to_string(done).c_str());
    return;
  }
  int distinct = 0;
  std::printf("%-32s", name);
  for (int const n : seen.tokens_of_expert) std::printf(" %2d", n), distinct += n > 0;
  std::printf("   %d experts read\n", distinct);
}

int main() {
  moesaic::host::pool cpu;
  auto const weights = moesaic::block<plain>::load(cpu, moesaic::random_source{1}, "");   // one set of weights serves every policy
  std::vector<float> cost(16, 0.0f);
  for (std::size_t e = 8; e < 16; ++e) cost[e] = 1.0f;                                    // the upper half lives in slower memory
  std::printf("tokens of each expert, a batch of 16 tokens, 4 experts a token:\n");
  show<plain>("plain top-4", weights, {});
  show<priced>("experts 8-15 cost 0.1 a token", weights, {cost, 0.1f});
  show<together>("two of its own, two of others'", weights, {2});
}
