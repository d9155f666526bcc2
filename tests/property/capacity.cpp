// Capacity against its rule said the slow way, each choice over all the others; what it must leave alone, bit for bit; whole layers.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/host/route.hpp>
#include <moesaic/layer/decoder.hpp>
#include <moesaic/route/capacity.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>

using namespace moesaic;
using namespace moesaic::test;
using routing::capacity_rule, routing::drop_order, routing::room;

namespace {

constexpr std::uint64_t seed = 20261124;

/// Logits and what a policy made of them.
struct routed {
  matrix<double> scores, choice, weights;
  matrix<std::int32_t> ids;
  std::vector<std::int32_t> count;
  routing_slots<double> slots() { return {ids.view(), weights.view(), count}; }
};

template <class Policy>
routed route_all(router_config const& c, typename Policy::state const& state, matrix<double> const& logits, int threads = 1) {
  auto const tokens = logits.rows, width = static_cast<std::int64_t>(Policy::slots(c));
  auto const experts = logits.columns;
  routed r{{tokens, experts}, {tokens, experts}, {tokens, width}, {tokens, width}, {}};
  r.count.resize(static_cast<std::size_t>(tokens));
  std::vector<std::int64_t> memory(static_cast<std::size_t>(batch_bytes_of<Policy>(c, tokens) / 8 + 1));
  host::pool where(threads);
  std::int32_t not_finite = 0;
  host::route<Policy>(where, c, state, logits.view(), {}, r.scores.view(), r.choice.view(), r.slots(),
                      {reinterpret_cast<std::byte*>(memory.data()), batch_bytes_of<Policy>(c, tokens)}, &not_finite);
  return r;
}

bool equal(routed const& a, routed const& b) {
  return same_bits(a.ids.view(), b.ids.view()) && same_bits(a.weights.view(), b.weights.view()) && a.count == b.count;
}

/// The choices that find no room, by the words of the rule. A choice's place at its expert is how many others of the group come before it:
/// first_choices: the second choices start after the first ones that are kept, and so on (arXiv:2006.16668, algorithm 1).
void drop_slowly(capacity_rule const& rule, int experts, int top_k, routed& r, std::vector<std::int32_t>& dropped) {
  auto const all = r.ids;
  auto const width = all.columns;
  auto const group = rule.group > 0 ? rule.group : all.rows;
  for (std::int64_t first = 0; first < all.rows; first += group) {
    auto const end = std::min(all.rows, first + group);
    std::int64_t tokens = 0;
    for (auto t = first; t < end; ++t) tokens += std::isnan(r.choice(t, 0)) ? 0 : 1;
    auto const capacity = rule.of(tokens, experts, top_k);
    std::vector<std::int64_t> kept_before(static_cast<std::size_t>(experts), 0);
    for (std::int64_t i = 0; i < width; ++i) {
      auto kept = kept_before;
      for (auto t = first; t < end; ++t) {
        auto const e = all(t, i);
        if (e < 0) continue;
        std::int64_t place = rule.order == drop_order::first_choices ? kept_before[static_cast<std::size_t>(e)] : 0;
        for (auto u = first; u < end; ++u)
          for (std::int64_t j = 0; j < width; ++j) {
            if (all(u, j) != e || u == t) continue;
            if (rule.order == drop_order::first_choices) place += i == j && u < t;
            if (rule.order == drop_order::tokens) place += u < t;
            auto const mine = r.weights(t, i), other = r.weights(u, j);
            if (rule.order == drop_order::weights) place += other > mine || (other == mine && u < t);
          }
        if (place < capacity) ++kept[static_cast<std::size_t>(e)];
        else r.ids(t, i) = -1, ++dropped[static_cast<std::size_t>(e)];
      }
      kept_before = kept;
    }
  }
  for (std::int64_t t = 0; t < all.rows; ++t)
    for (std::int64_t i = 0; i < width; ++i)
      if (r.ids(t, i) < 0) r.weights(t, i) = 0;
}

/// Logits of a few values, so that weights tie; some of them broken.
matrix<double> draw_logits(random_stream& random, std::int64_t tokens, std::int64_t experts) {
  matrix<double> logits(tokens, experts);
  for (auto& x : logits.data) x = static_cast<double>(random.below(5)) / 2 + (random.below(2) == 0 ? 0.0 : 0.125);
  for (std::int64_t t = 0; t < tokens; ++t)
    if (random.below(10) == 0) logits(t, random.below(experts)) = std::numeric_limits<double>::quiet_NaN();
  return logits;
}

template <class T>
T one_of(random_stream& random, std::initializer_list<T> all) {
  return all.begin()[random.below(static_cast<std::int64_t>(all.size()))];
}

capacity_rule draw_rule(random_stream& random, std::int64_t tokens) {
  return {.room = one_of(random, {room::floor, room::ceil, room::absolute}),
          .factor = one_of(random, {0.0, 0.25, 0.5, 1.0, 1.25, 2.0, 100.0}),
          .minimum = random.below(3),
          .tokens = random.below(tokens + 2),
          .group = random.below(tokens + 3),
          .order = one_of(random, {drop_order::first_choices, drop_order::tokens, drop_order::weights})};
}

router_config draw_config(random_stream& random) {
  auto const experts = 1 + static_cast<int>(random.below(9));
  return {.experts = experts, .top_k = 1 + static_cast<int>(random.below(std::min(experts, 4))), .renormalize = random.below(2) == 0};
}

/// Keeps a token's choices down to its fourth-largest at most, by a number that the token's own scores decide.
struct variable_k : routing::standard {
  template <class T>
  static int cut(router_config const&, auto const&, std::int64_t, T const* scores, T const*, std::int32_t const* ids, int found) {
    int count = 0;
    while (count < found && scores[ids[count]] > T(0.2)) ++count;
    return count;
  }
};

/// Every token of a step gets the experts of the first, through memory of the batch.
struct follow_the_first : routing::standard {
  static constexpr bool coupled = true;
  static constexpr std::int64_t batch_bytes(router_config const&, std::int64_t tokens) { return 400 + 4 * tokens; }
  template <class T, class Group>
  static void select_batch(router_config const& c, Group const&, auto const&, routing_batch<T> const& batch, routing_slots<T> const& slots,
                           list<std::byte> memory) {
    for (auto& byte : memory) byte = std::byte{255};
    for (std::int64_t t = 0; t < batch.scores.rows; ++t)
      slots.count[t] = batch.counts(t) && batch.counts(0) ? top_k(batch.choice.row(0), c.experts, c.top_k, slots.ids.row(t)) : 0;
  }
};

struct in_steps : routing::standard {
  struct state {
    std::int64_t together = 0;
  };
};

}  // namespace

static_assert(settling_policy<routing::capacity<>> && settling_policy<routing::capacity<routing::second_above<variable_k>>, double>);
static_assert(!routing::capacity<>::batch_invariant && !routing::capacity<>::causal && routing::capacity<>::trainable);
static_assert(routing::second_above<>::batch_invariant && routing::second_above<>::causal);

TEST_CASE("capacities: golden, clamped, least, absolute, and factors that are no numbers") {
  auto const floor = [](std::int64_t tokens, int experts, double f) { return routing::mesh_capacity(f, 0, 0).of(tokens, experts, 1); };
  auto const ceil = [](std::int64_t tokens, int experts, double f) { return routing::megatron_capacity(f).of(tokens, experts, 1); };
  CHECK(floor(6, 4, 1) == 1);
  CHECK(ceil(6, 4, 1) == 2);
  CHECK(floor(10, 4, 1.25) == 3);
  CHECK(ceil(10, 4, 1.25) == 4);
  CHECK(floor(1024, 64, 1.25) == 20);
  CHECK(ceil(1024, 64, 1.25) == 20);
  static_assert(routing::mesh_capacity(1.25).of(1024, 64, 1) == 20);
  CHECK(routing::mesh_capacity(2.0).of(16, 8, 2) == 4);        // tokens, whatever top_k
  CHECK(routing::megatron_capacity(2.0).of(16, 8, 2) == 8);    // choices
  CHECK(floor(10, 4, 100) == 10);
  CHECK(routing::mesh_capacity(1.0).of(8, 8, 1) == 4);         // the minimum
  CHECK(routing::mesh_capacity(1.0).of(2, 8, 1) == 4);         // which is not clamped, as there
  CHECK(routing::absolute_capacity(64).of(10, 4, 1) == 64);
  CHECK(routing::absolute_capacity(-3).of(10, 4, 1) == 0);
  auto const infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (auto const none : {0.0, -1.0, -infinity, nan}) {
    CHECK(floor(10, 4, none) == 0);
    CHECK(ceil(10, 4, none) == 0);
  }
  CHECK(floor(10, 4, infinity) == 10);
  CHECK(ceil(10, 4, infinity) == 10);
  CHECK(ceil(0, 4, infinity) == 0);
  CHECK(capacity_rule{}.of(7, 4, 1) == 7);
}

TEST_CASE("drops are those of the slow rule: factors, groups, orders, ties, padding, broken logits, any number of threads") {
  random_stream random(seed);
  int dropped_in_all = 0;
  for (int round = 0; round < 1500; ++round) {
    CAPTURE(seed);
    CAPTURE(round);
    auto const c = draw_config(random);
    auto const tokens = random.below(33);
    auto const logits = draw_logits(random, tokens, c.experts);
    std::vector<std::uint8_t> padding;
    if (random.below(2) == 0)
      for (std::int64_t t = 0; t < tokens; ++t) padding.push_back(random.below(4) == 0);
    auto const check = [&]<class Base>(Base) {
      std::vector<std::int32_t> dropped(static_cast<std::size_t>(c.experts), 0), slowly = dropped;
      typename routing::capacity<Base>::state state;
      state.padding = padding;
      auto want = route_all<routing::capacity<Base>>(c, state, logits);       // without a rule
      state.capacity = draw_rule(random, tokens);
      state.dropped = dropped;
      auto got = route_all<routing::capacity<Base>>(c, state, logits, 1 + static_cast<int>(random.below(3)));
      drop_slowly(state.capacity, c.experts, c.top_k, want, slowly);
      CHECK(equal(got, want));
      CHECK(dropped == slowly);
      int sum = 0;
      for (auto const n : dropped) sum += n;
      CHECK(routing::dropped_choices(got.slots()) == sum);
      dropped_in_all += sum;
    };
    check(routing::standard{});
    check(variable_k{});
    check(follow_the_first{});
  }
  CHECK(dropped_in_all > 10000);
}

TEST_CASE("first choices first: a token's second choice waits for the first choices of later tokens") {
  // Experts 0 and 1; tokens 0 and 1 prefer 0, token 2 prefers 1. Each expert takes two.
  matrix<double> logits(3, 2);
  logits.data = {3, 0, 2, 0, 0, 1};
  routing::capacity<>::state state;
  auto const ids = [&](drop_order order) {
    state.capacity = {.room = room::absolute, .tokens = 2, .order = order};
    return route_all<routing::capacity<>>({.experts = 2, .top_k = 2, .renormalize = true}, state, logits).ids.data;
  };
  CHECK(ids(drop_order::first_choices) == std::vector<std::int32_t>{0, 1, 0, -1, 1, -1});
  CHECK(ids(drop_order::tokens) == std::vector<std::int32_t>{0, 1, 0, 1, -1, -1});
  CHECK(ids(drop_order::weights) == std::vector<std::int32_t>{0, -1, 0, 1, 1, -1});   // of expert 1: .05, .12, .73
}

TEST_CASE("without a rule, or with room for all, the bits are those of the base") {
  random_stream random(seed + 1);
  for (int round = 0; round < 300; ++round) {
    CAPTURE(seed);
    CAPTURE(round);
    auto const c = draw_config(random);
    auto const tokens = random.below(40);
    auto const logits = draw_logits(random, tokens, c.experts);
    auto const base = route_all<routing::standard>(c, {}, logits);
    routing::capacity<>::state state;
    for (auto const order : {drop_order::first_choices, drop_order::tokens, drop_order::weights})
      for (auto rule : {capacity_rule{}, routing::absolute_capacity(tokens), routing::mesh_capacity(c.experts),
                        routing::megatron_capacity(std::numeric_limits<double>::infinity())}) {
        rule.order = order;
        state.capacity = rule;
        CHECK(equal(base, route_all<routing::capacity<>>(c, state, logits)));
      }
    CHECK(equal(base, route_all<routing::second_above<>>(c, {}, logits)));
  }
}

TEST_CASE("padding changes nothing for the tokens of its group, wherever it stands") {
  random_stream random(seed + 2);
  for (int round = 0; round < 300; ++round) {
    CAPTURE(seed);
    CAPTURE(round);
    auto const c = draw_config(random);
    auto const tokens = random.below(20);
    auto const logits = draw_logits(random, tokens, c.experts);
    routing::capacity<>::state state;
    state.capacity = draw_rule(random, tokens);
    state.capacity.group = 0;
    auto const alone = route_all<routing::capacity<>>(c, state, logits);

    std::vector<std::uint8_t> padding;
    std::vector<std::int64_t> row_of_token;
    matrix<double> wide(0, c.experts);
    auto const add = [&](double const* row, bool padded) {
      padding.push_back(padded);
      wide.data.insert(wide.data.end(), row, row + c.experts);
      ++wide.rows;
    };
    auto const noise = draw_logits(random, 1, c.experts);
    for (std::int64_t t = 0; t < tokens; ++t) {
      while (random.below(3) == 0) add(noise.data.data(), true);
      row_of_token.push_back(wide.rows);
      add(&logits(t, 0), false);
    }
    state.padding = padding;
    auto const among = route_all<routing::capacity<>>(c, state, wide);
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t i = 0; i < c.top_k; ++i) {
        CHECK(among.ids(row_of_token[static_cast<std::size_t>(t)], i) == alone.ids(t, i));
        CHECK(among.weights(row_of_token[static_cast<std::size_t>(t)], i) == alone.weights(t, i));
      }
  }
}

TEST_CASE("a group sees itself alone: groups one after another are calls one after another, and so are steps") {
  random_stream random(seed + 3);
  for (int round = 0; round < 200; ++round) {
    CAPTURE(seed);
    CAPTURE(round);
    auto const c = draw_config(random);
    auto const tokens = 1 + random.below(30), size = 1 + random.below(tokens);
    auto const logits = draw_logits(random, tokens, c.experts);
    routing::capacity<in_steps>::state together, alone;
    alone.capacity = draw_rule(random, tokens);
    alone.capacity.group = 0;
    together.capacity = alone.capacity;
    if (random.below(2) == 0) together.capacity.group = size;
    else together.together = size;
    auto const whole = route_all<routing::capacity<in_steps>>(c, together, logits);
    for (std::int64_t first = 0; first < tokens; first += size) {
      matrix<double> piece(std::min(size, tokens - first), c.experts);
      std::copy_n(&logits(first, 0), piece.data.size(), piece.data.begin());
      auto const one = route_all<routing::capacity<in_steps>>(c, alone, piece);
      CHECK(same_bits<std::int32_t>(one.ids.view(), {&whole.ids(first, 0), piece.rows, c.top_k}));
      CHECK(same_bits<double>(one.weights.view(), {&whole.weights(first, 0), piece.rows, c.top_k}));
    }
  }
}

TEST_CASE("second choices above a threshold alone, their weights as they were; the others take no room") {
  random_stream random(seed + 4);
  for (int round = 0; round < 500; ++round) {
    CAPTURE(seed);
    CAPTURE(round);
    router_config const c{.experts = 6, .top_k = 2, .renormalize = true};
    auto const tokens = random.below(30);
    auto const logits = draw_logits(random, tokens, c.experts);
    using policy = routing::capacity<routing::second_above<>>;
    policy::state state;
    state.second_threshold = random.uniform_double() / 2;
    std::vector<std::int32_t> slowly(6, 0);
    auto want = route_all<routing::standard>(c, {}, logits);
    for (std::int64_t t = 0; t < tokens; ++t)
      if (want.count[static_cast<std::size_t>(t)] == 2 && want.weights(t, 1) <= state.second_threshold) {
        want.ids(t, 1) = -1, want.weights(t, 1) = 0;
        want.count[static_cast<std::size_t>(t)] = 1;
      }
    state.capacity = draw_rule(random, tokens);
    drop_slowly(state.capacity, 6, 2, want, slowly);
    CHECK(equal(want, route_all<policy>(c, state, logits)));
  }
}

namespace {

struct plain_layer {
  static constexpr block_config config{.hidden = 24,
                                       .attention = {.heads = 2, .head_dim = 8},
                                       .router = {.experts = 5, .top_k = 2, .renormalize = true},
                                       .expert = {.intermediate = 12, .activation = activation::relu},
                                       .storage = {.weights = dtype::fp32},
                                       .purpose = purpose::training};
};
struct limited_layer : plain_layer {
  using routing = moesaic::routing::capacity<>;
};

template <class Spec>
matrix<float> mixed(matrix<float> const& x, matrix<float> const& residual, typename policy_of<Spec>::state const& state) {
  using layer = block<Spec>;
  host::pool where(1);
  auto const weights = layer::load(where, random_source{seed}, "");
  host::buffer workspace{layer::workspace_bytes(x.rows)};
  arena memory(workspace.data(), workspace.size());
  auto const s = layer::carve(memory, x.rows);
  *s.flags = {};
  auto y = residual;
  CHECK(static_cast<bool>(moe<Spec>::forward(where, weights.views.ffn, x.view(), residual.view(), y.view(), state, s.ffn, s.flags)));
  return y;
}

}  // namespace

TEST_CASE("a rule that is none, and a count of drops for other experts, are refused before anything is written") {
  using policy = limited_layer::routing;
  constexpr auto c = plain_layer::config.router;
  policy::state state;
  auto const refused = [&](capacity_rule const& rule) {
    state.capacity = rule;
    return !static_cast<bool>(policy::fits(c, state, 5));
  };
  CHECK_FALSE(refused({}));
  CHECK_FALSE(refused(routing::mesh_capacity(0)));
  CHECK(refused(routing::mesh_capacity(std::numeric_limits<double>::quiet_NaN())));
  CHECK(refused(routing::megatron_capacity(-0.5)));
  CHECK(refused(routing::mesh_capacity(1, -1)));
  CHECK(refused(routing::mesh_capacity(1, 8, -1)));
  CHECK(refused(routing::absolute_capacity(-1)));
  std::vector<std::int32_t> four(4), five(5);
  state.dropped = five;
  CHECK_FALSE(refused({}));
  state.dropped = four;
  CHECK(refused({}));
  std::vector<std::uint8_t> padding(3);
  state.padding = padding, state.dropped = {};
  CHECK_FALSE(static_cast<bool>(state_fits<policy>(c, state, 5)));
}

TEST_CASE("a layer: no room at all leaves the residual, room for all the bits of the layer without capacity, and drops lie between") {
  random_stream random(seed + 5);
  auto const x = random_matrix<float>(29, 24, random), residual = random_matrix<float>(29, 24, random);
  auto const dropless = mixed<plain_layer>(x, residual, {});
  limited_layer::routing::state state;
  auto const with = [&](capacity_rule const& rule) {
    state.capacity = rule;
    return mixed<limited_layer>(x, residual, state);
  };
  for (auto const order : {drop_order::first_choices, drop_order::tokens, drop_order::weights})
    for (auto rule : {routing::mesh_capacity(0, 0, 0), routing::mesh_capacity(1e-9, 8, 0), routing::absolute_capacity(0),
                      routing::megatron_capacity(0)}) {
      rule.order = order;
      CHECK(same_bits<float>(with(rule).view(), residual.view()));
    }
  for (auto const& rule : {capacity_rule{}, routing::absolute_capacity(29), routing::absolute_capacity(4, 4), routing::mesh_capacity(5)})
    CHECK(same_bits<float>(with(rule).view(), dropless.view()));
  auto const some = with(routing::megatron_capacity(1.0, drop_order::tokens));
  int whole = 0;
  for (std::int64_t t = 0; t < 29; ++t) whole += same_bits<float>({&some(t, 0), 1, 24}, {&dropless(t, 0), 1, 24});
  CHECK(whole > 0);
  CHECK(whole < 29);
  CHECK(same_bits<float>({&some(0, 0), 1, 24}, {&dropless(0, 0), 1, 24}));       // the first token always finds room
}

namespace {

template <class Layer>
struct model {
  static constexpr decoder_config config{.vocabulary = 31, .embedding = dtype::fp32};
  using layers = moesaic::layers<moesaic::repeat<Layer, 2>>;
};

/// Logits of a sequence, or what stood there where the call is refused.
template <class Layer>
matrix<float> logits_of(std::vector<std::int32_t> const& ids, typename policy_of<Layer>::state const& state, bool refused = false) {
  using whole = decoder<model<Layer>>;
  auto const tokens = static_cast<std::int64_t>(ids.size());
  host::pool where(2);
  auto const weights = whole::load(where, random_source{seed});
  auto caches = whole::make_cache(where, 1, static_cast<int>(tokens));
  host::buffer workspace{whole::workspace_bytes(tokens, tokens)};
  std::vector<std::int32_t> const sequence(ids.size(), 0);
  std::vector<std::int32_t> positions(ids.size());
  for (std::size_t t = 0; t < ids.size(); ++t) positions[t] = static_cast<std::int32_t>(t);
  matrix<float> logits(tokens, 31);
  auto const done = whole::forward(where, weights, {ids, sequence, positions}, caches, every_token, logits.view(), workspace, state);
  INFO(to_string(done));
  CHECK(static_cast<bool>(done) != refused);
  return logits;
}

}  // namespace

TEST_CASE("a whole model: neutral is plain bit for bit, a capacity is felt, and a state that does not fit changes nothing") {
  random_stream random(seed + 6);
  std::vector<std::int32_t> ids;
  for (int t = 0; t < 23; ++t) ids.push_back(static_cast<std::int32_t>(random.below(31)));
  auto const plain = logits_of<plain_layer>(ids, {});
  limited_layer::routing::state state;
  for (auto const& rule : {capacity_rule{}, routing::absolute_capacity(23), routing::mesh_capacity(1.0, 1, 1)}) {
    state.capacity = rule;
    CHECK(same_bits<float>(logits_of<limited_layer>(ids, state).view(), plain.view()));
  }
  state.capacity = routing::megatron_capacity(0.5);
  CHECK_FALSE(same_bits<float>(logits_of<limited_layer>(ids, state).view(), plain.view()));
  state.capacity.factor = -1;
  CHECK(same_bits<float>(logits_of<limited_layer>(ids, state, true).view(), matrix<float>(23, 31).view()));
}
