// Runs a block or a decoder on an oracle file, whole and token by token, on every level of this processor, and compares each stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/config/layers.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/io/huggingface.hpp>
#include <moesaic/layer/decoder.hpp>

#include "stages.hpp"

namespace moesaic::test {

/// A tap that keeps everything; rows of several calls stand one below another. What `handed_on` has goes on in place of our own values.
template <class T>
struct recorder {
  using sum = accumulator<T>;
  bool of_decoder = false;
  std::int64_t keys = 0;  ///< columns of attn_probs; 0 = neither these nor expanded latents are wanted
  recording handed_on = {};
  recording seen = {};
  std::vector<sum> probabilities = {};
  std::vector<T> expanded = {};

  template <class X>
  void operator()(tap_point at, view<const X> values) {
    bool const of_layer = of_decoder && at.stage != stage::final_norm && at.stage != stage::logits;
    auto const stage = (of_layer ? "layers." + std::to_string(at.layer) + "." : "") + name(at.stage);
    auto& rows = seen[stage];
    rows.rows += values.rows;
    rows.columns = values.columns;
    for (std::int64_t r = 0; r < values.rows; ++r)
      for (std::int64_t c = 0; c < values.columns; ++c) rows.data.push_back(static_cast<double>(values(r, c)));

    auto const given = handed_on.find(stage);
    if (given == handed_on.end() || given->second.data.size() != rows.data.size()) return;
    for (std::int64_t r = 0; r < values.rows; ++r)
      for (std::int64_t c = 0; c < values.columns; ++c) {
        auto const value = given->second.data[static_cast<std::size_t>(r * values.columns + c)];
        const_cast<X&>(values(r, c)) = static_cast<X>(static_cast<accumulator<X>>(value));  // the workspace itself is not const
      }
  }
  view<sum> attention_probabilities(int heads, std::int64_t tokens) {
    if (keys == 0) return {};
    probabilities.resize(static_cast<std::size_t>(heads * tokens * keys));
    return {probabilities.data(), heads * tokens, keys};
  }
  view<T> expanded_latents(std::int64_t tokens, std::int64_t columns) {
    if (keys == 0) return {};
    expanded.resize(static_cast<std::size_t>(tokens * columns));
    return {expanded.data(), tokens, columns};
  }
};

/// Where an implementation keeps the elements of latent attention that turned together: side by side, or in two halves.
enum class pairs_shown : std::uint8_t { together, apart };

/// Adds stages that a file shows otherwise than a tap does: queries and keys of latent attention with what all heads share, pairs that an
/// implementation stores apart, values by their heads, norms head by head, capped scores before the mask.
inline void add_shown_otherwise(block_config const& config, pairs_shown pairs, recording& seen) {
  auto const s = shapes(config);
  auto const has = [&](const char* stage) { return seen.contains(stage); };
  if (config.attention.latent.kv_rank != 0 && has("kv_b") && has("q_rope") && has("k_rope")) {
    auto const q = seen.at("q_rope"), key = seen.at("k_rope"), up = seen.at("kv_b");
    int const dim = s.head_dim, turning = config.attention.latent.rope_dim, whole = dim + s.value_dim;
    auto const place = [&](int i) { return pairs == pairs_shown::apart ? 2 * (i % (turning / 2)) + i / (turning / 2) : i; };
    auto &q_rope = seen["q_rope"], &k_rope = seen["k_rope"] = matrix<double>(q.rows, q.columns);
    auto& values = seen["v_heads"] = matrix<double>(q.rows, std::int64_t{s.heads} * s.value_dim);
    for (std::int64_t t = 0; t < q.rows; ++t)
      for (int h = 0; h < s.heads; ++h) {
        for (int i = 0; i < dim; ++i) k_rope(t, h * s.key_dim + i) = up(t, h * whole + i);
        for (int i = 0; i < turning; ++i) {
          q_rope(t, h * s.key_dim + dim + i) = q(t, h * s.key_dim + dim + place(i));
          k_rope(t, h * s.key_dim + dim + i) = key(t, place(i));
        }
        for (int i = 0; i < s.value_dim; ++i) values(t, h * s.value_dim + i) = up(t, h * whole + dim + i);
      }
  } else if (has("v") && has("q") && has("k")) {
    auto const &q = seen.at("q"), &k = seen.at("k"), &v = seen.at("v");
    auto& all = seen["qkv"] = matrix<double>(q.rows, q.columns + k.columns + v.columns);
    for (std::int64_t t = 0; t < q.rows; ++t) {
      auto* to = &all(t, 0);
      for (auto const* part : {&q, &k, &v})
        for (std::int64_t c = 0; c < part->columns; ++c) *to++ = (*part)(t, c);
    }
    seen["v_heads"] = v;
    auto& kv = seen["kv"] = matrix<double>(q.rows, k.columns + v.columns);
    for (std::int64_t t = 0; t < q.rows; ++t) {
      std::copy_n(&k(t, 0), k.columns, &kv(t, 0));
      std::copy_n(&v(t, 0), v.columns, &kv(t, k.columns));
    }
    if (config.attention.softcap != 0 && has("q_rope") && has("k_rope")) {
      auto const &queries = seen.at("q_rope"), &keys = seen.at("k_rope");
      auto const rule = attention_rule_of(config.attention, attention_scale(config.attention, s.key_dim), {});
      auto& scores = seen["attn_scores"] = matrix<double>(s.heads * q.rows, q.rows);
      for (int h = 0; h < s.heads; ++h)
        for (std::int64_t t = 0; t < q.rows; ++t)
          for (std::int64_t j = 0; j < q.rows; ++j) {
            auto const *query = &queries(t, h * s.key_dim), *key = &keys(j, rule.kv_head(h, s.heads, s.kv_heads) * s.key_dim);
            double const cap = config.attention.softcap, scale = attention_scale(config.attention, s.key_dim);
            scores(h * q.rows + t, j) = cap * std::tanh(scale * std::inner_product(query, query + s.key_dim, key, 0.0) / cap);
          }
    }
    if (config.attention.tiled_kv)         // one after another, as often as there are groups of query heads
      for (auto const* stage : {"k_rope", "v_heads"}) {
        if (!has(stage)) continue;
        auto const once = seen.at(stage);
        auto& tiled = seen[stage] = matrix<double>(once.rows, once.columns * s.group);
        for (std::int64_t t = 0; t < once.rows; ++t)
          for (std::int64_t c = 0; c < tiled.columns; ++c) tiled(t, c) = once(t, c % once.columns);
      }
  }
  if (!config.attention.qk_norm_after_rope || config.attention.qk_norm != qk_norm::per_head) return;
  for (auto const& [norm, rope] : {std::pair{"q_norm", "q_rope"}, std::pair{"k_norm", "k_rope"}}) {
    if (!has(rope)) continue;
    auto const& rows = seen.at(rope);
    auto const heads = rows.columns / s.key_dim;
    auto& by_head = seen[norm] = matrix<double>(heads * rows.rows, s.key_dim);
    for (std::int64_t t = 0; t < rows.rows; ++t)
      for (std::int64_t c = 0; c < rows.columns; ++c) by_head(c / s.key_dim * rows.rows + t, c % s.key_dim) = rows(t, c);
  }
}

/// f(pool) for every level that this processor has; double has one code for all of them.
template <class T, class F>
void at_every_level(F&& f) {
  for (auto const level : {host::level::portable, host::level::avx2, host::level::avx512, host::level::avx512_bf16}) {
    if (level > (std::is_same_v<T, double> ? host::level::portable : host::detected_level())) break;
    INFO(std::string(name(level)));
    host::pool where(1, level);
    f(where);
  }
}

/// Tokens of a file: a sequence, whose positions need not start at 0.
struct token_rows {
  std::vector<std::int32_t> sequence, position;
  std::int64_t count() const { return static_cast<std::int64_t>(position.size()); }
};

/// What a file's configuration does not say in block_config's fields.
struct oracle_model {
  tensor_names names = {};
  pairs_shown pairs = pairs_shown::together;
  double epsilon = 0;                    ///< of a routing policy's state
};

inline tensor_names names_of(const char* model_type, const char* layer = nullptr) {
  auto names = tensor_names_of(model_type);
  if (layer != nullptr) names.layer = {{layer}};
  return names;
}

/// Everything a tap sees when the tokens come in calls of so many: call(recorder, first, count) -> status.
template <class T, class Call>
recording record(recorder<T> tap, std::vector<std::int64_t> const& counts, Call&& call) {
  std::int64_t first = 0;
  for (auto const count : counts) {
    auto const done = call(tap, first, count);
    INFO(to_string(done));
    REQUIRE(static_cast<bool>(done));
    first += count;
  }
  return tap.seen;
}

/// The stages of a whole forward are the file's; a prefill and then single tokens out of the cache give the same bits. `make_call()` begins
/// with an empty cache. `layers` of a decoder; 0 for a layer by itself. `config`: of a decoder that of any of its layers.
template <class T, class MakeCall>
void check_run(safetensors const& file, block_config const& config, oracle_model const& of, int layers, std::int64_t tokens,
               host::pool& where, MakeCall&& make_call) {
  bool const of_decoder = layers > 0;
  auto format = precision_of<T>(of_decoder ? run_tolerance<T>(layers) : oracle_tolerance<T>);
  // The shipped code at float32 may be further from the exact result than is usual: the file says how far.
  if (auto const shipped = file.metadata("largest_float32_difference"); of_decoder && std::is_same_v<T, float> && !shipped.empty())
    format.stages = shipped_tolerance(format.stages, std::stod(std::string(shipped)));
  format.clip = config.attention.qkv_clip;
  format.masked = std::int64_t{config.router.groups - config.router.top_groups} * (config.router.experts / config.router.groups);
  auto handed = handed_on(file, format, of_decoder);
  if (config.attention.latent.kv_rank != 0)
    for (auto const* shown_otherwise : {"q_rope", "k_rope", "kv_b"}) handed.erase(shown_otherwise);
  auto seen = record<T>({of_decoder, tokens, handed}, {tokens}, make_call());
  if (!of_decoder) add_shown_otherwise(config, of.pairs, seen);
  auto const made = check_stages(file, seen, format);
  CHECK(made.count > 0);
  MESSAGE(format.name << ", " << std::string(name(where.level())) << ": " << made.count << " stages compared, the farthest "
                      << made.worst_at << ", " << made.worst << " of what is allowed");

  std::int64_t const prefill = std::min<std::int64_t>(5, tokens);
  std::vector<std::int64_t> counts{prefill};
  for (auto t = prefill; t < tokens; ++t) counts.push_back(1);
  auto const whole = record<T>({of_decoder}, {tokens}, make_call()), by_token = record<T>({of_decoder}, counts, make_call());
  if (config.attention.latent.kv_rank == 0) check_same(whole, by_token);
  else check_near(whole, by_token, format.long_stages);  // a token alone is computed in another form than many
}

/// The state of a layer's routing policy.
template <class State>
State state_of(oracle_model const& of) {
  State state;
  if constexpr (requires { state.epsilon; }) state.epsilon = static_cast<float>(of.epsilon);
  return state;
}

inline token_rows rows_of(std::vector<std::int32_t> positions) {
  return {std::vector<std::int32_t>(positions.size(), 0), std::move(positions)};
}

template <class Spec>
void check_block(std::string const& path, oracle_model const& of = {}) {
  using layer = block<Spec>;
  using scalar = typename layer::scalar;
  safetensors const file(path);
  auto const x = convert<scalar>(read_matrix<float>(file, "input.x"));
  auto const rows = rows_of(read<std::int32_t>(file, "input.positions"));
  REQUIRE(rows.count() == x.rows);
  REQUIRE(rows.count() > 0);
  oracle_weights const source(file, std::is_same_v<scalar, bf16>);
  at_every_level<scalar>([&](host::pool& where) {
    auto const weights = layer::load(where, source, "", of.names);
    host::buffer workspace{layer::template workspace_bytes<recorder<scalar>>(x.rows)};
    auto const state = state_of<typename layer::policy_state>(of);
    check_run<scalar>(file, Spec::config, of, 0, x.rows, where, [&] {
      auto cache = layer::make_cache(where, 1, static_cast<int>(x.rows));
      cache.set_first_position(0, rows.position[0]);
      return [&, cache = std::move(cache), y = x](recorder<scalar>& tap, std::int64_t first, std::int64_t count) mutable {
        return layer::forward(where, weights,
                              {{x.view().row(first), count, x.columns},
                               {&rows.sequence[static_cast<std::size_t>(first)], count},
                               {&rows.position[static_cast<std::size_t>(first)], count}},
                              cache, {y.view().row(first), count, x.columns}, workspace, state, tap);
      };
    });
  });
  for (auto const& name : source.unread()) FAIL_CHECK("a weight that the configuration does not know of: " << name);
}

/// A file's tensors, but of a stack that has rows for experts that are no feed-forwards, which nobody reads, only the others.
struct feed_forwards_of {
  oracle_weights const& all;
  std::string_view stack;
  std::int64_t count;
  mutable std::vector<std::int64_t> shape = {};
  mutable tensor shorter = {};

  tensor const* find(std::string_view name) const {
    auto const* const found = all.find(name);
    if (found == nullptr || name != stack) return found;
    shorter = *found;
    shape.assign(found->shape.begin(), found->shape.end());
    shape[0] = count;
    shorter.shape = shape;
    return &shorter;
  }
  std::string where(std::string_view name) const { return all.where(name); }
};

/// Two layers as one, with a shortcut from the first over the second: the stages are those of the first, and what the second ends with.
template <class First, class Second>
void check_halves(std::string const& path, oracle_model const& of) {
  using first_layer = block<First>;
  using second_layer = block<Second>;
  using scalar = typename first_layer::scalar;
  safetensors const file(path);
  auto const x = convert<scalar>(read_matrix<float>(file, "input.x"));
  auto const rows = rows_of(read<std::int32_t>(file, "input.positions"));
  REQUIRE(rows.count() == x.rows);
  oracle_weights const stored(file, std::is_same_v<scalar, bf16>);
  feed_forwards_of const source{stored, of.names.stacked_gate_up.options[0], shapes(First::config).feed_forwards};
  at_every_level<scalar>([&](host::pool& where) {
    auto const first_weights = first_layer::load(where, source, "", of.names, 0);
    auto const second_weights = second_layer::load(where, source, "", of.names, 1);
    host::buffer workspace{std::max(first_layer::template workspace_bytes<recorder<scalar>>(x.rows),
                                    second_layer::template workspace_bytes<recorder<scalar>>(x.rows))};
    check_run<scalar>(file, First::config, of, 0, x.rows, where, [&] {
      auto first_cache = first_layer::make_cache(where, 1, static_cast<int>(x.rows));
      auto second_cache = second_layer::make_cache(where, 1, static_cast<int>(x.rows));
      first_cache.set_first_position(0, rows.position[0]), second_cache.set_first_position(0, rows.position[0]);
      return [&, first_cache = std::move(first_cache), second_cache = std::move(second_cache), between = x, carried = x,
              y = x](recorder<scalar>& tap, std::int64_t first, std::int64_t count) mutable {
        auto const part = [&](matrix<scalar>& all) { return view<scalar>(all.view().row(first), count, all.columns); };
        auto const from = static_cast<std::size_t>(first);
        batch<scalar> tokens{{x.view().row(first), count, x.columns},
                             {&rows.sequence[from], count},
                             {&rows.position[from], count},
                             part(carried)};
        auto const opened = first_layer::forward(where, first_weights, tokens, first_cache, part(between), workspace, {}, tap);
        if (!opened) return opened;
        tokens.x = part(between);
        recorder<scalar> second;
        auto const done = second_layer::forward(where, second_weights, tokens, second_cache, part(y), workspace, {}, second);
        auto const& ends = second.seen.at("block_out");
        auto& shown = tap.seen.at("block_out");
        std::copy(ends.data.begin(), ends.data.end(), shown.data.end() - static_cast<std::ptrdiff_t>(ends.data.size()));
        return done;
      };
    });
  });
  for (auto const& name : stored.unread()) FAIL_CHECK("a weight that the configuration does not know of: " << name);
}

template <class Model, class Weights>
void check_decoder(safetensors const& file, host::pool& where, Weights const& weights, oracle_model const& of) {
  using model = decoder<Model>;
  using scalar = typename model::scalar;
  auto const ids = read<std::int32_t>(file, "input.ids");
  REQUIRE(!ids.empty());
  auto positions = std::vector<std::int32_t>(ids.size());
  for (std::size_t t = 0; t < ids.size(); ++t) positions[t] = static_cast<std::int32_t>(t);
  if (file.find("input.positions") != nullptr) positions = read<std::int32_t>(file, "input.positions");
  auto const rows = rows_of(positions);
  auto const tokens = rows.count();
  REQUIRE(tokens == static_cast<std::int64_t>(ids.size()));
  host::buffer workspace{model::template workspace_bytes<recorder<scalar>>(tokens, tokens)};
  auto const state = state_of<typename policy_of<first_spec<typename model::layer_list>>::state>(of);
  check_run<scalar>(file, model::first, of, model::layers, tokens, where, [&] {
    auto caches = model::make_cache(where, 1, static_cast<int>(tokens));
    for (auto& cache : caches.of_layer) cache.set_first_position(0, rows.position[0]);
    matrix<typename model::sum> logits(tokens, model::config.vocabulary);
    return
        [&, caches = std::move(caches), logits = std::move(logits)](recorder<scalar>& tap, std::int64_t first, std::int64_t count) mutable {
          auto const from = static_cast<std::size_t>(first);
          return model::forward(where, weights, {{&ids[from], count}, {&rows.sequence[from], count}, {&rows.position[from], count}}, caches,
                                every_token, {logits.view().row(first), count, logits.columns}, workspace, state, tap);
        };
  });
}

template <class Model>
void check_decoder(std::string const& path, oracle_model const& of = {}) {
  using scalar = typename decoder<Model>::scalar;
  safetensors const file(path);
  oracle_weights const source(file, std::is_same_v<scalar, bf16>);
  at_every_level<scalar>([&](host::pool& where) { check_decoder<Model>(file, where, decoder<Model>::load(where, source, of.names), of); });
  for (auto const& name : source.unread()) FAIL_CHECK("a weight that the configuration does not know of: " << name);
}

/// A model folder with its expect.safetensors, read as a user reads it, under each form of its configuration.
template <class Model>
void check_checkpoint(std::string const& folder, std::vector<std::string> const& config_files) {
  safetensors const expected(folder + "/expect.safetensors");
  for (auto const& config_file : config_files) {
    CAPTURE(config_file);
    checkpoint const stored(folder, config_file);
    at_every_level<typename decoder<Model>::scalar>(
        [&](host::pool& where) { check_decoder<Model>(expected, where, load<Model>(where, stored), {}); });
  }
}

}  // namespace moesaic::test
