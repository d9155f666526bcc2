// Mixtures whose experts read something else than x, or add more than they weigh: against plain sums in double. Stacked experts in every layout.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/moe.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::int64_t tokens = 9;

constexpr block_config of(router_config router, expert_config expert, int shared = 0) {
  return {.hidden = 20, .attention = {.heads = 2}, .router = router, .expert = expert, .shared = {.intermediate = shared},
          .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
}
constexpr router_config two_of_five{.experts = 5, .top_k = 2, .renormalize = true};
constexpr router_config on_input{.experts = 5, .top_k = 2, .score = score::sigmoid, .position = score_position::after_top_k,
                                 .weights = combine_weight::on_input};

struct clamped { static constexpr block_config config = of(two_of_five, {.intermediate = 7, .limit = 0.5, .alpha = 1.702, .up_offset = 1, .bias = true}, 6); };
struct not_gated { static constexpr block_config config = of(two_of_five, {.intermediate = 7, .activation = activation::relu_squared, .bias = true}); };
struct latent { static constexpr block_config config = of(two_of_five, {.intermediate = 7, .mixture_bias = true, .latent = 12}, 6); };
struct weighed { static constexpr block_config config = of(on_input, {.intermediate = 7, .mixture_bias = true}); };
struct weighed_latent { static constexpr block_config config = of(on_input, {.intermediate = 7, .bias = true, .latent = 12}, 6); };

using row = std::vector<double>;

/// W x of one stored matrix.
row times(packed_matrix const& m, std::int64_t index, int part, row const& x) {
  row y(static_cast<std::size_t>(m.outputs));
  for (std::int64_t n = 0; n < m.outputs; ++n)
    for (std::int64_t k = 0; k < m.inputs; ++k)
      y[static_cast<std::size_t>(n)] += static_cast<double>(host::unpack(m, index, part, n, k)) * x[static_cast<std::size_t>(k)];
  return y;
}

row expert(expert_config const& c, ffn_weights const& w, std::int64_t e, row const& x) {
  auto const bias = [](list<const float> b, std::int64_t at) { return b.empty() ? 0.0 : static_cast<double>(b[at]); };
  auto const width = w.gate_up.outputs, parts = std::int64_t{w.gate_up.parts};
  auto h = times(w.gate_up, e, 0, x);
  auto const up = parts == 2 ? times(w.gate_up, e, 1, x) : row{};
  for (std::int64_t i = 0; i < width; ++i) {
    auto& value = h[static_cast<std::size_t>(i)];
    value += bias(w.gate_up_bias, e * parts * width + i);
    if (parts == 1) {
      value = value > 0 ? value * value : 0;
      continue;
    }
    auto u = up[static_cast<std::size_t>(i)] + bias(w.gate_up_bias, (e * parts + 1) * width + i);
    if (c.limit != 0) {
      if (value > c.limit) value = c.limit;
      if (u > c.limit) u = c.limit;
      if (u < -c.limit) u = -c.limit;
    }
    value = value / (1 + std::exp(-c.alpha * value)) * (u + c.up_offset);
  }
  auto y = times(w.down, e, 0, h);
  for (std::size_t n = 0; n < y.size(); ++n) y[n] += bias(w.down_bias, e * w.down.outputs + static_cast<std::int64_t>(n));
  return y;
}

/// The mixture of one token, without its residual.
row mixture(block_config const& c, moe_weights const& w, row const& x, view<const std::int32_t> ids, view<const double> weights, std::int64_t t) {
  auto const read = c.expert.latent != 0 ? times(w.latent_down, 0, 0, x) : x;
  row sum(read.size());
  for (std::int64_t i = 0; i < ids.columns; ++i) {
    bool const on_its_input = c.router.weights == combine_weight::on_input;
    auto scaled = read;
    for (auto& v : scaled) v *= on_its_input ? weights(t, i) : 1;
    auto const y = expert(c.expert, w.experts, ids(t, i), scaled);
    for (std::size_t n = 0; n < y.size(); ++n) sum[n] += (on_its_input ? 1 : weights(t, i)) * y[n];
  }
  if (c.expert.latent != 0) sum = times(w.latent_up, 0, 0, sum);
  for (std::size_t n = 0; n < sum.size() && !w.mixture_bias.empty(); ++n) sum[n] += static_cast<double>(w.mixture_bias[static_cast<std::int64_t>(n)]);
  if (c.shared.intermediate != 0) {
    auto const always = expert(c.expert, w.shared, 0, x);
    for (std::size_t n = 0; n < sum.size(); ++n) sum[n] += always[n];
  }
  return sum;
}

/// Weights of a mixture from any source.
template <class Spec, class Source>
struct made {
  host::pool pool{2};
  moesaic::buffer memory;
  moe_weights weights;
  explicit made(Source const& source, tensor_names const& names = {}) : memory([] {
    arena counting;
    moe<Spec>::carve_weights(counting);
    return counting.used();
  }()) {
    arena over(memory.data(), memory.size());
    weights = moe<Spec>::carve_weights(over);
    loader from(pool, source, "", names);
    moe<Spec>::load(weights, from);
  }
};

template <class Spec>
void check_mixture() {
  constexpr auto c = Spec::config;
  made<Spec, random_source> m(random_source{5});
  arena counting;
  moe<Spec>::carve(counting, tokens);
  moesaic::buffer workspace(counting.used());
  arena over(workspace.data(), workspace.size());
  auto const s = moe<Spec>::carve(over, tokens);
  random_stream random(6);
  auto const x = random_matrix<double>(tokens, c.hidden, random), residual = random_matrix<double>(tokens, c.hidden, random);
  matrix<double> y(tokens, c.hidden), want(tokens, c.hidden);
  call_flags flags{};
  REQUIRE(moe<Spec>::forward(m.pool, m.weights, x.view(), residual.view(), y.view(), {}, s, &flags));
  for (std::int64_t t = 0; t < tokens; ++t) {
    auto const sum = mixture(c, m.weights, row(&x(t, 0), &x(t, 0) + c.hidden), s.router.slots.ids, s.router.slots.weights, t);
    for (std::int64_t n = 0; n < c.hidden; ++n) want(t, n) = residual(t, n) + sum[static_cast<std::size_t>(n)];
  }
  auto const found = compare<double, double>(y.view(), want.view());
  CHECK_MESSAGE(found.worst <= stage_tolerance<double>, to_string(found));
}

/// Tensors in memory.
class tensors {
 public:
  void add(std::string name, std::vector<std::int64_t> shape, std::vector<float> values) {
    auto& own = all_[std::move(name)];
    own.shape = std::move(shape), own.values = std::move(values);
    own.stored = {dtype::fp32, own.shape, reinterpret_cast<std::byte const*>(own.values.data()), static_cast<std::int64_t>(own.values.size()) * 4};
  }
  tensor const* find(std::string_view name) const {
    auto const at = all_.find(name);
    return at != all_.end() ? &at->second.stored : nullptr;
  }
  std::string where(std::string_view) const { return "memory"; }

 private:
  struct held {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
    tensor stored;
  };
  std::map<std::string, held, std::less<>> all_;
};

/// What a weight of (expert, gate or up or down, output, input) is, and a bias.
float number(std::int64_t e, int matrix, std::int64_t output, std::int64_t input) {
  return static_cast<float>(((e * 3 + matrix) * 64 + output) * 64 + input);
}

template <class Spec>
void check_stack(stack_layout const& layout, bool apart) {
  constexpr auto c = Spec::config;
  constexpr std::int64_t experts = c.router.experts, hidden = c.hidden, width = c.expert.intermediate;
  constexpr int parts = gated(c.expert.activation) ? 2 : 1;
  CAPTURE(layout.interleaved);
  CAPTURE(layout.transposed);
  CAPTURE(layout.down_transposed);
  CAPTURE(layout.flat);
  CAPTURE(apart);
  tensors source;
  source.add("mlp.gate.weight", {experts, hidden}, std::vector<float>(static_cast<std::size_t>(experts * hidden), 0.5f));
  // A stack of which row r of expert e is row `of(r)` of a matrix: {matrix, output}.
  auto const stack = [&](std::string name, std::int64_t outputs, std::int64_t inputs, bool transposed, auto of) {
    std::vector<float> values, biases;
    auto const rows = transposed ? inputs : outputs, columns = transposed ? outputs : inputs;
    for (std::int64_t e = 0; e < experts; ++e) {
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t k = 0; k < columns; ++k) {
          auto const [matrix, output] = of(transposed ? k : r);
          values.push_back(number(e, matrix, output, transposed ? r : k));
        }
      for (std::int64_t n = 0; n < outputs; ++n) {
        auto const [matrix, output] = of(n);
        biases.push_back(-number(e, matrix, output, 0));
      }
    }
    source.add(name, layout.flat ? std::vector<std::int64_t>{experts * rows, columns} : std::vector<std::int64_t>{experts, rows, columns}, values);
    source.add(name + "_bias", {experts, outputs}, biases);
  };
  using place = std::pair<int, std::int64_t>;
  auto const whole = [](int matrix) { return [matrix](std::int64_t n) { return place{matrix, n}; }; };
  tensor_names names;
  names.stacked = layout;
  names.stacked_gate = {"w1"}, names.stacked_up = {"v1"};
  if (apart) stack("w1", width, hidden, layout.transposed, whole(0)), stack("v1", width, hidden, layout.transposed, whole(1));
  else
    stack("mlp.experts.gate_up_proj", parts * width, hidden, layout.transposed, [&](std::int64_t n) {
      return parts == 1 ? place{1, n} : layout.interleaved ? place{static_cast<int>(n % 2), n / 2} : place{static_cast<int>(n / width), n % width};
    });
  stack("mlp.experts.down_proj", hidden, width, layout.down_transposed, whole(2));

  made<Spec, tensors> const m(source, names);
  auto const& w = m.weights.experts;
  std::int64_t wrong = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t i = 0; i < width; ++i)
      for (int part = 0; part < parts; ++part) {
        int const matrix = part + 2 - parts;
        for (std::int64_t k = 0; k < hidden; ++k) wrong += host::unpack(w.gate_up, e, part, i, k) != number(e, matrix, i, k);
        if (c.expert.bias) wrong += w.gate_up_bias[(e * parts + part) * width + i] != -number(e, matrix, i, 0);
      }
    for (std::int64_t n = 0; n < hidden; ++n) {
      for (std::int64_t i = 0; i < width; ++i) wrong += host::unpack(w.down, e, 0, n, i) != number(e, 2, n, i);
      if (c.expert.bias) wrong += w.down_bias[e * hidden + n] != -number(e, 2, n, 0);
    }
  }
  CHECK(wrong == 0);
}

struct stacked { static constexpr block_config config = of(two_of_five, {.intermediate = 7}); };
struct stacked_bias { static constexpr block_config config = of(two_of_five, {.intermediate = 7, .bias = true}); };

}  // namespace

TEST_CASE("gates clamped, steeper and up shifted") { check_mixture<clamped>(); }
TEST_CASE("experts without a gate") { check_mixture<not_gated>(); }
TEST_CASE("experts on a projection of x, and a bias of the mixture") { check_mixture<latent>(); }
TEST_CASE("weights on the experts' input") { check_mixture<weighed>(); }
TEST_CASE("weights on the input of experts that work on a projection") { check_mixture<weighed_latent>(); }

TEST_CASE("stacked experts in every layout") {
  for (int bits = 0; bits < 16; ++bits) {
    stack_layout const layout{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
    check_stack<stacked_bias>(layout, false);
    check_stack<not_gated>(layout, false);
    if (!layout.interleaved) check_stack<stacked>(layout, true);
  }
}

TEST_CASE("a stack of another shape is refused, with what was expected") {
  tensors source;
  source.add("mlp.gate.weight", {5, 20}, std::vector<float>(100));
  source.add("mlp.experts.gate_up_proj", {5, 20, 14}, std::vector<float>(5 * 20 * 14));
  source.add("mlp.experts.down_proj", {5, 20, 7}, std::vector<float>(5 * 20 * 7));
  CHECK_THROWS_WITH_AS((made<stacked, tensors>(source)), doctest::Contains("[5, 14, 20]"), error);
}

TEST_CASE_TEMPLATE("a weight on the input is rounded, and its product again", T, double, float, bf16) {
  random_stream random(7);
  auto const x = random_matrix<T>(3, 17, random);
  auto const weights = random_matrix<accumulator<T>>(3, 2, random);
  std::vector<std::int32_t> const slot{4, 0, -1, 2, 1, -1};
  host::pool pool;
  matrix<T> y(5, 17);
  for (auto& v : y.data) v = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  host::weigh_choices<T>(pool, x.view(), view<const std::int32_t>(slot.data(), 3, 2), weights.view(), y.view());
  for (std::int64_t i = 0; i < 6; ++i) {
    if (slot[static_cast<std::size_t>(i)] < 0) continue;
    for (std::int64_t c = 0; c < 17; ++c) {
      using sum = accumulator<T>;
      auto const want = static_cast<T>(static_cast<sum>(static_cast<T>(weights(i / 2, i % 2))) * static_cast<sum>(x(i / 2, c)));
      CHECK(static_cast<sum>(y(slot[static_cast<std::size_t>(i)], c)) == static_cast<sum>(want));
    }
  }
  CHECK(std::isnan(static_cast<double>(static_cast<accumulator<T>>(y(3, 0)))));   // no choice
  host::weigh_choices<T>(pool, x.view(), view<const std::int32_t>(slot.data(), 3, 2), {}, y.view());
  for (std::size_t i = 0; i < 6; ++i)
    if (slot[i] >= 0) CHECK(same_bits<T>(view<const T>(y.view().row(slot[i]), 1, 17), view<const T>(x.view().row(static_cast<std::int64_t>(i / 2)), 1, 17)));
}
