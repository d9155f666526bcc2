// Logits, routing and plan in one launch on a model of a device, and cosines.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/cosine.hpp>
#include <moesaic/host/cosine.hpp>
#include <moesaic/route/elimination.hpp>
#include <support/compare.hpp>

#include "route.hpp"

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr std::uint64_t seed = 20261124;

struct softmax20 {
  static constexpr router_config config{.experts = 20, .top_k = 4, .renormalize = true, .bias = true};
};
struct biased21 {
  static constexpr router_config config{.experts = 21, .top_k = 4, .score = score::sigmoid, .renormalize = true, .score_bias = true};
};

/// Products of rows in double, and of their magnitudes.
struct products {
  matrix<double> sum, size;
  long terms;

  template <class X>
  products(matrix<X> const& x, matrix<float> const& w, std::vector<float> const& bias) : sum(x.rows, w.rows), size(x.rows, w.rows), terms(x.columns + 1) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (std::int64_t n = 0; n < w.rows; ++n) {
        auto const add = [&](double term) { sum(t, n) += term, size(t, n) += std::fabs(term); };
        for (std::int64_t k = 0; k < x.columns; ++k) add(static_cast<double>(static_cast<float>(x(t, k))) * static_cast<double>(w(n, k)));
        if (!bias.empty()) add(static_cast<double>(bias[static_cast<std::size_t>(n)]));
      }
  }
  void check(matrix<float> const& got) const {
    for (std::int64_t t = 0; t < sum.rows; ++t)
      for (std::int64_t n = 0; n < sum.columns; ++n)
        REQUIRE(std::fabs(static_cast<double>(got(t, n)) - sum(t, n)) <= sum_tolerance<float>(terms) * size(t, n));
  }
};

template <class Policy, class Config, class X>
void check_fused(typename Policy::state const& state, std::int64_t tokens, std::int64_t hidden, std::uint64_t from) {
  auto const c = Config::config;
  random_stream random(from);
  auto const x = random_matrix<X>(tokens, hidden, random);
  auto w = random_matrix<float>(c.experts, hidden, random);
  for (auto& v : w.data) v /= std::sqrt(static_cast<float>(hidden));
  std::vector<float> bias, score_bias;
  if (c.bias)
    for (int e = 0; e < c.experts; ++e) bias.push_back(random.normal());
  if (c.score_bias)
    for (int e = 0; e < c.experts; ++e) score_bias.push_back(0.1f * random.normal());
  packed_matrix const packed{.stored = dtype::fp32, .outputs = c.experts, .inputs = hidden, .data = reinterpret_cast<std::byte const*>(w.data.data())};
  products const exact(x, w, bias);
  matrix<float> first_seen;
  each_schedule([&] {
    matrix<float> logits(tokens, c.experts);
    for (auto& z : logits.data) z = std::nanf("");
    auto got = results_for<Policy>(c, tokens);
    cuda::route_counters counters;
    small_stream where;
    REQUIRE(cuda::fuses_logits(where, packed, x.view()));
    cuda::linear_route_and_plan<Policy>(where, Config{}, state, packed, x.view(), bias, logits.view(), score_bias, got.scores.view(), got.choice.view(),
                                        got.slots(), got.batch_memory, &got.not_finite, &counters, got.plan());
    auto const done = cuda::finish(where);
    INFO(to_string(done));
    REQUIRE(static_cast<bool>(done));
    check_findings();
    exact.check(logits);
    auto const want = route_on_host<Policy>(c, state, {logits, score_bias});
    check_routed(got, want);
    check_planned(got, want);
    CHECK(counters.of_grid == 0);
    for (auto const n : counters.of_group) CHECK(n == 0);
    if (first_seen.data.empty()) first_seen = logits;
    CHECK(same_bits(view<const float>(logits.view()), view<const float>(first_seen.view())));
  });
}

}  // namespace

TEST_CASE_TEMPLATE("x to a plan in one launch", X, bf16, float) {
  for (std::int64_t const tokens : {1, 3, 8, 17, 64})
    for (std::int64_t const hidden : {16, 272, 2064}) {
      CAPTURE(tokens);
      CAPTURE(hidden);
      if (tokens * hidden > 20000) continue;
      check_fused<routing::standard, softmax20, X>({}, tokens, hidden, seed);
      check_fused<routing::standard, biased21, X>({}, tokens, hidden, seed + 1);
    }
}

TEST_CASE("a rule over the batch in the same launch") {
  routing::elimination<>::state s;
  s.price = 0.3f, s.rounds = 3;
  for (std::int64_t const tokens : {2, 24}) check_fused<routing::elimination<>, softmax20, bf16>(s, tokens, 64, seed);
}

TEST_CASE("logits of a token do not depend on the others") {
  random_stream random(seed);
  constexpr std::int64_t hidden = 528, outputs = 21;
  auto const x = random_matrix<bf16>(19, hidden, random);
  auto const w = random_matrix<float>(outputs, hidden, random);
  packed_matrix const packed{.stored = dtype::fp32, .outputs = outputs, .inputs = hidden, .data = reinterpret_cast<std::byte const*>(w.data.data())};
  auto const logits_of = [&](std::int64_t first, std::int64_t n) {
    matrix<float> logits(n, outputs);
    auto got = results_for<routing::standard>(biased21::config, n);
    cuda::route_counters counters;
    small_stream where;
    std::vector<float> const bias(outputs, 0.0f);
    cuda::linear_route_and_plan<routing::standard>(where, biased21{}, {}, packed, view<const bf16>(x.view().row(first), n, hidden), {}, logits.view(), bias,
                                                   got.scores.view(), got.choice.view(), got.slots(), {}, &got.not_finite, &counters, got.plan());
    REQUIRE(static_cast<bool>(cuda::finish(where)));
    check_findings();
    return logits;
  };
  auto const all = logits_of(0, 19);
  for (std::int64_t t = 0; t < 19; ++t) {
    auto const alone = logits_of(t, 1);
    CHECK(same_bits(view<const float>(alone.view()), view<const float>(all.view().row(t), 1, outputs)));
  }
}

TEST_CASE("more tokens than one launch takes are refused, and rows that are not 16 bytes apart") {
  random_stream random(seed);
  auto const w = random_matrix<float>(8, 64, random);
  packed_matrix const packed{.stored = dtype::fp32, .outputs = 8, .inputs = 64, .data = reinterpret_cast<std::byte const*>(w.data.data())};
  auto const x = random_matrix<bf16>(65, 65, random);
  small_stream where;
  CHECK_FALSE(cuda::fuses_logits(where, packed, view<const bf16>(x.data.data(), 65, 64)));
  CHECK_FALSE(cuda::fuses_logits(where, packed, view<const bf16>(x.data.data(), 2, 64, 65)));
  CHECK(cuda::fuses_logits(where, packed, view<const bf16>(x.data.data(), 2, 64)));
}

TEST_CASE_TEMPLATE("cosines", X, bf16, float) {
  random_stream random(seed);
  auto x = random_matrix<X>(7, 80, random);
  auto const w = random_matrix<float>(9, 80, random);
  for (std::int64_t k = 0; k < 80; ++k) x(3, k) = static_cast<X>(0.0f);
  packed_matrix const packed{.stored = dtype::fp32, .outputs = 9, .inputs = 80, .data = reinterpret_cast<std::byte const*>(w.data.data())};
  auto const y = convert<float>(products(x, w, {}).sum);
  std::vector<double> length(9);
  for (std::size_t n = 0; n < 9; ++n) {
    for (std::int64_t k = 0; k < 80; ++k) length[n] += static_cast<double>(w(static_cast<std::int64_t>(n), k)) * static_cast<double>(w(static_cast<std::int64_t>(n), k));
    length[n] = std::sqrt(length[n]);
  }
  auto want = y;
  host::pool pool(1);
  host::to_cosines<X>(pool, x.view(), length, 7.5, want.view());
  each_schedule([&] {
    auto got = y;
    std::vector<double> lengths(9, -1);
    small_stream where;
    cuda::row_lengths(where, packed, lengths);
    cuda::to_cosines<X>(where, x.view(), lengths, 7.5, got.view());
    CHECK(static_cast<bool>(cuda::finish(where)));
    check_findings();
    for (std::size_t n = 0; n < 9; ++n) CHECK(std::fabs(lengths[n] / length[n] - 1) <= routing_tolerance<double>);
    CHECK(compare(view<const float>(got.view()), view<const float>(want.view())).worst <= routing_tolerance<float>);
  });
}
