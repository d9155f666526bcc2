// What holds of whole layers, whatever the input: one code path for dense and experts, bits that depend on nothing but the row, clear errors.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;

template <dtype Activations, dtype Weights = dtype::fp32>
struct dense {
  static constexpr block_config config{.hidden = 40,
                                       .attention = {.heads = 4, .kv_heads = 2, .head_dim = 12, .qk_norm = qk_norm::per_head},
                                       .expert = {.intermediate = 24},
                                       .storage = {.weights = Weights, .activations = Activations}};
};
template <dtype Activations, dtype Weights = dtype::fp32>
struct one_expert : dense<Activations, Weights> {
  static constexpr block_config config = [] {
    auto c = dense<Activations, Weights>::config;
    c.router = {.experts = 1, .top_k = 1};
    return c;
  }();
};
template <dtype Activations, dtype Weights = dtype::fp32>
struct mixture {
  static constexpr block_config config{.hidden = 40,
                                       .attention = {.heads = 4, .kv_heads = 2, .head_dim = 12, .qkv_bias = true},
                                       .router = {.experts = 7, .top_k = 3, .renormalize = true, .bias = true},
                                       .expert = {.intermediate = 24, .activation = activation::geglu_tanh, .bias = true},
                                       .shared = {.intermediate = 20, .sigmoid_gate = true},
                                       .storage = {.weights = Weights, .activations = Activations}};
};

struct rows_of_batch {
  std::vector<std::int32_t> sequence, position;
};

template <class T>
bool equal(matrix<T> const& a, matrix<T> const& b) {
  return same_bits(a.view(), b.view());
}

/// Runs x through a fresh layer, in calls of so many rows each.
template <class Spec>
matrix<typename block<Spec>::scalar> run(host::pool& where, block_weights const& weights, matrix<typename block<Spec>::scalar> const& x,
                                         rows_of_batch const& rows, std::vector<std::int64_t> const& calls, int sequences) {
  using layer = block<Spec>;
  auto const cache = layer::make_cache(where, sequences, 64);
  host::buffer workspace{layer::workspace_bytes(x.rows)};
  auto y = x;
  std::int64_t first = 0;
  for (auto const count : calls) {
    auto const piece = [&](auto const& ids) { return list<const std::int32_t>{ids.data() + first, count}; };
    auto const done = layer::forward(where, weights, {{x.view().row(first), count, x.columns}, piece(rows.sequence), piece(rows.position)}, cache,
                                     {y.view().row(first), count, x.columns}, workspace);
    INFO(moesaic::to_string(done));
    REQUIRE(static_cast<bool>(done));
    first += count;
  }
  REQUIRE(first == x.rows);
  return y;
}

rows_of_batch one_sequence(int tokens) {
  rows_of_batch r;
  for (int t = 0; t < tokens; ++t) r.sequence.push_back(0), r.position.push_back(t);
  return r;
}

template <class Scalar>
matrix<Scalar> input(int tokens) {
  random_stream random(seed);
  auto wide = random_matrix<float>(tokens, 40, random);
  return convert<Scalar>(wide);
}

}  // namespace

TEST_CASE_TEMPLATE("a dense layer and a mixture of one expert give the same bits", Types, dense<dtype::fp64>, dense<dtype::fp32>, dense<dtype::bf16>,
                   dense<dtype::fp32, dtype::int4>, dense<dtype::bf16, dtype::bf16>) {
  constexpr auto storage = Types::config.storage;
  using dense_layer = block<Types>;
  using expert_layer = block<one_expert<storage.activations, storage.weights.type>>;
  host::pool where;
  auto const dense_weights = dense_layer::load(where, random_source{seed}, "");
  auto const x = input<typename dense_layer::scalar>(13);
  auto const rows = one_sequence(13);

  // The expert's matrices have names of their own, hence other random numbers: take the dense ones.
  tensor_names names;
  names.expert_gate = names.gate, names.expert_up = names.up, names.expert_down = names.down;
  auto const expert_weights = expert_layer::load(where, random_source{seed}, "", names);
  auto const a = run<Types>(where, dense_weights, x, rows, {13}, 1);
  auto const b = run<one_expert<storage.activations, storage.weights.type>>(where, expert_weights, x, rows, {13}, 1);
  CHECK(equal(a, b));
}

TEST_CASE_TEMPLATE("a row's bits depend on its own sequence alone", Spec, mixture<dtype::fp64>, mixture<dtype::fp32>, mixture<dtype::fp32, dtype::int8>,
                   mixture<dtype::bf16, dtype::bf16>) {
  using scalar = typename block<Spec>::scalar;
  host::pool one(1);
  auto const weights = block<Spec>::load(one, random_source{seed}, "");
  auto const x = input<scalar>(21);
  rows_of_batch rows;                                          // three sequences of seven tokens, mixed; each in order
  int next[3] = {};
  random_stream random(seed + 1);
  for (int t = 0; t < 21; ++t) {
    auto s = static_cast<int>(random.below(3));
    while (next[s] == 7) s = (s + 1) % 3;
    rows.sequence.push_back(s);
    rows.position.push_back(next[s]++);
  }
  auto const whole = run<Spec>(one, weights, x, rows, {21}, 3);

  SUBCASE("in any number of calls: prefill is decode") {
    CHECK(equal(whole, run<Spec>(one, weights, x, rows, std::vector<std::int64_t>(21, 1), 3)));
    CHECK(equal(whole, run<Spec>(one, weights, x, rows, {5, 1, 1, 9, 5}, 3)));
  }
  SUBCASE("on any number of threads") {
    for (int threads : {2, 3, 5}) {
      host::pool many(threads);
      auto const packed_by_many = block<Spec>::load(many, random_source{seed}, "");
      CHECK(equal(whole, run<Spec>(many, packed_by_many, x, rows, {21}, 3)));
    }
  }
  SUBCASE("without the other sequences") {
    for (int s = 0; s < 3; ++s) {
      matrix<scalar> own(7, 40), want(7, 40);
      for (int t = 0, i = 0; t < 21; ++t)
        if (rows.sequence[static_cast<std::size_t>(t)] == s) {
          for (int c = 0; c < 40; ++c) own(i, c) = x(t, c), want(i, c) = whole(t, c);
          ++i;
        }
      CHECK(equal(want, run<Spec>(one, weights, own, one_sequence(7), {7}, 1)));
    }
  }
}

TEST_CASE("levels of the processor agree bit for bit in fp32") {
  using spec = mixture<dtype::fp32, dtype::int4>;
  host::pool widest;
  auto const weights = block<spec>::load(widest, random_source{seed}, "");
  auto const x = input<float>(9);
  auto const want = run<spec>(widest, weights, x, one_sequence(9), {9}, 1);
  for (auto const level : levels()) {
    CAPTURE(host::name(level));
    host::pool forced(1, level);
    CHECK(equal(want, run<spec>(forced, weights, x, one_sequence(9), {9}, 1)));
  }
}

TEST_CASE("y may be x") {
  using spec = mixture<dtype::fp32>;
  host::pool where;
  auto const weights = block<spec>::load(where, random_source{seed}, "");
  auto x = input<float>(6);
  auto const rows = one_sequence(6);
  auto const want = run<spec>(where, weights, x, rows, {6}, 1);
  auto const cache = block<spec>::make_cache(where, 1, 8);
  host::buffer workspace{block<spec>::workspace_bytes(6)};
  REQUIRE(block<spec>::forward(where, weights, {x.view(), rows.sequence, rows.position}, cache, x.view(), workspace));
  CHECK(equal(want, x));
}

TEST_CASE("a token with a broken router gets no expert, raises the flag and disturbs nobody") {
  using spec = mixture<dtype::fp32>;
  host::pool where;
  auto const weights = block<spec>::load(where, random_source{seed}, "");
  auto x = input<float>(5);
  rows_of_batch rows{{0, 1, 2, 3, 4}, {0, 0, 0, 0, 0}};
  auto const healthy = run<spec>(where, weights, x, rows, {5}, 5);
  x(2, 7) = std::numeric_limits<float>::quiet_NaN();
  auto const cache = block<spec>::make_cache(where, 5, 1);
  host::buffer workspace{block<spec>::workspace_bytes(5)};
  matrix<float> y(5, 40);
  REQUIRE(block<spec>::forward(where, weights, {x.view(), rows.sequence, rows.position}, cache, y.view(), workspace));
  CHECK(check(where, workspace).code == status_code::not_finite);
  for (int t : {0, 1, 3, 4})
    for (int c = 0; c < 40; ++c) CHECK(y(t, c) == healthy(t, c));
}

TEST_CASE("no tokens at all") {
  using spec = mixture<dtype::fp32>;
  host::pool where;
  auto const weights = block<spec>::load(where, random_source{seed}, "");
  auto const cache = block<spec>::make_cache(where, 1, 1);
  host::buffer workspace{block<spec>::workspace_bytes(0)};
  CHECK(block<spec>::forward(where, weights, {{nullptr, 0, 40}, {}, {}}, cache, {nullptr, 0, 40}, workspace));
}

TEST_CASE("wrong calls are answered with a sentence and write nothing") {
  using spec = mixture<dtype::fp32>;
  using layer = block<spec>;
  host::pool where;
  auto const weights = layer::load(where, random_source{seed}, "");
  auto const other = block<mixture<dtype::fp32, dtype::int8>>::load(where, random_source{seed}, "");
  auto const cache = layer::make_cache(where, 2, 4);
  host::buffer workspace{layer::workspace_bytes(3)};
  auto const x = input<float>(3);
  matrix<float> y(3, 40);
  std::vector<std::int32_t> sequence{0, 0, 1}, position{0, 1, 0}, beyond{0, 4, 0}, unknown{0, 2, 1};
  auto const code = [&](auto const& w, auto const& s, auto const& p, list<std::byte> memory) {
    return layer::forward(where, w, {x.view(), s, p}, cache, y.view(), memory).code;
  };
  CHECK(code(weights, sequence, position, workspace) == status_code::ok);
  auto const before = y;
  CHECK(code(weights, sequence, beyond, workspace) == status_code::out_of_range);
  CHECK(code(weights, unknown, position, workspace) == status_code::out_of_range);
  CHECK(code(weights, sequence, position, {workspace.data(), 100}) == status_code::workspace_too_small);
  CHECK(code(weights, sequence, position, {}) == status_code::workspace_too_small);
  CHECK(code(other, sequence, position, workspace) == status_code::wrong_weights);
  std::vector<std::int32_t> few{0};
  CHECK(code(weights, few, position, workspace) == status_code::invalid_argument);
  matrix<float> narrow(3, 39);
  CHECK(layer::forward(where, weights, {narrow.view(), sequence, position}, cache, y.view(), workspace).code == status_code::invalid_argument);
  CHECK(equal(before, y));
}

TEST_CASE("missing, misshapen and unreadable tensors are named") {
  struct stingy {
    random_source from{seed};
    std::string missing;
    tensor const* find(std::string_view) const { return nullptr; }
    std::string where(std::string_view) const { return "some.safetensors"; }
    tensor const* make(std::string_view name, std::initializer_list<std::int64_t> shape) const {
      return name == missing ? nullptr : from.make(name, shape);
    }
  };
  host::pool where;
  CHECK_THROWS_WITH_AS((block<mixture<dtype::fp32>>::load(where, stingy{random_source{seed}, "l.self_attn.k_proj.bias"}, "l.")),
                       "some.safetensors: expected a tensor 'l.self_attn.k_proj.bias' [24], found none of that name", moesaic::error);
}

namespace {

template <int Experts, int Intermediate>
struct small_layer {
  static constexpr block_config config{.hidden = 32,
                                       .attention = {.heads = 2},
                                       .router = {.experts = Experts, .top_k = 2},
                                       .expert = {.intermediate = Intermediate},
                                       .storage = {.weights = dtype::bf16}};
};
template <int Experts, int Intermediate, dtype Embedding = dtype::bf16>
struct small_model {
  static constexpr decoder_config config{.vocabulary = 40, .embedding = Embedding};
  using layers = moesaic::layers<repeat<small_layer<Experts, Intermediate>, 2>>;
};

// A price that a layer cannot do without.
struct stateful : routing::standard {
  struct state {
    list<const float> cost;
  };
  template <class T>
  static T price(router_config const&, state const& s, routing_site at, T) {
    return static_cast<T>(s.cost[at.expert]);
  }
};
struct priced_layer : small_layer<8, 16> {
  using routing = stateful;
};
struct priced_model : small_model<8, 16> {
  using layers = moesaic::layers<repeat<priced_layer, 2>>;
};

struct one_head : mixture<dtype::fp32> {
  static constexpr block_config config = [] {
    auto c = mixture<dtype::fp32>::config;
    c.attention.kv_heads = 1, c.attention.head_dim = 24;       // as wide as two of 12
    return c;
  }();
};

struct decoder_call {
  host::pool where;
  std::vector<std::int32_t> ids{3, 39, 0}, sequence{0, 0, 0}, position{0, 1, 2};
  std::vector<float> logits = std::vector<float>(3 * 40, -7.0f);

  template <class Model, class States = no_states>
  status run(decoder_weights const& weights, list<const std::int32_t> rows, std::int64_t wanted, States const& states = {}) {
    using net = decoder<Model>;
    auto const cache = net::make_cache(where, 1, 4);
    host::buffer workspace{net::workspace_bytes(3, wanted)};
    return net::forward(where, weights, {ids, sequence, position}, cache, rows, {logits.data(), wanted, 40}, workspace, states);
  }
};

}  // namespace

TEST_CASE("logits of all tokens, of some and of none are the same numbers") {
  using model = small_model<8, 16>;
  decoder_call call;
  auto const weights = decoder<model>::load(call.where, random_source{seed});
  REQUIRE(call.run<model>(weights, every_token, 3));
  auto const all = call.logits;
  std::vector<std::int32_t> const rows{2, 0};
  REQUIRE(call.run<model>(weights, rows, 2));
  for (std::size_t c = 0; c < 40; ++c) {
    CHECK(call.logits[c] == all[80 + c]);
    CHECK(call.logits[40 + c] == all[c]);
  }
  CHECK(call.run<model>(weights, {}, 0));
  std::vector<std::int32_t> const outside{3};
  CHECK(call.run<model>(weights, outside, 1).code == status_code::out_of_range);
  call.ids[1] = 40;
  CHECK(call.run<model>(weights, every_token, 3).code == status_code::out_of_range);
}

TEST_CASE("a model refuses weights of another") {
  using model = small_model<8, 16>;
  decoder_call call;
  auto const refuses = [&](auto const& weights) { return call.run<model>(weights, every_token, 3).code == status_code::wrong_weights; };
  CHECK(refuses(decoder<small_model<4, 16>>::load(call.where, random_source{seed})));
  CHECK(refuses(decoder<small_model<8, 24>>::load(call.where, random_source{seed})));
  CHECK(refuses(decoder<small_model<8, 16, dtype::fp32>>::load(call.where, random_source{seed})));
  CHECK(refuses(decoder_weights{}));
  auto const whole = decoder<model>::load(call.where, random_source{seed});
  for (int missing = 0; missing < 4; ++missing) {
    decoder_weights w = static_cast<decoder_weights const&>(whole);
    if (missing == 0) w.layers[1].attention.qkv.data = nullptr;
    if (missing == 1) w.layers[0].attention_norm.weight = {};
    if (missing == 2) w.layers[1].attention.rope.size -= 1;
    if (missing == 3) w.layers.pop_back();
    CHECK(refuses(w));
  }
}

TEST_CASE("a policy's state comes for all layers or for each") {
  decoder_call call;
  auto const weights = decoder<priced_model>::load(call.where, random_source{seed});
  std::vector<float> const free(8, 0.0f), dear{9, 9, 9, 9, 0, 0, 0, 0};
  REQUIRE(call.run<small_model<8, 16>>(weights, every_token, 3));
  auto const plain = call.logits;
  REQUIRE(call.run<priced_model>(weights, every_token, 3, stateful::state{free}));
  CHECK(call.logits == plain);                                 // a price of nothing changes no bit
  REQUIRE(call.run<priced_model>(weights, every_token, 3, stateful::state{dear}));
  CHECK(call.logits != plain);
  REQUIRE(call.run<priced_model>(weights, every_token, 3, [&](int layer) { return stateful::state{layer == 0 ? free : list<const float>(free)}; }));
  CHECK(call.logits == plain);
}

TEST_CASE("a cache of another layer is refused, and so is memory that weights cannot lie in") {
  using spec = mixture<dtype::fp32>;
  using layer = block<spec>;
  host::pool where;
  auto const weights = layer::load(where, random_source{seed}, "");
  auto const x = input<float>(1);
  matrix<float> y(1, 40);
  std::vector<std::int32_t> const zero{0};
  host::buffer workspace{layer::workspace_bytes(1)};
  auto const cache = block<one_head>::make_cache(where, 1, 4);
  CHECK(layer::forward(where, weights, {x.view(), zero, zero}, cache, y.view(), workspace).code == status_code::invalid_argument);
  host::buffer memory{layer::weights_bytes() + 64};
  CHECK_THROWS_AS(layer::bind({memory.data() + 8, static_cast<std::int64_t>(layer::weights_bytes())}), error);
  CHECK_THROWS_AS(layer::bind({memory.data(), static_cast<std::int64_t>(layer::weights_bytes()) - 1}), error);
}

TEST_CASE("a norm that is not a number is named") {
  struct broken {
    random_source from{seed};
    tensor const* find(std::string_view) const { return nullptr; }
    std::string where(std::string_view) const { return "file"; }
    tensor const* make(std::string_view name, std::initializer_list<std::int64_t> shape) const {
      auto const* made = from.make(name, shape);
      if (name == "input_layernorm.weight") const_cast<float*>(reinterpret_cast<float const*>(made->data))[3] = std::numeric_limits<float>::quiet_NaN();
      return made;
    }
  };
  host::pool where;
  CHECK_THROWS_WITH_AS((block<mixture<dtype::fp32>>::load(where, broken{}, "")), doctest::Contains("'input_layernorm.weight': expected finite numbers, found nan at 3"),
                       moesaic::error);
}
