// Layers whose experts differ: every kind and several widths against a naive sum token by token in double, and what must be exact.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>
#include <moesaic/route/null_experts.hpp>
#include <support/compare.hpp>
#include <support/levels.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;
constexpr std::int64_t tokens = 37;
constexpr int hidden = 40;

// Ids as they are told, weights by the configuration.
struct told : routing::standard {
  struct state {
    view<const std::int32_t> ids;
  };
  template <class T, class Group>
  static int select(router_config const&, Group const&, state const& s, std::int64_t token, T const*, T const*, int slots, std::int32_t* ids) {
    std::copy_n(s.ids.row(token), slots, ids);
    return static_cast<int>(std::find(ids, ids + slots, -1) - ids);
  }
};

template <block_config Config>
struct told_layer {
  static constexpr block_config config = Config;
  using routing = told;
};

/// Experts 0 .. 5 are feed-forwards of three widths, 6 is a zero, 7 and 8 are copies, 9 and 10 constants.
constexpr block_config mixed(dtype activations, format ffn, activation act = activation::swiglu, bool bias = false, int top_k = 3) {
  return {.hidden = hidden,
          .attention = {.heads = 4},
          .router = {.experts = 11, .top_k = top_k, .bias = bias},
          .expert = {.activation = act, .bias = bias, .widths = {{3, 24}, {1, 33}, {2, 10}}, .zero = 1, .copy = 2, .constant = 2},
          .shared = {.intermediate = bias ? 12 : 0},
          .storage = {.weights = dtype::fp32, .ffn = ffn, .activations = activations}};
}

/// What every step of a layer gave, but the residual stream: x -> Σ weights · expert_out [tokens, hidden].
template <class T>
struct outcome {
  using sum = accumulator<T>;
  matrix<std::int32_t> ids;
  matrix<sum> weights;
  matrix<T> expert_out, moe_out, y;

  static constexpr bool wants(stage s) {
    return s == stage::topk_index || s == stage::topk_weight || s == stage::expert_out || s == stage::moe_out;
  }
  template <class X>
  void operator()(tap_point at, view<const X> rows) {
    auto const keep = [&](matrix<X>& into) {
      into = matrix<X>(rows.rows, rows.columns);
      for (std::int64_t r = 0; r < rows.rows; ++r) std::copy_n(rows.row(r), rows.columns, into.view().row(r));
    };
    if constexpr (std::is_same_v<X, std::int32_t>)
      if (at.stage == stage::topk_index) keep(ids);
    if constexpr (std::is_same_v<X, sum>)
      if (at.stage == stage::topk_weight) keep(weights);
    if constexpr (std::is_same_v<X, T>) {
      if (at.stage == stage::expert_out) keep(expert_out);
      if (at.stage == stage::moe_out) keep(moe_out);
    }
  }
};

template <class Spec>
auto load(host::pool& where, tensor_names const& names = {}) {
  return block<Spec>::load(where, random_source{seed}, "", names);
}

/// x through the feed-forward half alone; a residual of zeros.
template <class Spec, class T = typename moe<Spec>::scalar>
outcome<T> run(host::pool& where, block_weights const& w, matrix<T> const& x, typename moe<Spec>::policy_state const& state = {}) {
  outcome<T> seen;
  arena counting;
  moe<Spec>::template carve<outcome<T>>(counting, x.rows);
  host::buffer memory{counting.used() + arena::alignment};
  arena workspace(memory.data(), memory.size());
  auto const scratch = moe<Spec>::template carve<outcome<T>>(workspace, x.rows);
  call_flags flags;
  matrix<T> const residual(x.rows, x.columns);
  seen.y = residual;
  REQUIRE(moe<Spec>::forward(where, w.ffn, x.view(), residual.view(), seen.y.view(), state, scratch, &flags, seen));
  CHECK(flags.not_finite == 0);
  return seen;
}

template <class T>
matrix<T> input(std::uint64_t own = seed, std::int64_t rows = tokens) {
  random_stream random(own);
  return convert<T>(random_matrix<float>(rows, hidden, random));
}

/// For each token `slots` different experts of [first, experts), some slots unused.
matrix<std::int32_t> random_ids(int first, int experts, int slots, std::uint64_t own, std::int64_t rows = tokens) {
  random_stream random(own);
  matrix<std::int32_t> ids(rows, slots);
  std::vector<std::int32_t> all(static_cast<std::size_t>(experts - first));
  for (std::int64_t t = 0; t < rows; ++t) {
    std::iota(all.begin(), all.end(), first);
    for (int i = 0; i < slots; ++i) {
      std::swap(all[static_cast<std::size_t>(i)], all[static_cast<std::size_t>(i + random.below(experts - first - i))]);
      ids(t, i) = all[static_cast<std::size_t>(i)];
    }
    for (auto i = slots - random.below(2); i < slots; ++i) ids(t, i) = -1;
  }
  return ids;
}

/// Weights by the names of a checkpoint, made again and rounded as they are stored; those of quantised matrices unpacked. A row is
/// [inputs]; experts are known by their global numbers alone.
struct naive {
  block_config config;
  moe_weights const& packed;
  random_source source{seed};

  std::vector<double> tensor(std::string const& name, std::initializer_list<std::int64_t> shape) const {
    auto const* const made = source.make(name, shape);
    std::vector<float> values(static_cast<std::size_t>(made->bytes / 4));
    widen(*made, 0, static_cast<std::int64_t>(values.size()), values.data());
    return {values.begin(), values.end()};
  }
  std::vector<double> matrix_of(int e, std::string const& which, std::int64_t outputs, std::int64_t inputs) const {
    auto w = tensor("mlp.experts." + std::to_string(e) + "." + which + ".weight", {outputs, inputs});
    auto const stored = shapes(config).ffn_format;
    if (stored.type == dtype::bf16)
      for (auto& x : w) x = static_cast<double>(static_cast<float>(static_cast<bf16>(static_cast<float>(x))));
    if (has_scales(stored.type)) {
      int const run = e < 3 ? 0 : e < 4 ? 1 : 2, in_run = e - (run == 0 ? 0 : run == 1 ? 3 : 4);
      auto const& from = which == "down_proj" ? run_of(packed, run).down : run_of(packed, run).gate_up;
      int const part = which == "up_proj" && from.parts == 2 ? 1 : 0;
      std::vector<float> row(static_cast<std::size_t>(inputs));
      for (std::int64_t o = 0; o < outputs; ++o) {
        host::unpack_row(from, in_run, part, o, row.data());
        std::copy(row.begin(), row.end(), w.begin() + o * inputs);
      }
    }
    return w;
  }
  double act(double x) const {
    switch (config.expert.activation) {
      case activation::swiglu: return x / (1 + std::exp(-x));
      case activation::relu: return x < 0 ? 0 : x;
      case activation::geglu_erf: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
      default: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    }
  }
  std::vector<double> product(int e, std::string const& which, std::vector<double> const& x, std::int64_t outputs) const {
    auto const inputs = static_cast<std::int64_t>(x.size());
    auto const w = matrix_of(e, which, outputs, inputs);
    std::vector<double> y(static_cast<std::size_t>(outputs));
    if (config.expert.bias) y = tensor("mlp.experts." + std::to_string(e) + "." + which + ".bias", {outputs});
    for (std::int64_t o = 0; o < outputs; ++o)
      y[static_cast<std::size_t>(o)] += std::inner_product(x.begin(), x.end(), w.begin() + o * inputs, 0.0);
    return y;
  }

  std::vector<double> expert(int e, std::vector<double> const& x) const {
    if (e < 6) {
      std::int64_t const width = e < 3 ? 24 : e < 4 ? 33 : 10;
      auto h = product(e, "up_proj", x, width);
      if (gated(config.expert.activation)) {
        auto const gate = product(e, "gate_proj", x, width);
        for (std::size_t i = 0; i < h.size(); ++i) h[i] *= act(gate[i]);
      } else {
        for (auto& v : h) v = act(v);
      }
      return product(e, "down_proj", h, hidden);
    }
    if (e == 6) return std::vector<double>(x.size(), 0.0);
    if (e < 9) return x;
    auto const w = tensor("mlp.experts." + std::to_string(e) + ".wg.weight", {2, hidden});
    auto const v = tensor("mlp.experts." + std::to_string(e) + ".constant", {hidden});
    auto const z1 = std::inner_product(x.begin(), x.end(), w.begin(), 0.0), z2 = std::inner_product(x.begin(), x.end(), w.begin() + hidden, 0.0);
    auto const a1 = std::exp(z1) / (std::exp(z1) + std::exp(z2));
    std::vector<double> y(x.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = a1 * x[i] + (1 - a1) * v[i];
    return y;
  }
};

template <block_config Config>
void check_against_naive() {
  using spec = told_layer<Config>;
  static constexpr auto& config = spec::config;   // clang 14 stops at a member of a template argument inside a lambda
  using T = typename moe<spec>::scalar;
  constexpr int slots = config.router.top_k;
  CAPTURE(seed);
  CAPTURE(std::string(name(config.expert.activation)));
  CAPTURE(std::string(name(config.storage.activations)));
  CAPTURE(std::string(name(config.storage.ffn.type)));
  host::pool one;
  auto const weights = load<spec>(one);
  block_weights const& w = weights;
  auto const x = input<T>();
  auto const ids = random_ids(0, 11, slots, seed + 1);
  auto const seen = run<spec>(one, w, x, {ids.view()});
  REQUIRE(same_bits<std::int32_t>(seen.ids.view(), ids.view()));

  naive const exact{config, w.ffn};
  matrix<double> expert_out(tokens * slots, hidden), moe_out(tokens, hidden);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<double> row(static_cast<std::size_t>(hidden));
    for (int c = 0; c < hidden; ++c) row[static_cast<std::size_t>(c)] = static_cast<double>(x(t, c));
    for (int i = 0; i < slots; ++i) {
      if (ids(t, i) < 0) continue;
      auto const out = exact.expert(ids(t, i), row);
      for (int c = 0; c < hidden; ++c) {
        expert_out(t * slots + i, c) = out[static_cast<std::size_t>(c)];
        moe_out(t, c) += static_cast<double>(seen.weights(t, i)) * out[static_cast<std::size_t>(c)];
      }
    }
  }
  auto const of_experts = compare<T, double>(seen.expert_out.view(), expert_out.view());
  INFO(to_string(of_experts));
  CHECK(of_experts.worst <= stage_tolerance<T>);
  auto const of_all = compare<T, double>(seen.moe_out.view(), moe_out.view());
  INFO(to_string(of_all));
  CHECK(of_all.worst <= long_stage_tolerance<T>);

  // Zero and copy experts to the bit.
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int i = 0; i < slots; ++i)
      for (int c = 0; c < hidden; ++c) {
        auto const got = static_cast<double>(seen.expert_out(t * slots + i, c));
        if (ids(t, i) == 6) CHECK(got == 0.0);
        if (ids(t, i) == 7 || ids(t, i) == 8) CHECK(got == static_cast<double>(x(t, c)));
      }

  // The same on more threads, on every level where rows are fp32 or fp64, and token by token.
  for (int threads : {2, 3}) {
    host::pool many(threads);
    CHECK(same_bits<T>(run<spec>(many, w, x, {ids.view()}).y.view(), seen.y.view()));
  }
  if (!std::is_same_v<T, bf16>)
    for (auto const level : levels()) {
      host::pool forced(1, level);
      CHECK(same_bits<T>(run<spec>(forced, w, x, {ids.view()}).y.view(), seen.y.view()));
    }
  for (std::int64_t t = 0; t < tokens; t += 7) {
    matrix<T> row(1, hidden);
    std::copy_n(x.view().row(t), hidden, row.view().row(0));
    auto const alone = run<spec>(one, w, row, {view<const std::int32_t>(ids.view().row(t), 1, slots)});
    CHECK(same_bits<T>(alone.y.view(), view<const T>(seen.y.view().row(t), 1, hidden)));
  }
}

}  // namespace

TEST_CASE("every kind and width, against a naive sum") {
  check_against_naive<mixed(dtype::fp64, dtype::fp32)>();
  check_against_naive<mixed(dtype::fp64, dtype::bf16, activation::relu, true)>();
  check_against_naive<mixed(dtype::fp32, dtype::fp32, activation::geglu_erf, true)>();
  check_against_naive<mixed(dtype::fp32, dtype::int4)>();
  check_against_naive<mixed(dtype::fp32, dtype::bf16, activation::gelu_tanh)>();
  check_against_naive<mixed(dtype::bf16, dtype::bf16, activation::swiglu, true)>();
  check_against_naive<mixed(dtype::bf16, dtype::int4, activation::geglu_tanh)>();
}

TEST_CASE("every token uses every expert") {
  check_against_naive<mixed(dtype::fp32, dtype::fp32, activation::swiglu, true, 11)>();
  check_against_naive<mixed(dtype::fp64, dtype::fp32, activation::swiglu, false, 11)>();
}

TEST_CASE_TEMPLATE("tokens that choose no feed-forward at all", T, float, bf16, double) {
  using spec = told_layer<mixed(dtype_of<T>, dtype::bf16, activation::swiglu, false, 2)>;
  host::pool where;
  auto const weights = load<spec>(where);
  auto const x = input<T>();
  SUBCASE("zero experts alone give zero") {
    matrix<std::int32_t> ids(tokens, 2);
    for (std::int64_t t = 0; t < tokens; ++t) ids(t, 0) = 6, ids(t, 1) = -1;
    auto const seen = run<spec>(where, weights, x, {ids.view()});
    for (auto const v : seen.y.data) CHECK(static_cast<double>(v) == 0.0);
  }
  SUBCASE("copy experts give w x, rounded once") {
    matrix<std::int32_t> ids(tokens, 2);
    for (std::int64_t t = 0; t < tokens; ++t) ids(t, 0) = t % 2 == 0 ? 7 : 8, ids(t, 1) = -1;
    auto const seen = run<spec>(where, weights, x, {ids.view()});
    for (std::int64_t t = 0; t < tokens; ++t)
      for (int c = 0; c < hidden; ++c) CHECK(seen.y(t, c) == static_cast<T>(seen.weights(t, 0) * static_cast<accumulator<T>>(x(t, c))));
  }
  SUBCASE("all of them, in every mixture") {
    auto const ids = random_ids(6, 11, 2, seed + 2);
    auto const seen = run<spec>(where, weights, x, {ids.view()});
    block_weights const& w = weights;
    naive const exact{spec::config, w.ffn};
    matrix<double> want(tokens, hidden);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<double> row(static_cast<std::size_t>(hidden));
      for (int c = 0; c < hidden; ++c) row[static_cast<std::size_t>(c)] = static_cast<double>(x(t, c));
      for (int i = 0; i < 2; ++i)
        if (ids(t, i) >= 0)
          for (int c = 0; c < hidden; ++c)
            want(t, c) += static_cast<double>(seen.weights(t, i)) * exact.expert(ids(t, i), row)[static_cast<std::size_t>(c)];
    }
    CHECK(compare<T, double>(seen.y.view(), want.view()).worst <= stage_tolerance<T>);
  }
}

namespace {

template <bool Runs, dtype Activations, dtype Ffn>
struct equal_widths {
  static constexpr block_config config{.hidden = hidden,
                                       .attention = {.heads = 4},
                                       .router = {.experts = 7, .top_k = 3, .renormalize = true},
                                       .expert = {.intermediate = Runs ? 0 : 24,
                                                  .activation = activation::geglu_tanh,
                                                  .bias = true,
                                                  .widths = Runs ? width_runs{{2, 24}, {4, 24}, {1, 24}} : width_runs{}},
                                       .shared = {.intermediate = 20, .sigmoid_gate = true},
                                       .storage = {.weights = dtype::bf16, .ffn = Ffn, .activations = Activations}};
};
template <bool Runs, dtype Activations, dtype Ffn>
struct pair_of_layers {
  static constexpr decoder_config config{.vocabulary = 50};
  using layers = moesaic::layers<repeat<equal_widths<Runs, Activations, Ffn>, 2>>;
};

template <class Model>
std::vector<accumulator<typename decoder<Model>::scalar>> logits(host::pool& where, decoder_weights const& w, int tokens_a_call) {
  using net = decoder<Model>;
  constexpr int length = 6;
  auto const cache = net::make_cache(where, 1, length);
  host::buffer workspace{net::workspace_bytes(tokens_a_call, tokens_a_call)};
  std::vector<std::int32_t> const ids{5, 49, 0, 17, 17, 3}, sequence(length, 0), position{0, 1, 2, 3, 4, 5};
  std::vector<accumulator<typename net::scalar>> y(static_cast<std::size_t>(length * 50));
  for (int first = 0; first < length; first += tokens_a_call) {
    auto const piece = [&](std::vector<std::int32_t> const& all) { return list<const std::int32_t>{all.data() + first, tokens_a_call}; };
    REQUIRE(net::forward(where, w, {piece(ids), piece(sequence), piece(position)}, cache, every_token, {y.data() + first * 50, tokens_a_call, 50},
                         workspace));
  }
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("runs of one width are a uniform layer, bit for bit", Runs, equal_widths<true, dtype::fp32, dtype::bf16>,
                   equal_widths<true, dtype::bf16, dtype::int4>, equal_widths<true, dtype::fp64, dtype::fp32>) {
  constexpr auto storage = Runs::config.storage;
  using in_runs = pair_of_layers<true, storage.activations, storage.ffn.type>;
  using uniform = pair_of_layers<false, storage.activations, storage.ffn.type>;
  static_assert(parameters<in_runs>().total() == parameters<uniform>().total() && flops<in_runs>(9).total() == flops<uniform>(9).total());
  host::pool where(2);
  auto const a = decoder<in_runs>::load(where, random_source{seed});
  auto const b = decoder<uniform>::load(where, random_source{seed});
  CHECK(logits<in_runs>(where, a, 6) == logits<uniform>(where, b, 6));
}

namespace {

template <bool Run>
struct dense_layer {
  static constexpr block_config config{.hidden = hidden,
                                       .attention = {.heads = 4},
                                       .expert = {.intermediate = Run ? 0 : 24, .bias = true, .widths = Run ? width_runs{{1, 24}} : width_runs{}},
                                       .storage = {.weights = dtype::bf16, .ffn = dtype::int4}};
};

}  // namespace

TEST_CASE("a dense layer may be told as a run of one") {
  host::pool where;
  auto const x = input<float>();
  auto const told_as_run = load<dense_layer<true>>(where), plain = load<dense_layer<false>>(where);
  CHECK(block<dense_layer<false>>::check_weights(told_as_run));
  auto const a = run<dense_layer<true>>(where, told_as_run, x), b = run<dense_layer<false>>(where, plain, x);
  CHECK(same_bits<float>(a.y.view(), b.y.view()));
}

namespace {

struct unequal_layer {
  static constexpr block_config config = [] {
    auto c = mixed(dtype::fp32, dtype::int4);
    c.router.score_bias = true, c.router.renormalize = true;
    return c;
  }();
};
struct neutral_layer : unequal_layer {
  using routing = moesaic::routing::without_nulls<expert_range{}>;
};
struct plus_plus_layer : unequal_layer {
  using routing = moesaic::routing::without_nulls<zero_experts(config)>;
};
struct unequal_model {
  static constexpr decoder_config config{.vocabulary = 50};
  using layers = moesaic::layers<unequal_layer, plus_plus_layer, equal_widths<false, dtype::fp32, dtype::bf16>>;
};

}  // namespace

TEST_CASE("a whole model of unequal layers: prefill is decode, on any number of threads") {
  using net = decoder<unequal_model>;
  host::pool one, many(3);
  auto const weights = net::load(one, random_source{seed});
  auto const whole = logits<unequal_model>(one, weights, 6);
  CHECK(logits<unequal_model>(one, weights, 1) == whole);
  CHECK(logits<unequal_model>(one, weights, 2) == whole);
  auto const again = net::load(many, random_source{seed});
  CHECK(logits<unequal_model>(many, again, 3) == whole);
  for (auto const v : whole) CHECK(std::isfinite(v));
}

TEST_CASE("a token with a broken router gets no expert of any kind, and no tokens at all are well") {
  using layer = block<unequal_layer>;
  host::pool where;
  auto const weights = load<unequal_layer>(where);
  auto x = input<float>(seed, 3);
  matrix<float> const residual(3, hidden);
  x(1, 5) = std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t const rows : {3, 0}) {
    arena counting;
    moe<unequal_layer>::carve(counting, rows);
    host::buffer memory{counting.used() + arena::alignment};
    arena workspace(memory.data(), memory.size());
    auto const scratch = moe<unequal_layer>::carve(workspace, rows);
    call_flags flags;
    matrix<float> y(rows, hidden);
    block_weights const& w = weights;
    REQUIRE(moe<unequal_layer>::forward(where, w.ffn, {x.data.data(), rows, hidden}, {residual.data.data(), rows, hidden}, y.view(),
                                        layer::no_state(), scratch, &flags));
    CHECK(flags.not_finite == (rows > 0 ? 1 : 0));
    for (std::int64_t t = 0; t < rows; ++t)
      for (int c = 0; c < hidden; ++c) CHECK((t == 1 ? y(t, c) == 0.0f : std::isfinite(y(t, c))));
  }
}

TEST_CASE("a null expert's weight goes to the others") {
  host::pool where;
  auto const weights = load<unequal_layer>(where);
  auto const x = input<float>();
  auto const plain = run<unequal_layer>(where, weights, x), others = run<plus_plus_layer>(where, weights, x);
  CHECK(same_bits<std::int32_t>(plain.ids.view(), others.ids.view()));
  CHECK(same_bits<float>(plain.y.view(), run<neutral_layer>(where, weights, x).y.view()));
  int with_null = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    double sum = 0, kept = 0;
    bool null = false;
    for (int i = 0; i < 3; ++i) {
      sum += static_cast<double>(others.weights(t, i));
      null |= plain.ids(t, i) == 6;
      kept += plain.ids(t, i) == 6 ? 0 : static_cast<double>(plain.weights(t, i));
    }
    with_null += null;
    CHECK(std::fabs(sum - 1) <= sum_tolerance<float>(8));
    for (int i = 0; i < 3; ++i) {
      if (!null) CHECK(others.weights(t, i) == plain.weights(t, i));
      else if (plain.ids(t, i) == 6) CHECK(others.weights(t, i) == 0.0f);
      else CHECK(std::fabs(static_cast<double>(others.weights(t, i)) - static_cast<double>(plain.weights(t, i)) / kept) <= sum_tolerance<float>(8));
    }
  }
  CHECK(with_null > 0);
  CHECK(with_null < tokens);
}

TEST_CASE("what was counted is what was chosen, to the unit") {
  CAPTURE(seed);
  for (auto const act : {activation::swiglu, activation::relu}) {
    auto const c = mixed(dtype::fp32, {dtype::int4, 8}, act, true);
    auto const ids = random_ids(0, 11, 3, seed + 3);
    std::int64_t const a_weight = gated(act) ? 6 : 4;
    std::int64_t const widths[] = {24, 24, 24, 33, 10, 10};
    std::int64_t want = 0;
    std::vector<std::int64_t> counts(11);
    for (auto const e : ids.data) {
      if (e < 0) continue;
      ++counts[static_cast<std::size_t>(e)];
      want += e < 6 ? a_weight * hidden * widths[e] : e == 6 ? 0 : e < 9 ? hidden : 4 * hidden;
    }
    CHECK(flops_of_choices(c, ids.view()) == want);
    CHECK(flops_of_counts(c, counts) == want);

    // Bytes of the experts in use, one by one.
    std::int64_t stored = 0, parts = gated(act) ? 2 : 1;
    for (int e = 0; e < 11; ++e)
      if (counts[static_cast<std::size_t>(e)] > 0 || e == 1) {
        auto const width = e < 6 ? widths[e] : 0;
        if (e < 6) stored += parts * width * (hidden / 2 + 5 * 4) + hidden * ((width + 1) / 2 + (width + 7) / 8 * 4) + 4 * (parts * width + hidden);
        if (e > 8) stored += 4 * 3 * hidden;
      }
    counts[1] += counts[1] == 0;
    CHECK(bytes_of_counts(c, counts) == stored);
    for (auto& n : counts) n = 1;
    CHECK(bytes_of_counts(c, counts) == weight_bytes(c).routed);
    CHECK(bytes_of_counts(c, counts, layout::packed) == weight_bytes(c, layout::packed).routed);
    CHECK(flops_of_counts(c, counts) * 3 / 11 == flops(c, 1).experts);
    CHECK(flops_of_counts(c, std::vector<std::int64_t>(11)) == 0);
  }
}

namespace {

/// Notes what was asked for, and lacks one tensor.
struct listing {
  random_source from{seed};
  std::string missing = {};
  mutable std::vector<std::string> asked = {};
  tensor const* find(std::string_view) const { return nullptr; }
  std::string where(std::string_view) const { return "some.safetensors"; }
  tensor const* make(std::string_view name, std::initializer_list<std::int64_t> shape) const {
    if (name == missing) return nullptr;
    std::string text(name);
    for (auto const n : shape) text += ' ' + std::to_string(n);
    asked.push_back(std::move(text));
    return from.make(name, shape);
  }
  bool has(std::string const& text) const { return std::find(asked.begin(), asked.end(), text) != asked.end(); }
};

}  // namespace

TEST_CASE("each expert is loaded by its number, in its own shape") {
  using layer = block<told_layer<mixed(dtype::fp32, dtype::fp32)>>;
  host::pool where;
  listing source;
  (void)layer::load(where, source, "l.");
  CHECK(source.has("l.mlp.experts.2.gate_proj.weight 24 40"));
  CHECK(source.has("l.mlp.experts.3.up_proj.weight 33 40"));
  CHECK(source.has("l.mlp.experts.4.down_proj.weight 40 10"));
  CHECK(source.has("l.mlp.experts.9.wg.weight 2 40"));
  CHECK(source.has("l.mlp.experts.10.constant 40"));
  CHECK(source.has("l.mlp.gate.weight 11 40"));
  for (auto const& name : source.asked)
    for (int e : {6, 7, 8}) CHECK(name.find("experts." + std::to_string(e) + ".") == name.npos);
  CHECK(std::count_if(source.asked.begin(), source.asked.end(), [](auto const& name) { return name.find(".experts.") != name.npos; }) == 6 * 3 + 2 * 2);

  listing lacking{random_source{seed}, "l.mlp.experts.3.up_proj.weight"};
  CHECK_THROWS_WITH_AS((void)layer::load(where, lacking, "l."),
                       "some.safetensors: expected a tensor 'l.mlp.experts.3.up_proj.weight' [33, 40], found none of that name", moesaic::error);
  listing without_constant{random_source{seed}, "l.mlp.experts.10.wg.weight"};
  CHECK_THROWS_WITH_AS((void)layer::load(where, without_constant, "l."),
                       "some.safetensors: expected a tensor 'l.mlp.experts.10.wg.weight' [2, 40], found none of that name", moesaic::error);
}

namespace {

/// LongCat-Flash's kinds: feed-forwards of one width, then identities, which have no tensor.
struct identities {
  static constexpr block_config config{.hidden = hidden,
                                       .attention = {.heads = 4},
                                       .router = {.experts = 7, .top_k = 3, .routed_scale = 6.0, .score_bias = true},
                                       .expert = {.intermediate = 24, .copy = 3},
                                       .storage = {.weights = dtype::bf16}};
};

/// The feed-forwards of random_source one above the other, as newer checkpoints store them.
struct stacked {
  random_source from{seed};
  std::vector<float> values[2] = {};
  std::vector<std::int64_t> shapes[2] = {{4, 48, hidden}, {4, hidden, 24}};
  tensor tensors[2] = {};

  stacked() {
    for (int e = 0; e < 4; ++e)
      for (auto const* which : {"gate_proj", "up_proj", "down_proj"}) {
        bool const down = which == std::string_view("down_proj");
        auto const* const made = from.make("mlp.experts." + std::to_string(e) + "." + which + ".weight",
                                           {down ? hidden : 24, down ? 24 : hidden});
        auto& all = values[down];
        all.resize(all.size() + static_cast<std::size_t>(24 * hidden));
        widen(*made, 0, 24 * hidden, all.data() + all.size() - 24 * hidden);
      }
    for (int i : {0, 1})
      tensors[i] = {dtype::fp32, shapes[i], reinterpret_cast<std::byte const*>(values[i].data()), static_cast<std::int64_t>(values[i].size() * 4)};
  }
  tensor const* find(std::string_view name) const {
    return name == "mlp.experts.gate_up_proj" ? &tensors[0] : name == "mlp.experts.down_proj" ? &tensors[1] : nullptr;
  }
  std::string where(std::string_view name) const { return from.where(name); }
  tensor const* make(std::string_view name, std::initializer_list<std::int64_t> shape) const { return from.make(name, shape); }
};

}  // namespace

TEST_CASE("identities have no tensor, and feed-forwards may be stacked beside them") {
  host::pool where;
  auto const one_by_one = load<identities>(where);
  auto const together = block<identities>::load(where, stacked{}, "");
  auto const x = input<float>();
  auto const a = run<identities>(where, one_by_one, x), b = run<identities>(where, together, x);
  CHECK(same_bits<float>(a.y.view(), b.y.view()));
  CHECK(std::count_if(a.ids.data.begin(), a.ids.data.end(), [](std::int32_t e) { return e >= 4; }) > 0);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int i = 0; i < 3; ++i)
      for (int c = 0; c < hidden; ++c)
        if (a.ids(t, i) >= 4) CHECK(a.expert_out(t * 3 + i, c) == x(t, c));
}

TEST_CASE("weights of other kinds or widths are refused") {
  using spec = told_layer<mixed(dtype::fp32, dtype::fp32)>;
  constexpr auto other_widths = [] {
    auto c = spec::config;
    c.expert.widths = {{3, 24}, {1, 33}, {2, 11}};
    return c;
  }();
  constexpr auto other_kinds = [] {
    auto c = spec::config;
    c.expert.copy = 3, c.expert.constant = 1;
    return c;
  }();
  host::pool where;
  auto const weights = load<spec>(where);
  CHECK(block<spec>::check_weights(weights));
  CHECK(block<told_layer<other_widths>>::check_weights(weights).code == status_code::wrong_weights);
  CHECK(block<told_layer<other_kinds>>::check_weights(weights).code == status_code::wrong_weights);
}
