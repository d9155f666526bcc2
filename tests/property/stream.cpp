// What surrounds attention and feed-forward: norms where a configuration puts them, factors, and a mixture carried over a layer. A tap's attention
// and feed-forward are taken as they are; all around them is computed again in plain loops.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/random_source.hpp>
#include <moesaic/moesaic.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

using rows = matrix<double>;
constexpr std::uint64_t seed = 20261124;
constexpr std::int64_t tokens = 5, hidden = 24;
constexpr storage_config exact{.weights = dtype::fp32, .activations = dtype::fp64};
constexpr attention_config attended{.heads = 2, .head_dim = 8};

struct sandwiched {
  static constexpr block_config config{.hidden = hidden, .attention = attended, .router = {.experts = 4, .top_k = 2}, .expert = {.intermediate = 12},
                                       .shared = {.intermediate = 8, .sigmoid_gate = true}, .norm = {.epsilon = 1e-3, .weight_offset = 1},
                                       .norms = norm_placement::sandwich, .residual_scale = 0.22, .storage = exact};
};
struct followed {
  static constexpr block_config config{.hidden = hidden, .attention = attended, .expert = {.intermediate = 12},
                                       .norm = {.kind = norm_kind::layer, .epsilon = 1e-3, .bias = true}, .norms = norm_placement::post,
                                       .residual_scale = 0.6, .storage = exact};
};
struct opening {
  static constexpr block_config config{.hidden = hidden, .attention = attended, .router = {.experts = 5, .top_k = 2},
                                       .expert = {.intermediate = 12, .copy = 1}, .shared = {.intermediate = 8, .sigmoid_gate = true},
                                       .residual_scale = 0.5, .shortcut = shortcut::opens, .storage = exact};
};
struct closing {
  static constexpr block_config config{.hidden = hidden, .attention = attended, .expert = {.intermediate = 12}, .residual_scale = 0.7,
                                       .shortcut = shortcut::closes, .storage = exact};
};

struct model {
  static constexpr decoder_config config{.vocabulary = 19, .norm = {.epsilon = 1e-3, .weight_offset = 1}, .embedding_scale = 4.5, .logit_scale = 0.5,
                                         .logit_softcap = 0.75, .embedding = dtype::fp32};
  using layers = moesaic::layers<repeat<pattern<opening, closing>, 2>, sandwiched>;
};

/// Every stage of every layer.
struct recorder {
  std::map<stage, rows> of_layer[8];
  template <class X>
  void operator()(tap_point at, view<const X> v) {
    if constexpr (std::is_same_v<X, double>) {
      rows copy(v.rows, v.columns);
      for (std::int64_t r = 0; r < v.rows; ++r)
        for (std::int64_t c = 0; c < v.columns; ++c) copy(r, c) = v(r, c);
      of_layer[at.layer][at.stage] = copy;
    }
  }
};

/// A tensor as the random source makes it.
std::vector<float> made(std::string const& name, std::initializer_list<std::int64_t> shape) {
  random_source const source{seed};
  auto const* t = source.make(name, shape);
  std::vector<float> values(static_cast<std::size_t>(t->bytes / 4));
  widen(*t, 0, static_cast<std::int64_t>(values.size()), values.data());
  return values;
}

rows normalized(norm_config const& c, std::string const& name, rows const& x) {
  auto const weight = made(name + ".weight", {x.columns}), bias = c.bias ? made(name + ".bias", {x.columns}) : std::vector<float>();
  auto y = x;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double mean = 0, square = 0;
    auto const n = static_cast<double>(x.columns);
    if (c.kind == norm_kind::layer)
      for (std::int64_t i = 0; i < x.columns; ++i) mean += x(t, i) / n;
    for (std::int64_t i = 0; i < x.columns; ++i) square += (x(t, i) - mean) * (x(t, i) - mean) / n;
    for (std::int64_t i = 0; i < x.columns; ++i) {
      auto const at = static_cast<std::size_t>(i);
      y(t, i) = (x(t, i) - mean) / std::sqrt(square + c.epsilon) * (static_cast<double>(weight[at]) + c.weight_offset) +
                (c.bias ? static_cast<double>(bias[at]) : 0.0);
    }
  }
  return y;
}
rows sum(rows const& a, double scale, rows const& b) {
  auto y = a;
  for (std::size_t i = 0; i < y.data.size(); ++i) y.data[i] += scale * b.data[i];
  return y;
}
/// x through a matrix [outputs, inputs] of the source.
rows through(std::string const& name, std::int64_t outputs, rows const& x) {
  auto const w = made(name, {outputs, x.columns});
  rows y(x.rows, outputs);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t n = 0; n < outputs; ++n)
      for (std::int64_t k = 0; k < x.columns; ++k) y(t, n) += static_cast<double>(w[static_cast<std::size_t>(n * x.columns + k)]) * x(t, k);
  return y;
}
void check_same(rows const& got, rows const& want) {
  auto const found = compare(got.view(), want.view());
  CHECK_MESSAGE(found.worst <= stage_tolerance<double>, to_string(found));
}

std::vector<std::int32_t> const sequence(tokens, 0), position{0, 1, 2, 3, 4};

rows input() {
  random_stream random(seed);
  return random_matrix<double>(tokens, hidden, random);
}

/// One layer alone.
template <class Spec>
rows forward(recorder& seen, rows const& x, std::string const& prefix, view<double> carried = {}) {
  using layer = block<Spec>;
  host::pool where;
  auto const weights = layer::load(where, random_source{seed}, prefix);
  auto const cache = layer::make_cache(where, 1, 8);
  host::buffer workspace{layer::template workspace_bytes<recorder>(tokens)};
  rows y(tokens, hidden);
  auto const done = layer::forward(where, weights, {x.view(), sequence, position, carried}, cache, y.view(), workspace, {}, seen);
  CHECK_MESSAGE(done, to_string(done));
  return y;
}

}  // namespace

TEST_CASE("sandwich: a norm before and after each half, whose weight has an offset; what is added is scaled") {
  recorder tap;
  auto const x = input(), y = forward<sandwiched>(tap, x, "");
  auto& seen = tap.of_layer[0];
  constexpr auto c = sandwiched::config;
  auto const before = normalized(c.norm, "input_layernorm", x);
  check_same(seen[stage::attn_norm], before);
  check_same(seen[stage::q], through("self_attn.q_proj.weight", 16, before));              // and that is what attention reads
  check_same(seen[stage::attn_post_norm], normalized(c.norm, "post_self_attn_layernorm", seen[stage::attn_out]));
  auto const residual = sum(x, c.residual_scale, seen[stage::attn_post_norm]);
  check_same(seen[stage::attn_residual], residual);
  check_same(seen[stage::ffn_norm], normalized(c.norm, "post_attention_layernorm", residual));
  check_same(seen[stage::router_logits], through("mlp.gate.weight", 4, seen[stage::ffn_norm]));
  check_same(seen[stage::ffn_out], sum(seen[stage::moe_out], 1, seen[stage::shared_out]));
  check_same(seen[stage::ffn_post_norm], normalized(c.norm, "post_feedforward_layernorm", seen[stage::ffn_out]));
  check_same(y, sum(residual, c.residual_scale, seen[stage::ffn_post_norm]));
}

TEST_CASE("post: attention and feed-forward read the stream itself, and a LayerNorm stands after each") {
  recorder tap;
  auto const x = input(), y = forward<followed>(tap, x, "");
  auto& seen = tap.of_layer[0];
  constexpr auto c = followed::config;
  CHECK(seen.count(stage::attn_norm) == 0);
  CHECK(seen.count(stage::ffn_norm) == 0);
  check_same(seen[stage::q], through("self_attn.q_proj.weight", 16, x));
  auto const residual = sum(x, c.residual_scale, normalized(c.norm, "post_self_attn_layernorm", seen[stage::attn_out]));
  check_same(seen[stage::attn_residual], residual);
  auto const gate = through("mlp.gate_proj.weight", 12, residual), up = through("mlp.up_proj.weight", 12, residual);
  rows activated(tokens, 12);
  for (std::size_t i = 0; i < activated.data.size(); ++i) activated.data[i] = silu(gate.data[i]) * up.data[i];
  check_same(seen[stage::ffn_out], through("mlp.down_proj.weight", hidden, activated));
  check_same(y, sum(residual, c.residual_scale, normalized(c.norm, "post_feedforward_layernorm", seen[stage::ffn_out])));
}

TEST_CASE("shortcut: the mixture is added a layer later; a decoder carries it, and a layer alone is given the rows") {
  using network = decoder<model>;
  host::pool where;
  auto const weights = network::load(where, random_source{seed});
  auto const cache = network::make_cache(where, 1, 8);
  host::buffer workspace{network::workspace_bytes<recorder>(tokens, tokens)};
  std::vector<std::int32_t> const ids{3, 18, 0, 7, 3};
  rows logits(tokens, 19);
  recorder tap;
  auto const done = network::forward(where, weights, {ids, sequence, position}, cache, every_token, logits.view(), workspace, {}, tap);
  REQUIRE_MESSAGE(done, to_string(done));

  auto const table = made("model.embed_tokens.weight", {19, hidden});
  rows stream(tokens, hidden);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t c = 0; c < hidden; ++c)
      stream(t, c) = 4.5 * static_cast<double>(table[static_cast<std::size_t>(ids[static_cast<std::size_t>(t)] * hidden + c)]);
  for (int const first : {0, 2}) {
    auto& opened = tap.of_layer[first];
    auto& closed = tap.of_layer[first + 1];
    auto const number = [](int layer) { return "model.layers." + std::to_string(layer) + "."; };
    check_same(opened[stage::attn_residual], sum(stream, 0.5, opened[stage::attn_out]));
    check_same(opened[stage::block_out], sum(opened[stage::attn_residual], 0.5, opened[stage::shared_out]));
    check_same(closed[stage::attn_residual], sum(opened[stage::block_out], 0.7, closed[stage::attn_out]));
    auto const without = sum(closed[stage::attn_residual], 0.7, closed[stage::ffn_out]);
    check_same(closed[stage::block_out], sum(without, 0.7, opened[stage::moe_out]));

    recorder alone;
    rows carried(tokens, hidden);
    auto const between = forward<opening>(alone, stream, number(first), carried.view());
    check_same(between, opened[stage::block_out]);
    check_same(carried, opened[stage::moe_out]);
    check_same(forward<closing>(alone, between, number(first + 1), carried.view()), closed[stage::block_out]);
    stream = closed[stage::block_out];
  }
  auto const final = normalized(model::config.norm, "model.norm", tap.of_layer[4][stage::block_out]);
  check_same(tap.of_layer[5][stage::final_norm], final);
  auto want = through("lm_head.weight", 19, final);
  for (auto& z : want.data) z = 0.75 * std::tanh(0.5 * z / 0.75);
  check_same(logits, want);

  // Without the rows to carry it in, a layer alone is refused before anything is written.
  auto const layer_weights = block<closing>::load(where, random_source{seed}, "");
  auto const layer_cache = block<closing>::make_cache(where, 1, 8);
  host::buffer memory{block<closing>::workspace_bytes(tokens)};
  rows y(tokens, hidden);
  auto const refused = block<closing>::forward(where, layer_weights, {stream.view(), sequence, position}, layer_cache, y.view(), memory);
  CHECK(refused.code == status_code::invalid_argument);
  CHECK(refused.expected == tokens);
  CHECK(refused.found == 0);
}

namespace {

/// Names of an oracle's weights, without their "weight."; the rows of experts that are none are cut off.
struct oracle_source {
  safetensors const& file;
  std::int64_t experts;
  mutable std::int64_t cut[3] = {};
  mutable tensor stacked = {};
  tensor const* find(std::string_view name) const {
    auto const* t = file.find("weight." + std::string(name));
    if (t == nullptr || name != "mlp.experts.gate_up_proj") return t;
    stacked = *t, cut[0] = experts, cut[1] = t->shape[1], cut[2] = t->shape[2], stacked.shape = {cut, 3};
    return &stacked;
  }
  std::string where(std::string_view) const { return "oracle"; }
};

// The sizes of longcat_flash.block.
constexpr attention_config latent{.heads = 4, .head_dim = 8, .value_dim = 10, .layout = rope_layout::interleaved,
                                  .latent = {.kv_rank = 20, .q_rank = 16, .rope_dim = 6, .epsilon = 1e-6,
                                             .q_scale = 1.4142135623730951, .kv_scale = 1.2649110640673518}};
struct longcat_opening {
  static constexpr block_config config{.hidden = 32, .attention = latent,
                                       .router = {.experts = 10, .top_k = 3, .routed_scale = 6, .score_bias = true},
                                       .expert = {.intermediate = 14, .copy = 4}, .shared = {.intermediate = 20},
                                       .shortcut = shortcut::opens, .storage = exact};
};
struct longcat_closing {
  static constexpr block_config config{.hidden = 32, .attention = latent, .expert = {.intermediate = 20}, .shortcut = shortcut::closes, .storage = exact};
};

}  // namespace

TEST_CASE("LongCat-Flash's layer is a mixture that opens and a dense layer that closes") {
  safetensors const file(oracle_path("longcat_flash.block"));
  oracle_source const source{file, 6};
  tensor_names names;
  names.sublayers = 2;
  names.attention_norm = {{"input_layernorm.{sublayer}.weight"}}, names.ffn_norm = {{"post_attention_layernorm.{sublayer}.weight"}};
  names.q_down = {{"self_attn.{sublayer}.q_a_proj"}}, names.q_down_norm = {{"self_attn.{sublayer}.q_a_layernorm.weight"}};
  names.q_up = {{"self_attn.{sublayer}.q_b_proj"}}, names.kv_down = {{"self_attn.{sublayer}.kv_a_proj_with_mqa"}};
  names.kv_down_norm = {{"self_attn.{sublayer}.kv_a_layernorm.weight"}}, names.kv_up = {{"self_attn.{sublayer}.kv_b_proj"}};
  names.out = {{"self_attn.{sublayer}.o_proj"}};
  names.gate = names.shared_gate_proj = {{"mlps.{sublayer}.gate_proj"}}, names.up = names.shared_up_proj = {{"mlps.{sublayer}.up_proj"}};
  names.down = names.shared_down_proj = {{"mlps.{sublayer}.down_proj"}};
  names.router = {{"mlp.router.classifier.weight"}}, names.score_bias = {{"mlp.router.e_score_correction_bias"}};

  auto const x = convert<double>(read_matrix<float>(file, "input.x"));
  std::vector<std::int32_t> at, of(static_cast<std::size_t>(x.rows), 0);
  for (auto const p : read<std::int64_t>(file, "input.positions")) at.push_back(static_cast<std::int32_t>(p));
  host::pool where;
  rows carried(x.rows, 32), between = x, y = x;
  recorder tap;
  auto const run = [&]<class Spec>(Spec, rows const& in, rows& out, int sublayer) {
    using layer = block<Spec>;
    auto const weights = layer::load(where, source, "", names, sublayer);
    auto const cache = layer::make_cache(where, 1, 64);
    host::buffer workspace{layer::template workspace_bytes<recorder>(in.rows)};
    auto const done = layer::forward(where, weights, {in.view(), of, at, carried.view()}, cache, out.view(), workspace, {}, tap);
    REQUIRE_MESSAGE(done, to_string(done));
  };
  run(longcat_opening{}, x, between, 0);
  for (auto const what : {stage::attn_norm, stage::attn_residual, stage::ffn_norm, stage::moe_out}) {
    CAPTURE(name(what));
    check_same(tap.of_layer[0][what], read_matrix<double>(file, "expect." + std::string(name(what))));
  }
  run(longcat_closing{}, between, y, 1);
  check_same(y, read_matrix<double>(file, "expect.block_out"));
}
