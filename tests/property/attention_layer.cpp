// The attention of a layer where no published file shows it: an output gate's rows among the queries', one tensor of q, k and v, experts beside other axes.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/attention.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

constexpr int hidden = 24, heads = 4, kv_heads = 2, key_dim = 6, value_dim = 10;

template <bool Gate>
struct layer {
  static constexpr block_config config{.hidden = hidden,
                                       .attention = {.heads = heads, .kv_heads = kv_heads, .head_dim = key_dim, .value_dim = value_dim, .qkv_bias = true, .output_gate = Gate},
                                       .expert = {.intermediate = 8},
                                       .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};

/// With experts of attention, or with one projection; queries normalised after they turn, or not turned at all.
template <bool Experts, bool Turns>
struct mixed_layer {
  static constexpr block_config config{.hidden = hidden,
                                       .attention = {.heads = heads, .kv_heads = kv_heads, .head_dim = key_dim, .value_dim = value_dim, .tiled_kv = true,
                                                     .rotary = Turns, .qk_norm = Turns ? qk_norm::per_head : qk_norm::none, .qk_norm_after_rope = Turns,
                                                     .out_bias = Experts,
                                                     .router = Experts ? router_config{.experts = 3, .top_k = 2, .renormalize = true} : router_config{}},
                                       .expert = {.intermediate = 8},
                                       .storage = {.weights = dtype::fp32, .activations = dtype::fp64}};
};

/// Tensors in memory.
struct memory_source {
  struct held {
    matrix<float> values;
    std::vector<std::int64_t> shape;
    tensor view;
  };
  std::map<std::string, held, std::less<>> all;

  void add(std::string const& name, matrix<float> values, std::int64_t stacked = 0) {
    auto& h = all[name];
    h.values = std::move(values);
    h.shape = h.values.columns == 1 ? std::vector<std::int64_t>{h.values.rows} : std::vector<std::int64_t>{h.values.rows, h.values.columns};
    if (stacked != 0) h.shape = {stacked, h.values.rows / stacked, h.values.columns};
    h.view = {dtype::fp32, h.shape, reinterpret_cast<std::byte const*>(h.values.data.data()), static_cast<std::int64_t>(h.values.data.size() * 4)};
  }
  tensor const* find(std::string_view name) const {
    auto const at = all.find(name);
    return at == all.end() ? nullptr : &at->second.view;
  }
  std::string where(std::string_view) const { return "memory"; }
};

/// What goes into the output projection, and its result.
struct outputs {
  matrix<double> heads, out;
};

template <class Spec>
outputs run(memory_source const& source, matrix<double> const& x, call_flags* flags = nullptr) {
  using attention = moesaic::attention<Spec>;
  host::pool where(1);
  arena counting;
  attention::carve_weights(counting);
  host::buffer weight_memory(counting.used() + arena::alignment), scratch_memory(1 << 16);
  arena over(weight_memory.data(), weight_memory.size()), scratch(scratch_memory.data(), scratch_memory.size());
  auto const weights = attention::carve_weights(over);
  tensor_names const names;
  loader from(where, source, "", names);
  attention::load(weights, from);
  auto const cache = host::make_kv_cache<double>(where, attention::shape, 1, static_cast<int>(x.rows));
  auto const s = attention::carve(scratch, x.rows);
  REQUIRE(scratch.fits());
  std::vector<std::int32_t> const sequence(static_cast<std::size_t>(x.rows), 0);
  std::vector<std::int32_t> position;
  for (std::int32_t t = 0; t < x.rows; ++t) position.push_back(t);
  auto const done = attention::forward(where, weights, x.view(), {sequence, position, flags}, cache, s);
  REQUIRE_MESSAGE(done, to_string(done));
  auto const copied = [](view<double> v) {
    matrix<double> m(v.rows, v.columns);
    for (std::int64_t r = 0; r < v.rows; ++r)
      for (std::int64_t c = 0; c < v.columns; ++c) m(r, c) = v(r, c);
    return m;
  };
  return {copied(s.heads), copied(s.out)};
}

matrix<float> rows_of(matrix<float> const& m, std::vector<std::int64_t> const& rows) {
  matrix<float> y(static_cast<std::int64_t>(rows.size()), m.columns);
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t c = 0; c < y.columns; ++c) y(r, c) = m(rows[static_cast<std::size_t>(r)], c);
  return y;
}

}  // namespace

TEST_CASE("an output gate: each head's rows after its query's, weights and biases; its sigmoid on the head's output") {
  random_stream random(91);
  memory_source gated, plain;
  std::vector<std::int64_t> query_rows, gate_rows;
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < key_dim + value_dim; ++i) (i < key_dim ? query_rows : gate_rows).push_back(h * (key_dim + value_dim) + i);
  auto const q = random_matrix<float>(heads * (key_dim + value_dim), hidden, random), q_bias = random_matrix<float>(q.rows, 1, random);
  gated.add("self_attn.q_proj.weight", q), gated.add("self_attn.q_proj.bias", q_bias);
  plain.add("self_attn.q_proj.weight", rows_of(q, query_rows)), plain.add("self_attn.q_proj.bias", rows_of(q_bias, query_rows));
  auto const k = random_matrix<float>(kv_heads * key_dim, hidden, random), v = random_matrix<float>(kv_heads * value_dim, hidden, random);
  auto const out = random_matrix<float>(hidden, heads * value_dim, random);
  auto const k_bias = random_matrix<float>(k.rows, 1, random), v_bias = random_matrix<float>(v.rows, 1, random);
  for (auto* const source : {&gated, &plain}) {
    source->add("self_attn.k_proj.weight", k), source->add("self_attn.k_proj.bias", k_bias);
    source->add("self_attn.v_proj.weight", v), source->add("self_attn.v_proj.bias", v_bias);
    source->add("self_attn.o_proj.weight", out);
  }
  auto const x = random_matrix<double>(7, hidden, random);
  auto const with = run<layer<true>>(gated, x);
  auto want = run<layer<false>>(plain, x);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t c = 0; c < want.heads.columns; ++c) {
      auto const row = gate_rows[static_cast<std::size_t>(c)];
      double gate = static_cast<double>(q_bias(row, 0));
      for (int i = 0; i < hidden; ++i) gate += static_cast<double>(q(row, i)) * x(t, i);
      want.heads(t, c) /= 1 + std::exp(-gate);
    }
  auto const found = compare(with.heads.view(), std::as_const(want.heads).view());
  INFO(to_string(found));
  CHECK(found.worst <= stage_tolerance<double>);
  matrix<double> projected(x.rows, hidden);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (int o = 0; o < hidden; ++o)
      for (std::int64_t c = 0; c < out.columns; ++c) projected(t, o) += static_cast<double>(out(o, c)) * want.heads(t, c);
  CHECK(compare(with.out.view(), std::as_const(projected).view()).worst <= stage_tolerance<double>);
}

TEST_CASE("one tensor of q, k and v is three, of a bias too") {
  random_stream random(92);
  memory_source apart, fused;
  std::vector<std::int64_t> const widths{heads * key_dim, kv_heads * key_dim, kv_heads * value_dim};
  auto const all = random_matrix<float>(widths[0] + widths[1] + widths[2], hidden, random), bias = random_matrix<float>(all.rows, 1, random);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<std::int64_t> rows;
    for (std::int64_t r = 0; r < widths[i]; ++r) rows.push_back(first + r);
    first += widths[i];
    auto const name = "self_attn." + std::string(1, "qkv"[i]) + "_proj";
    apart.add(name + ".weight", rows_of(all, rows)), apart.add(name + ".bias", rows_of(bias, rows));
  }
  fused.add("self_attn.qkv_proj.weight", all), fused.add("self_attn.qkv_proj.bias", bias);
  auto const out = random_matrix<float>(hidden, heads * value_dim, random);
  apart.add("self_attn.o_proj.weight", out), fused.add("self_attn.o_proj.weight", out);
  auto const x = random_matrix<double>(5, hidden, random);
  auto const one = run<layer<false>>(fused, x), three = run<layer<false>>(apart, x);
  CHECK(same_bits(one.out.view(), three.out.view()));
}

// Keys are of no expert, so a token's heads are those of attention with its two experts' queries one after the other.
TEST_CASE_TEMPLATE("experts of attention: each token attends by those of its choice, and one whose row is not finite by none, with flags and without", Turns, std::true_type, std::false_type) {
  using mixed = mixed_layer<true, Turns::value>;
  using plain = mixed_layer<false, Turns::value>;
  constexpr int experts = 3, q_rows = heads * key_dim / 2, width = heads * value_dim / 2;
  random_stream random(93);
  memory_source source;
  auto const q = random_matrix<float>(experts * q_rows, hidden, random), out = random_matrix<float>(experts * hidden, width, random);
  auto const router = random_matrix<float>(experts, hidden, random), bias = random_matrix<float>(hidden, 1, random);
  auto const add_shared = [k = random_matrix<float>(kv_heads * key_dim, hidden, random), v = random_matrix<float>(kv_heads * value_dim, hidden, random),
                           q_norm = random_matrix<float>(key_dim, 1, random), k_norm = random_matrix<float>(key_dim, 1, random)](memory_source& to) {
    to.add("self_attn.k_proj.weight", k), to.add("self_attn.v_proj.weight", v);
    to.add("self_attn.q_norm.weight", q_norm), to.add("self_attn.k_norm.weight", k_norm);
  };
  source.add("self_attention.experts.input_linear.weight", q, experts), source.add("self_attention.experts.output_linear.weight", out, experts);
  source.add("self_attention.experts.router.layer.weight", router), source.add("self_attention.experts.bias", bias);
  add_shared(source);
  auto const x = random_matrix<double>(9, hidden, random);
  auto const got = run<mixed>(source, x);

  for (int first = 0; first < experts; ++first)
    for (int second = 0; second < experts; ++second) {
      std::vector<std::int64_t> rows;
      for (int const e : {first, second})
        for (int i = 0; i < q_rows; ++i) rows.push_back(e * q_rows + i);
      memory_source one;
      one.add("self_attn.q_proj.weight", rows_of(q, rows)), one.add("self_attn.o_proj.weight", random_matrix<float>(hidden, 2 * width, random));
      add_shared(one);
      auto const want = run<plain>(one, x);
      for (std::int64_t t = 0; t < x.rows; ++t) {
        double score[experts] = {};
        for (int e = 0; e < experts; ++e) {
          for (int i = 0; i < hidden; ++i) score[e] += static_cast<double>(router(e, i)) * x(t, i);
          score[e] = std::exp(score[e]);
        }
        int const least = score[0] < score[1] ? (score[0] < score[2] ? 0 : 2) : (score[1] < score[2] ? 1 : 2);
        if (first == second || first == least || second == least || score[first] < score[second]) continue;
        for (std::int64_t c = 0; c < 2 * width; ++c) CHECK(got.heads(t, c) == doctest::Approx(want.heads(t, c)).epsilon(stage_tolerance<double>));
        for (std::int64_t n = 0; n < hidden; ++n) {
          double sum = static_cast<double>(bias(n, 0)), magnitude = std::fabs(sum);
          for (int const choice : {0, 1}) {
            auto const e = choice == 0 ? first : second;
            for (std::int64_t c = 0; c < width; ++c) {
              auto const term = score[e] / (score[first] + score[second]) * static_cast<double>(out(e * hidden + n, c)) * want.heads(t, choice * width + c);
              sum += term, magnitude += std::fabs(term);
            }
          }
          CHECK(std::fabs(got.out(t, n) - sum) <= stage_tolerance<double> * magnitude);
        }
      }
    }

  auto spoilt = x;
  auto const last = x.rows - 1;                          // no other token sees it
  spoilt(last, 3) = std::numeric_limits<double>::quiet_NaN();
  call_flags flags;
  auto const alone = run<mixed>(source, spoilt), flagged = run<mixed>(source, spoilt, &flags);
  CHECK(flags.not_finite == 1);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t n = 0; n < hidden; ++n) {
      CHECK(alone.out(t, n) == (t == last ? static_cast<double>(bias(n, 0)) : got.out(t, n)));
      CHECK(flagged.out(t, n) == alone.out(t, n));
    }
}
