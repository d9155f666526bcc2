// Rules on which published implementations disagree: the library's result is the reference's, and what each known mistake gives is not.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/glm.hpp>
#include <moesaic/config/rope.hpp>
#include <moesaic/host/combine.hpp>
#include <moesaic/host/linear.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/norm.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/rotary.hpp>
#include <moesaic/host/route.hpp>
#include <moesaic/route/balance.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/sparse_mixer.hpp>
#include <support/cache.hpp>
#include <support/compare.hpp>
#include <support/matrix.hpp>
#include <support/tolerance.hpp>

using namespace moesaic;
using namespace moesaic::test;

namespace {

using biases = std::vector<float>;

constexpr std::uint64_t seed = 20261;

double distance(matrix<double> const& got, matrix<double> const& want) { return compare<double, double>(got.view(), want.view()).worst; }

matrix<double> number(double x) {
  matrix<double> one(1, 1);
  one.data[0] = x;
  return one;
}

// ---- who is chosen, and with what weight: [tokens, experts], 0 for those not chosen ----

template <class Ids, class Weights>
matrix<double> by_expert(Ids const& ids, Weights const& weights, int experts) {
  matrix<double> all(ids.rows, experts);
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (ids(t, i) >= 0) all(t, static_cast<std::int64_t>(ids(t, i))) = static_cast<double>(weights(t, i));
  return all;
}

/// As a file has it.
matrix<double> expected(safetensors const& file, int experts, std::string const& which = "") {
  auto const ids = read_matrix<std::int64_t>(file, "expect.topk_index" + which);
  return by_expert(ids, read_matrix<double>(file, "expect.topk_weight" + which), experts);
}

template <class T>
struct chosen {
  matrix<std::int32_t> ids;
  matrix<T> weights;
};

/// As the library has it. `bias` [experts] is used where the configuration says so.
template <class Policy = routing::standard, class T>
chosen<T> choose(router_config const& c, matrix<T> const& logits, biases const& bias = {}, typename Policy::state const& state = {}) {
  auto const tokens = logits.rows;
  matrix<T> scores(tokens, c.experts), choice(tokens, c.experts);
  chosen<T> made{{tokens, c.top_k}, {tokens, c.top_k}};
  std::vector<std::int32_t> count(static_cast<std::size_t>(tokens));
  auto const bytes = batch_bytes_of<Policy>(c, tokens);
  std::vector<std::max_align_t> memory(static_cast<std::size_t>(bytes) / sizeof(std::max_align_t) + 1);
  std::int32_t not_finite = 0;
  host::pool pool;
  auto const added = c.score_bias ? list<const float>(bias) : list<const float>{};
  host::route<Policy>(pool, c, state, logits.view(), added, scores.view(), choice.view(),
                      routing_slots<T>{made.ids.view(), made.weights.view(), count}, {reinterpret_cast<std::byte*>(memory.data()), bytes},
                      &not_finite);
  CHECK(not_finite == 0);
  return made;
}
template <class Policy = routing::standard, class T>
matrix<double> weights_of(router_config const& c, matrix<T> const& logits, biases const& bias = {},
                          typename Policy::state const& state = {}) {
  auto const made = choose<Policy>(c, logits, bias, state);
  return by_expert(made.ids, made.weights, c.experts);
}

/// By the definition: sorted by score + bias, of equal ones the lower expert.
matrix<double> by_hand(router_config const& c, matrix<double> const& logits, biases const& bias = {}) {
  matrix<double> all(logits.rows, c.experts);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    std::vector<double> s(static_cast<std::size_t>(c.experts)), worth = s;
    std::vector<std::size_t> order(s.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    double sum = 0;
    for (auto const e : order) {
      auto const z = logits(t, static_cast<std::int64_t>(e));
      sum += s[e] = c.score == score::sigmoid ? 1 / (1 + std::exp(-z)) : std::exp(z);
    }
    for (auto const e : order) {
      if (c.score == score::softmax) s[e] /= sum;
      worth[e] = s[e] + (bias.empty() ? 0.0 : static_cast<double>(bias[e]));
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return worth[a] > worth[b]; });
    order.resize(static_cast<std::size_t>(c.top_k));
    double of_chosen = 0;
    for (auto const e : order) of_chosen += s[e];
    for (auto const e : order) all(t, static_cast<std::int64_t>(e)) = c.routed_scale * s[e] / (c.renormalize ? of_chosen : 1.0);
  }
  return all;
}

/// A file's router logits, what its router is to do with them, and what comes of it.
struct router_case {
  safetensors file;
  router_config config;
  matrix<double> logits, want;
  biases bias;

  router_case(std::string const& name, router_config const& c, std::string const& which = "")
      : file(oracle_path(name)),
        config(c),
        logits(read_matrix<double>(file, "expect.router_logits")),
        want(expected(file, c.experts, which)) {
    if (c.score_bias) bias = read<float>(file, "weight.mlp.gate.e_score_correction_bias");
  }
  /// How far the library's weights are from the file's, or those under a configuration changed.
  template <class Change>
  double far(bool changed, Change&& change) const {
    auto c = config;
    if (changed) change(c);
    return distance(weights_of(c, logits, bias), want);
  }
};

constexpr router_config v2{.experts = 12, .top_k = 4, .groups = 4, .top_groups = 3, .group_worth = group_worth::max, .routed_scale = 16};
constexpr router_config v3{.experts = 12, .top_k = 3, .score = score::sigmoid, .groups = 4, .top_groups = 2,
                           .group_worth = group_worth::top2_sum, .renormalize = true, .routed_scale = 2.5, .score_bias = true};
constexpr router_config ungrouped_v3{.experts = 32, .top_k = 4, .score = score::sigmoid, .renormalize = true, .routed_scale = 2.5,
                                     .score_bias = true};
router_case of_v2() { return {"deepseek_v2.block", v2}; }
router_case of_v3() { return {"deepseek_v3.block", v3}; }
router_case of_negative_choices() { return {"deepseek_v3_trap.router", v3, ".reference"}; }
router_case of_mixtral() { return {"mixtral.block", {.experts = 8, .top_k = 2, .renormalize = true}}; }
router_case of_hunyuan() { return {"hunyuan_v1_moe.block", {.experts = 8, .top_k = 3, .renormalize = true}}; }
void not_renormalised(router_config& c) { c.renormalize = false; }

/// Weights from what the choice was made by: the biased scores, or those with the bias taken off again.
struct from_biased : routing::standard {
  struct state {
    list<const float> bias;
    bool taken_off = false;
  };
  template <class T, class Group>
  static void weigh(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* scores, std::int32_t const* ids,
                    int count, T* weights) {
    std::vector<T> changed(static_cast<std::size_t>(c.experts));
    for (int e = 0; e < c.experts; ++e) {
      auto const bias = static_cast<T>(s.bias[e]);
      T const choice = scores[e] + bias;
      changed[static_cast<std::size_t>(e)] = s.taken_off ? choice - bias : choice;
    }
    routing::standard::weigh(c, g, s, token, changed.data(), ids, count, weights);
  }
};

/// Scores, and the logits they are of, in bf16.
struct in_bf16 : routing::standard {
  template <class T, class Group>
  static void score(router_config const& c, Group const& g, state const& s, std::int64_t token, T const* logits, T* scores) {
    std::vector<T> rounded(logits, logits + c.experts);
    for (auto& z : rounded) z = static_cast<T>(static_cast<bf16>(z));
    routing::standard::score(c, g, s, token, rounded.data(), scores);
    for (int e = 0; e < c.experts; ++e) scores[e] = static_cast<T>(static_cast<bf16>(scores[e]));
  }
};

double biased_weights_far(bool mutant) {
  auto const x = of_v3();
  return distance(mutant ? weights_of<from_biased>(v3, x.logits, x.bias, {x.bias}) : weights_of(v3, x.logits, x.bias), x.want);
}

/// Scores around 1e-8, and biases around 12.
double tiny_weights_far(bool mutant) {
  constexpr auto c = ungrouped_v3;
  random_stream random(seed);
  auto logits = random_matrix<float>(20, c.experts, random);
  for (auto& z : logits.data) z -= 18;
  biases bias;
  for (int e = 0; e < c.experts; ++e) bias.push_back(12 + 0.01f * static_cast<float>(e * 7 % c.experts));
  auto const want = by_hand(c, convert<double>(logits), bias);
  return distance(mutant ? weights_of<from_biased>(c, logits, bias, {bias, true}) : weights_of(c, logits, bias), want);
}

/// So many choices of random logits in fp32 that some hang on bits that bf16 does not have.
double close_choices_far(bool narrow_scores, bool narrow_bias) {
  constexpr auto c = ungrouped_v3;
  random_stream random(seed);
  auto const logits = random_matrix<float>(1000, c.experts, random);
  biases bias;
  for (int e = 0; e < c.experts; ++e) bias.push_back(0.1f * random.normal());
  auto const want = by_hand(c, convert<double>(logits), bias);
  if (narrow_bias)
    for (auto& b : bias) b = static_cast<float>(static_cast<bf16>(b));
  return distance(narrow_scores ? weights_of<in_bf16>(c, logits, bias) : weights_of(c, logits, bias), want);
}

/// The logits of a router whose input is bf16.
double bf16_logits_far(bool rounded) {
  safetensors const file(oracle_path("deepseek_v3.block"));
  auto const x = read_matrix<bf16>(file, "expect.bf16.ffn_norm");
  auto const w = convert<float>(convert<bf16>(read_matrix<float>(file, "weight.mlp.gate.weight")));
  packed_matrix m{.stored = dtype::fp32, .outputs = w.rows, .inputs = w.columns};
  host::buffer memory(static_cast<std::size_t>(packed::bytes(m)));
  host::pack<dtype::fp32>(m, 0, [&](int, std::int64_t output, float* row) { std::copy_n(&w(output, 0), w.columns, row); }, memory.data());
  m.data = memory.data();
  matrix<float> y(x.rows, w.rows);
  host::pool pool;
  host::linear<dtype::fp32>(pool, m, x.view(), list<const float>{}, y.view());
  auto const got = rounded ? convert<double>(convert<bf16>(y)) : convert<double>(y);
  return distance(got, read_matrix<double>(file, "expect.bf16.router_logits"));
}

router_config without_groups(router_config c) {
  c.groups = c.top_groups = 1;
  return c;
}
double gathered_weights_far(bool mutant) {
  auto const x = of_v2();
  auto const own = choose(v2, x.logits), before = choose(without_groups(v2), x.logits);
  return distance(by_expert(own.ids, mutant ? before.weights : own.weights, v2.experts), x.want);
}
double ignored_renormalisation_far(bool mutant) {
  auto const logits = of_v2().logits;
  auto c = without_groups(v2);
  c.renormalize = true;
  auto const want = by_hand(c, logits);
  c.renormalize = !mutant;
  return distance(weights_of(c, logits), want);
}
double jamba_far(bool mutant) {
  router_config c{.experts = 16, .top_k = 2};
  random_stream random(seed);
  auto const logits = random_matrix<double>(20, c.experts, random);
  auto const want = by_hand(c, logits);
  c.renormalize = mutant;
  return distance(weights_of(c, logits), want);
}
double phi_far(bool mutant) {
  router_case const x("phimoe.block", {.experts = 8, .top_k = 2});
  routing::sparse_mixer<>::state state;
  state.epsilon = 0.3f;
  if (!mutant) return distance(weights_of<routing::sparse_mixer<>>(x.config, x.logits, {}, state), x.want);
  return x.far(true, [](router_config& c) { c.position = score_position::after_top_k; });
}

// ---- attention ----

struct attention_case {
  const char* file;
  const char* values;
  int heads, kv_heads, key_dim, value_dim;

  double far(double scale, bool tiled) const {
    safetensors const oracle(oracle_path(file));
    auto const of_kv_heads = [&](std::string const& stage, int width) {   // some files have keys and values once a query head
      auto const all = read_matrix<double>(oracle, stage);
      matrix<double> y(all.rows, std::int64_t{kv_heads} * width);
      for (std::int64_t t = 0; t < y.rows; ++t) std::copy_n(&all(t, 0), y.columns, &y(t, 0));
      return y;
    };
    attention_batch<double> batch{read_matrix<double>(oracle, "expect.q_rope"), of_kv_heads("expect.k_rope", key_dim),
                                  of_kv_heads(values, value_dim), {}, read<std::int32_t>(oracle, "input.positions")};
    batch.sequence.resize(batch.position.size(), 0);
    owning_cache const cache(dtype::fp64, 1, kv_heads, key_dim, static_cast<int>(batch.q.rows), {batch.position[0]}, value_dim);
    matrix<double> out(batch.q.rows, std::int64_t{heads} * value_dim);
    attention_rule const rule{.scale = scale, .tiled_kv = tiled};
    host::pool pool;
    auto done = host::append<double, dtype::fp64>(pool, cache.view, batch.k.view(), batch.v.view(), batch.sequence, batch.position);
    if (done) done = host::attend<double, dtype::fp64>(pool, rule, cache.view, batch.q.view(), batch.sequence, batch.position, out.view());
    if (!done) throw error(to_string(done));
    return distance(out, read_matrix<double>(oracle, "expect.attn_heads"));
  }
};
constexpr attention_case jetmoe{"jetmoe.block", "expect.v_heads", 4, 2, 8, 8}, llama{"llama.block", "expect.v", 6, 2, 10, 10},
    latent_v2{"deepseek_v2.block", "expect.v_heads", 4, 4, 18, 10};
double plain_scale(attention_case const& a) { return attention_scale({}, a.key_dim); }
/// What the layers of DeepSeek-V2 multiply the plain scale by; the file has its context's factor and mscale.
double factor_of_v2() {
  constexpr auto c = presets::deepseek_v2::layer::config;
  return attention_scale(c.attention, shapes(c).key_dim) / attention_scale({}, shapes(c).key_dim);
}

// ---- rotary frequencies, each relative to the reference's ----

constexpr rope_scaling yarn_v3{.kind = rope_scaling_kind::yarn, .factor = 40, .original_positions = 4096, .magnitude = 1};
constexpr rope_scaling yarn_gpt_oss{.kind = rope_scaling_kind::yarn, .factor = 32, .original_positions = 4096, .rounded = false};

double rope_far(const char* table, double theta, rope_scaling scaling, bool rounded) {
  safetensors const file(oracle_path("functions.rope"));
  auto const frequencies = read<double>(file, std::string(table) + ".inv_freq");
  scaling.rounded = rounded;
  attention_config const config{.rope_theta = theta, .scaling = scaling};
  double worst = 0;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    auto const got = rope_frequency(config, 2 * static_cast<int>(frequencies.size()), static_cast<int>(i));
    auto const error = std::fabs(got / frequencies[i] - 1);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

/// Pairs (1, 0) of a text of 4100 tokens, of which some stand early, turned in one call or, by a mutant, each by how far it reaches itself.
double longrope_far(bool each_by_itself) {
  safetensors const file(oracle_path("functions.rope"));
  auto const frequencies = read<double>(file, "longrope_long.inv_freq");
  auto const pairs = static_cast<std::int64_t>(frequencies.size());
  attention_config config{.scaling = {.kind = rope_scaling_kind::longrope, .factor = 8, .original_positions = 4096}};
  for (std::int64_t i = 0; i < pairs; ++i) {            // as the file's metadata has them
    auto const n = static_cast<double>(i);
    config.scaling.factors.value[config.scaling.factors.count++] = 1.0 + 0.05 * n;
    config.scaling.long_factors.value[config.scaling.long_factors.count++] = 1.0 + 0.9 * n * n / 8;
  }
  std::vector<std::int32_t> const positions{5, 100, 4099};
  auto const magnitude = rope_magnitude(config);
  matrix<double> x(3, 2 * pairs), want = x;
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t i = 0; i < pairs; ++i) {
      auto const angle = positions[static_cast<std::size_t>(t)] * frequencies[static_cast<std::size_t>(i)];
      x(t, i) = 1, want(t, i) = magnitude * std::cos(angle), want(t, pairs + i) = magnitude * std::sin(angle);
    }
  std::vector<std::int32_t> const sequences{0, each_by_itself ? 1 : 0, each_by_itself ? 2 : 0};
  host::pool pool;
  host::rotate<double>(pool, config, static_cast<int>(2 * pairs), positions, x.view(), 1, sequences);
  return distance(x, want);
}

// ---- order of roundings at bf16: the share of values with other bits ----

double other_bits(matrix<bf16> const& got, matrix<bf16> const& want) {
  double count = 0;
  for (std::size_t i = 0; i < want.data.size(); ++i) count += got.data[i].bits != want.data[i].bits ? 1 : 0;
  return got.data.size() == want.data.size() ? count / static_cast<double>(want.data.size()) : std::numeric_limits<double>::infinity();
}

matrix<bf16> normalized(norm_cast cast, double epsilon, matrix<bf16> const& x, std::vector<float> const& weight) {
  matrix<bf16> y(x.rows, x.columns);
  host::pool pool;
  host::normalize<bf16>(pool, {.epsilon = epsilon, .cast = cast}, {weight, {}}, x.view(), y.view());
  return y;
}

/// Llama rounds before the weight: the shipped code's bits.
double llama_norm_far(norm_cast cast) {
  safetensors const file(oracle_path("llama.block"));
  auto const weight = convert<float>(read_matrix<bf16>(file, "weight.input_layernorm.weight"));
  auto const x = read_matrix<bf16>(file, "input.x");
  return other_bits(normalized(cast, 1e-5, x, weight.data), read_matrix<bf16>(file, "expect.bf16.attn_norm"));
}

/// gpt-oss and Grok-1 round after it: once, from double.
double late_norm_far(const char* block, const char* name, norm_cast cast) {
  safetensors const file(oracle_path(block));
  auto const x = convert<bf16>(read_matrix<float>(file, "input.x"));
  auto const weight = read<float>(file, name);
  matrix<bf16> want(x.rows, x.columns);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double square = 0;
    for (std::int64_t c = 0; c < x.columns; ++c) square += static_cast<double>(x(t, c)) * static_cast<double>(x(t, c));
    auto const length = std::sqrt(square / static_cast<double>(x.columns) + 1e-5);
    for (std::int64_t c = 0; c < x.columns; ++c) {
      auto const w = static_cast<double>(weight[static_cast<std::size_t>(c)]);
      want(t, c) = static_cast<bf16>(static_cast<float>(static_cast<double>(x(t, c)) / length * w));
    }
  }
  return other_bits(normalized(cast, 1e-5, x, weight), want);
}

/// Mixtral's combine weights stay in fp32 while what they multiply is bf16.
double combined_far(bool weights_cast) {
  safetensors const file(oracle_path("mixtral.block"));
  auto const weights = convert<float>(read_matrix<double>(file, "expect.topk_weight"));
  auto given = weights;
  if (weights_cast)
    for (auto& w : given.data) w = static_cast<float>(static_cast<bf16>(w));
  auto const tokens = weights.rows, slots = weights.columns;
  matrix<bf16> out(tokens * slots, 0);
  out.data = convert<bf16>(read_matrix<double>(file, "expect.expert_out")).data;
  out.columns = static_cast<std::int64_t>(out.data.size()) / out.rows;
  matrix<std::int32_t> slot(tokens, slots);
  std::iota(slot.data.begin(), slot.data.end(), 0);
  matrix<bf16> got(tokens, out.columns), want = got;
  host::pool pool;
  host::combine<bf16>(pool, static_cast<matrix<bf16> const&>(out).view(), static_cast<matrix<std::int32_t> const&>(slot).view(),
                      static_cast<matrix<float> const&>(given).view(), {}, {}, {}, got.view());
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t c = 0; c < out.columns; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < slots; ++i) sum += static_cast<double>(weights(t, i)) * static_cast<double>(out(slot(t, i), c));
      want(t, c) = static_cast<bf16>(static_cast<float>(sum));
    }
  return other_bits(got, want);
}

// ---- Switch: room for a token, and what becomes of one that finds none ----

struct switch_case {
  static constexpr router_config config{.experts = 5, .top_k = 1};
  safetensors file{oracle_path("switch_drop.block")};
  matrix<double> logits = read_matrix<double>(file, "expect.router_logits");

  chosen<double> under(routing::capacity_rule const& rule) const {
    routing::capacity<>::state state;
    state.capacity = rule;
    return choose<routing::capacity<>>(config, logits, {}, state);
  }
  double far(routing::capacity_rule const& rule) const {
    auto want = expected(file, config.experts);
    auto const kept = read<std::int64_t>(file, "expect.kept");
    for (std::int64_t t = 0; t < want.rows; ++t)
      for (int e = 0; e < config.experts; ++e) want(t, e) *= static_cast<double>(kept[static_cast<std::size_t>(t)]);
    auto const got = under(rule);
    return distance(by_expert(got.ids, got.weights, config.experts), want);
  }
  double output_far(bool passed_through) const {
    auto const all = choose<routing::standard>(config, logits);
    auto const got = under(routing::absolute_capacity(4));
    auto const out = read_matrix<double>(file, "expect.expert_out"), x = read_matrix<double>(file, "expect.ffn_norm");
    auto slot = got.ids;
    for (std::int64_t t = 0; t < slot.rows; ++t)
      if (slot(t, 0) >= 0) slot(t, 0) = static_cast<std::int32_t>(t);
    matrix<double> y(out.rows, out.columns);
    host::pool pool;
    auto const& slots = slot;
    host::combine<double>(pool, out.view(), slots.view(), got.weights.view(), {}, {}, {}, y.view());
    for (std::int64_t t = 0; t < y.rows && passed_through; ++t)
      for (std::int64_t c = 0; c < y.columns; ++c)
        if (slot(t, 0) < 0) y(t, c) = all.weights(t, 0) * x(t, c);
    return distance(y, read_matrix<double>(file, "expect.moe_out"));
  }
  double balance_far(bool dropped_as_first) const {
    auto ids = choose<routing::standard>(config, logits).ids;
    if (dropped_as_first) {
      ids = under(routing::absolute_capacity(4)).ids;
      for (auto& id : ids.data) id = std::max(id, 0);
    }
    std::vector<std::int64_t> counts(static_cast<std::size_t>(config.experts));
    balance::choices chosen{counts};
    if (auto const done = balance::count_chosen(ids.view(), config.experts, {}, chosen); !done) throw error(to_string(done));
    auto const loss = balance::load_balance<double>(score::softmax, logits.view(), {}, chosen, 1, 1.0);
    if (!loss.done) throw error(to_string(loss.done));
    return distance(number(loss.value), read_matrix<double>(file, "expect.load_balance"));
  }
};

// ---- balance losses ----

/// Of top-2 routing, over all layers together, or one layer's as load_balance has it.
double balance_of(std::vector<matrix<double>> const& layers, bool pooled) {
  auto const experts = static_cast<int>(layers.front().columns);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(experts));
  balance::choices chosen{counts};
  std::vector<view<const double>> logits;
  for (auto const& z : layers) {
    logits.push_back(z.view());
    auto const ids = choose<routing::standard>({.experts = experts, .top_k = 2}, z).ids;
    if (auto const done = balance::count_chosen(ids.view(), experts, {}, chosen); !done) throw error(to_string(done));
  }
  auto const loss = pooled ? balance::pooled_balance<double>(logits, {}, chosen, 1.0)
                           : balance::load_balance<double>(score::softmax, logits.front(), {}, chosen, 2, 1.0);
  if (!loss.done) throw error(to_string(loss.done));
  return loss.value;
}

double mixtral_balance_far(bool pooled) {
  safetensors const file(oracle_path("mixtral.gradient"));
  auto const loss = balance_of({read_matrix<double>(file, "expect.router_logits")}, pooled);
  return distance(number(loss), read_matrix<double>(file, "expect.load_balance"));
}

/// Every expert chosen as often as any other, by scores that are all but equal: Switch's loss is 1 there.
double even_balance_far(bool pooled) {
  constexpr int experts = 6;
  matrix<double> logits(experts, experts);
  for (int t = 0; t < experts; ++t) logits(t, t) = 2e-13, logits(t, (t + 1) % experts) = 1e-13;
  return distance(number(balance_of({logits}, pooled)), number(1));
}

/// E Σ f P of a model, f and P over the rows of all layers.
double layers_balance_far(bool pooled) {
  random_stream random(seed);
  constexpr int experts = 6;
  constexpr std::int64_t tokens = 15;
  std::vector<matrix<double>> layers{random_matrix<double>(tokens, experts, random), random_matrix<double>(tokens, experts, random)};
  for (std::int64_t t = 0; t < tokens; ++t) layers[0](t, 1) += 3, layers[1](t, 4) += 3;   // each layer has a favourite of its own
  std::vector<double> f(experts), p(experts);
  for (auto const& z : layers)
    for (std::int64_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (int e = 0; e < experts; ++e) sum += std::exp(z(t, e));
      for (int e = 0; e < experts; ++e) {
        int larger = 0;
        for (int other = 0; other < experts; ++other) larger += z(t, other) > z(t, e);
        f[static_cast<std::size_t>(e)] += larger < 2 ? 0.5 / tokens : 0;
        p[static_cast<std::size_t>(e)] += 0.5 / tokens * std::exp(z(t, e)) / sum;
      }
    }
  auto const want = experts * std::inner_product(f.begin(), f.end(), p.begin(), 0.0);
  auto const got = pooled ? balance_of(layers, true) : (balance_of({layers[0]}, true) + balance_of({layers[1]}, true)) / 2;
  return distance(number(got), number(want));
}

// ---- the table ----

/// Both run every time: how far the library's result lies from the reference's, and how far that of a mutant that falls into the trap.
struct trap {
  const char* name;
  double allowed;                ///< of the library
  double at_least;               ///< of the mutant: far beyond what is allowed
  double (*far)(bool mutant);
};

void check(trap const& t, double library, double mutant) {
  INFO(std::string(t.name));
  CHECK(library <= t.allowed);
  CHECK(std::isfinite(mutant));
  CHECK(mutant >= t.at_least);
  CHECK(t.at_least >= 10 * t.allowed);
}

constexpr double exact = oracle_tolerance<double>, in_float = routing_tolerance<float>;
constexpr double few = 0x1p-7, many = 0x1p-3;   // share of other bits: where a float's last bit decides a rounding; of a rounding more

trap const traps[] = {
    // DeepSeek's routing
    {"experts of other groups masked with 0, not −∞", exact, 0.1,
     [](bool mutant) { return of_negative_choices().far(mutant, [](router_config& c) { c.group_mask = group_mask::zero; }); }},
    {"weights of the scores with their selection bias", exact, 0.01, biased_weights_far},
    {"weights of the biased scores less the bias", in_float, 0.5, tiny_weights_far},
    {"router logits rounded to bf16 with the activations", stage_tolerance<float>, 5e-4, bf16_logits_far},
    {"other experts, of scores in bf16", in_float, 0.1, [](bool mutant) { return close_choices_far(mutant, false); }},
    {"other experts, of a selection bias in bf16", in_float, 0.1, [](bool mutant) { return close_choices_far(false, mutant); }},
    {"a selection bias only where hidden is 7168", exact, 0.1,
     [](bool mutant) {
       auto const hidden = read_matrix<float>(of_v3().file, "input.x").columns;
       return of_v3().far(mutant && hidden != 7168, [](router_config& c) { c.score_bias = false; });
     }},
    {"DeepSeek-V2's groups by the sum of their two best", exact, 0.1,
     [](bool mutant) { return of_v2().far(mutant, [](router_config& c) { c.group_worth = group_worth::top2_sum; }); }},
    {"DeepSeek-V3's groups by their best", exact, 0.1,
     [](bool mutant) { return of_v3().far(mutant, [](router_config& c) { c.group_worth = group_worth::max; }); }},
    {"DeepSeek-V2's score scale without the square of YaRN's factor", exact, 0.01,
     [](bool mutant) { return latent_v2.far(plain_scale(latent_v2) * (mutant ? 1 : factor_of_v2()), false); }},
    {"DeepSeek-V2's weights gathered from the choice before its limit on groups", exact, 0.01, gathered_weights_far},
    {"renormalisation asked of DeepSeek-V2 and ignored", exact, 0.1, ignored_renormalisation_far},
    {"no scale after renormalisation", exact, 0.1,
     [](bool mutant) { return of_v3().far(mutant, [](router_config& c) { c.routed_scale = 1; }); }},

    // Renormalisation
    {"Mixtral not renormalised", exact, 0.1, [](bool mutant) { return of_mixtral().far(mutant, not_renormalised); }},
    {"Hunyuan not renormalised", exact, 0.1, [](bool mutant) { return of_hunyuan().far(mutant, not_renormalised); }},
    {"Jamba renormalised", exact, 0.1, jamba_far},
    {"Phi-3.5-MoE weighed by a softmax over its two logits", exact, 0.01, phi_far},

    // Switch
    {"the capacity of a factor, where a number is given", exact, 0.1,
     [](bool mutant) { return switch_case().far(mutant ? routing::mesh_capacity(1.25, 0, 0) : routing::absolute_capacity(4)); }},
    {"the capacity of a factor rounded up", exact, 0.1,   // 23 tokens · 0.9 / 5 experts is 4 rounded down, as many as the file's
     [](bool mutant) {
       auto const up = routing::megatron_capacity(0.9, routing::drop_order::first_choices);
       return switch_case().far(mutant ? up : routing::mesh_capacity(0.9, 0, 0));
     }},
    {"a dropped token passed through with its probability", exact, 0.1, [](bool mutant) { return switch_case().output_far(mutant); }},
    {"dropped tokens counted as the first expert's in the balance loss", exact, 0.01,
     [](bool mutant) { return switch_case().balance_far(mutant); }},
    {"a pooled balance loss as the mean of its layers'", exact, 0.1, [](bool mutant) { return layers_balance_far(!mutant); }},
    {"HuggingFace's balance loss, k at balance, as Switch's", exact, 0.1, [](bool mutant) { return mixtral_balance_far(!mutant); }},
    {"Switch's balance loss, 1 at balance, as HuggingFace's", exact, 0.1, [](bool mutant) { return even_balance_far(mutant); }},

    // Attention, norms and roundings
    {"DeepSeek's YaRN with borders as they come", exact, 0.01,
     [](bool mutant) { return rope_far("yarn_deepseek_v3", 1e4, yarn_v3, !mutant); }},
    {"gpt-oss's YaRN with rounded borders", exact, 0.01, [](bool mutant) { return rope_far("yarn_gpt_oss", 1.5e5, yarn_gpt_oss, mutant); }},
    {"LongRoPE's short list for the early tokens of a long text", exact, 0.1, longrope_far},
    {"Llama's norm rounded after its weight", few, many,
     [](bool mutant) { return llama_norm_far(mutant ? norm_cast::after_weight : norm_cast::before_weight); }},
    {"gpt-oss's norm rounded before its weight", few, many,
     [](bool mutant) {
       return late_norm_far("gpt_oss.block", "weight.input_layernorm.weight", mutant ? norm_cast::before_weight : norm_cast::after_weight);
     }},
    {"Grok-1's norm rounded before its weight", few, many,
     [](bool mutant) { return late_norm_far("grok1.block", "weight.attn_norm.weight", mutant ? norm_cast::before_weight : norm_cast::after_weight); }},
    {"JetMoE's kv heads grouped", exact, 0.1, [](bool mutant) { return jetmoe.far(plain_scale(jetmoe), !mutant); }},
    {"Llama's kv heads tiled", exact, 0.1, [](bool mutant) { return llama.far(plain_scale(llama), mutant); }},
    {"combine weights rounded to bf16", few, many, [](bool mutant) { return combined_far(mutant); }},
};

// Not in the table, because this library has one way where others have two. Qwen's and OLMoE's classes round combine weights to the
// activations' type; here they stay fp32 for every model, as Mixtral's. DeepSeek's own code runs the router in bf16; here it is fp32 for
// every model. Megatron sums the best top_k / top_groups of a group, which are two in DeepSeek-V2 and V3 alike; the papers' two rules are
// the ones here.
static_assert(presets::glm_4_5::layer::config.router.score_bias && presets::glm_4_5::layer::config.hidden != 7168);
static_assert(presets::glm_4_5::layer::config.router.groups == 1);   // so that no mask, of −∞ or of 0, has anything to do there

}  // namespace

TEST_CASE("the library is right where a mutant falls into the trap") {
  for (auto const& t : traps) {
    auto const library = t.far(false), mutant = t.far(true);
    MESSAGE(std::string(t.name) << ": " << library << " of " << t.allowed << ", the mutant " << mutant);
    check(t, library, mutant);
  }
}
TEST_CASE("a library that falls into a trap fails" * doctest::should_fail()) { check(traps[0], traps[0].far(true), traps[0].far(true)); }
TEST_CASE("a mutant that is none fails" * doctest::should_fail()) { check(traps[0], traps[0].far(false), traps[0].far(false)); }

TEST_CASE("disagreements that change nothing: a softmax before or after top-k, and a mask of 0 where all scores are positive") {
  auto const softmax_after = [](router_config& c) { c.renormalize = false, c.position = score_position::after_top_k; };
  CHECK(of_mixtral().far(true, softmax_after) <= exact);
  CHECK(of_v2().far(true, [](router_config& c) { c.group_mask = group_mask::zero; }) <= exact);
}
