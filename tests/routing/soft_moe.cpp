// Soft MoE: against its formulas in long double, token order, sequences beside each other, and broken tokens.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <moesaic/config/random_source.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/block.hpp>
#include <moesaic/layer/soft_moe.hpp>

#include "routing/support.hpp"
#include "support/compare.hpp"
#include "support/matrix.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr int hidden = 12, intermediate = 10, experts = 3;

template <dtype Activations>
struct spec {
  static constexpr block_config config{.hidden = hidden,
                                       .attention = {.heads = 2},
                                       .router = {.experts = experts, .top_k = 1},
                                       .expert = {.intermediate = intermediate},
                                       .storage = {.weights = dtype::fp32, .activations = Activations}};
};
template <class T, int Each, bool Normalised>
using layer_of = soft_moe<spec<dtype_of<T>>, Each, Normalised>;

template <class Layer, class T>
matrix<T> run(soft_moe_weights const& w, matrix<T> const& x, std::vector<std::int32_t> const& first, status_code flag = status_code::ok,
              int threads = 2) {
  host::pool where(threads);
  host::buffer workspace{Layer::workspace_bytes(x.rows, static_cast<std::int64_t>(first.size()) - 1)};
  matrix<T> y(x.rows, x.columns);
  auto const done = Layer::forward(where, w, x.view(), x.view(), first, y.view(), workspace);
  INFO(moesaic::to_string(done));
  REQUIRE(static_cast<bool>(done));
  CHECK(check(where, workspace).code == flag);
  return y;
}

using row = std::vector<long double>;

row expert_of(ffn_weights const& w, int e, row const& x) {
  row h, y(hidden);
  for (int n = 0; n < intermediate; ++n) {
    long double gate = 0, up = 0;
    for (int k = 0; k < hidden; ++k) {
      gate += static_cast<long double>(host::unpack(w.gate_up, e, 0, n, k)) * x[static_cast<std::size_t>(k)];
      up += static_cast<long double>(host::unpack(w.gate_up, e, 1, n, k)) * x[static_cast<std::size_t>(k)];
    }
    h.push_back(gate / (1 + std::exp(-gate)) * up);
  }
  for (int n = 0; n < hidden; ++n)
    for (int k = 0; k < intermediate; ++k)
      y[static_cast<std::size_t>(n)] += static_cast<long double>(host::unpack(w.down, e, 0, n, k)) * h[static_cast<std::size_t>(k)];
  return y;
}

// x + C · expert(Dᵀ x), one sequence.
template <class T>
matrix<double> reference(soft_moe_weights const& w, matrix<T> const& x, int each) {
  auto const tokens = static_cast<std::size_t>(x.rows), slots = static_cast<std::size_t>(experts * each);
  std::vector<row> logits(tokens, row(slots)), out;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t j = 0; j < slots; ++j) {
      long double dot = 0, of_x = 0, of_slot = 0;
      for (int k = 0; k < hidden; ++k) {
        long double const a = x(static_cast<std::int64_t>(t), k), b = host::unpack(w.slots, 0, 0, static_cast<std::int64_t>(j), k);
        dot += a * b, of_x += a * a, of_slot += b * b;
      }
      logits[t][j] = w.scale.empty() ? dot : w.scale[0] * dot / std::sqrt(of_x * of_slot);
    }
  for (std::size_t j = 0; j < slots; ++j) {
    row column, mixed(hidden);
    for (std::size_t t = 0; t < tokens; ++t) column.push_back(logits[t][j]);
    auto const dispatch = softmax(column);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t k = 0; k < hidden; ++k) mixed[k] += dispatch[t] * x(static_cast<std::int64_t>(t), static_cast<std::int64_t>(k));
    out.push_back(expert_of(w.experts, static_cast<int>(j) / each, mixed));
  }
  matrix<double> y(x.rows, x.columns);
  for (std::size_t t = 0; t < tokens; ++t) {
    auto const combine = softmax(logits[t]);
    for (std::size_t k = 0; k < hidden; ++k) {
      long double sum = x(static_cast<std::int64_t>(t), static_cast<std::int64_t>(k));
      for (std::size_t j = 0; j < slots; ++j) sum += combine[j] * out[j][k];
      y(static_cast<std::int64_t>(t), static_cast<std::int64_t>(k)) = static_cast<double>(sum);
    }
  }
  return y;
}

template <class T>
bool equal(matrix<T> const& a, matrix<T> const& b) {
  return same_bits(a.view(), b.view());
}

template <class T>
matrix<T> rows_of(matrix<T> const& x, std::int64_t first, std::int64_t last) {
  matrix<T> part(last - first, x.columns);
  for (std::int64_t t = first; t < last; ++t)
    for (std::int64_t c = 0; c < x.columns; ++c) part(t - first, c) = x(t, c);
  return part;
}

template <class T, int Each, bool Normalised>
void check_against_formula() {
  using layer = layer_of<T, Each, Normalised>;
  host::pool where;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    auto const weights = layer::load(where, random_source{seed}, "");
    random_stream random(seed);
    auto const x = random_matrix<T>(1 + random.below(9), hidden, random);
    auto const y = run<layer>(weights, x, {0, static_cast<std::int32_t>(x.rows)});
    auto const want = reference<T>(weights, x, Each);
    auto const worst = compare<T, double>(y.view(), want.view());
    INFO(to_string(worst));
    CHECK(worst.worst <= stage_tolerance<T>);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("against the formulas, plain and normalised, one slot an expert and several", T, float, double) {
  check_against_formula<T, 1, false>();
  check_against_formula<T, 2, false>();
  check_against_formula<T, 1, true>();
  check_against_formula<T, 3, true>();
}

TEST_CASE_TEMPLATE("sequences do not see each other, however many threads; an empty one changes nothing; no tokens at all", T, float, double) {
  using layer = layer_of<T, 2, true>;
  host::pool where;
  auto const weights = layer::load(where, random_source{3}, "");
  random_stream random(3);
  auto const x = random_matrix<T>(11, hidden, random);
  std::vector<std::int32_t> const first{0, 4, 4, 5, 11};
  auto const together = run<layer>(weights, x, first);
  CHECK(equal(together, run<layer>(weights, x, first, status_code::ok, 1)));
  for (std::size_t s = 0; s + 1 < first.size(); ++s) {
    auto const alone = run<layer>(weights, rows_of(x, first[s], first[s + 1]), {0, first[s + 1] - first[s]});
    CHECK(equal(alone, rows_of(together, first[s], first[s + 1])));
  }
  CHECK(run<layer>(weights, matrix<T>(0, hidden), {0}).rows == 0);
  CHECK(run<layer>(weights, matrix<T>(0, hidden), {0, 0}).rows == 0);
}

TEST_CASE_TEMPLATE("the order of tokens says nothing, and their length nothing to where they go", T, float, double) {
  using layer = layer_of<T, 2, true>;
  host::pool where;
  auto const weights = layer::load(where, random_source{5}, "");
  random_stream random(5);
  auto const x = random_matrix<T>(6, hidden, random);
  matrix<T> backwards(6, hidden);
  for (std::int64_t t = 0; t < 6; ++t)
    for (std::int64_t c = 0; c < hidden; ++c) backwards(t, c) = x(5 - t, c);
  auto const y = run<layer>(weights, x, {0, 6}), turned = run<layer>(weights, backwards, {0, 6});
  for (std::int64_t t = 0; t < 6; ++t)
    for (std::int64_t c = 0; c < hidden; ++c) CHECK(std::fabs(static_cast<double>(y(t, c) - turned(5 - t, c))) <= 10 * stage_tolerance<T>);
}

TEST_CASE_TEMPLATE("a token whose logits are not finite gives nothing, gets its residual and raises the flag", T, float, double) {
  using layer = layer_of<T, 2, false>;
  host::pool where;
  auto const weights = layer::load(where, random_source{7}, "");
  random_stream random(7);
  auto x = random_matrix<T>(5, hidden, random);
  auto const without = run<layer>(weights, rows_of(x, 0, 4), {0, 4});
  for (auto const bad : {std::numeric_limits<T>::quiet_NaN(), infinity<T>}) {
    x(4, 3) = bad;
    auto const y = run<layer>(weights, x, {0, 5}, status_code::not_finite);
    CHECK(equal(rows_of(y, 0, 4), without));
    for (std::int64_t c = 0; c < hidden; ++c) CHECK((c == 3 || y(4, c) == x(4, c)));
    run<layer>(weights, rows_of(x, 4, 5), {0, 1}, status_code::not_finite);    // nobody is left: slots of zeros
  }
}

TEST_CASE("wrong arguments are refused by name") {
  using layer = layer_of<float, 2, true>;
  host::pool where;
  auto const loaded = layer::load(where, random_source{1}, "");
  soft_moe_weights const& weights = loaded;
  matrix<float> x(4, hidden), y(4, hidden), narrow(4, 5);
  host::buffer workspace{layer::workspace_bytes(4, 2)};
  auto const said = [&](auto const& in, std::vector<std::int32_t> const& first, list<std::byte> memory, soft_moe_weights const& w) {
    return moesaic::to_string(layer::forward(where, w, in.view(), in.view(), first, y.view(), memory));
  };
  list<std::byte> const all = workspace, half{all.data, all.size / 2};
  CHECK(said(x, {0, 1, 4}, all, weights) == "ok");
  CHECK(said(narrow, {0, 4}, all, weights) == "x must have `hidden` columns (expected 12, found 5)");
  CHECK(said(x, {}, all, weights) == "first must begin with 0 (expected 0, found -1)");
  CHECK(said(x, {1, 4}, all, weights) == "first must begin with 0 (expected 0, found 1)");
  CHECK(said(x, {0, 3, 2, 4}, all, weights) == "first must ascend (expected 3, found 2)");
  CHECK(said(x, {0, 3}, all, weights) == "first must end with the number of tokens (expected 4, found 3)");
  CHECK(said(x, {0, 1, 4}, half, weights).find("workspace_bytes(tokens, sequences)") != std::string::npos);
  CHECK(said(x, {0, 1, 4}, all, soft_moe_weights{}).find("the same shapes and storage") != std::string::npos);
}
