// Runs a block or a decoder on an oracle file, whole and token by token, on every level of this processor, and compares each stage.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
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
  std::int64_t keys = 0;  ///< columns of attn_probs; 0 = not wanted
  recording handed_on = {};
  recording seen = {};
  std::vector<sum> probabilities = {};

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
};

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
/// with an empty cache. `layers` of a decoder; 0 for a layer by itself.
template <class T, class MakeCall>
void check_run(safetensors const& file, int layers, std::int64_t tokens, host::pool& where, MakeCall&& make_call) {
  bool const of_decoder = layers > 0;
  auto const format = precision_of<T>(of_decoder ? run_tolerance<T>(layers) : stage_tolerance<T>);
  auto const handed = handed_on(file, format, of_decoder);
  auto const made = check_stages(file, record<T>({of_decoder, tokens, handed}, {tokens}, make_call()), format);
  CHECK(made.count > 0);
  MESSAGE(format.name << ", " << std::string(name(where.level())) << ": " << made.count << " stages compared, the farthest "
                      << made.worst_at << ", " << made.worst << " of what is allowed");

  std::int64_t const prefill = std::min<std::int64_t>(5, tokens);
  std::vector<std::int64_t> counts{prefill};
  for (auto t = prefill; t < tokens; ++t) counts.push_back(1);
  check_same(record<T>({of_decoder}, {tokens}, make_call()), record<T>({of_decoder}, counts, make_call()));
}

inline token_rows rows_of(std::vector<std::int32_t> positions) {
  return {std::vector<std::int32_t>(positions.size(), 0), std::move(positions)};
}

template <class Spec>
void check_block(std::string const& path) {
  using layer = block<Spec>;
  using scalar = typename layer::scalar;
  safetensors const file(path);
  auto const x = convert<scalar>(read_matrix<float>(file, "input.x"));
  auto const rows = rows_of(read<std::int32_t>(file, "input.positions"));
  REQUIRE(rows.count() == x.rows);
  REQUIRE(rows.count() > 0);
  oracle_weights const source(file, std::is_same_v<scalar, bf16>);
  at_every_level<scalar>([&](host::pool& where) {
    auto const weights = layer::load(where, source, "");
    host::buffer workspace{layer::template workspace_bytes<recorder<scalar>>(x.rows)};
    check_run<scalar>(file, 0, x.rows, where, [&] {
      auto cache = layer::make_cache(where, 1, static_cast<int>(x.rows));
      cache.set_first_position(0, rows.position[0]);
      return [&, cache = std::move(cache), y = x](recorder<scalar>& tap, std::int64_t first, std::int64_t count) mutable {
        return layer::forward(where, weights,
                              {{x.view().row(first), count, x.columns},
                               {&rows.sequence[static_cast<std::size_t>(first)], count},
                               {&rows.position[static_cast<std::size_t>(first)], count}},
                              cache, {y.view().row(first), count, x.columns}, workspace, {}, tap);
      };
    });
  });
  for (auto const& name : source.unread()) FAIL_CHECK("a weight that the configuration does not know of: " << name);
}

template <class Model, class Weights>
void check_decoder(safetensors const& file, host::pool& where, Weights const& weights) {
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
  check_run<scalar>(file, model::layers, tokens, where, [&] {
    auto caches = model::make_cache(where, 1, static_cast<int>(tokens));
    for (auto& cache : caches.of_layer) cache.set_first_position(0, rows.position[0]);
    matrix<typename model::sum> logits(tokens, model::config.vocabulary);
    return
        [&, caches = std::move(caches), logits = std::move(logits)](recorder<scalar>& tap, std::int64_t first, std::int64_t count) mutable {
          auto const from = static_cast<std::size_t>(first);
          return model::forward(where, weights, {{&ids[from], count}, {&rows.sequence[from], count}, {&rows.position[from], count}}, caches,
                                every_token, {logits.view().row(first), count, logits.columns}, workspace, no_states{}, tap);
        };
  });
}

template <class Model>
void check_decoder(std::string const& path) {
  using scalar = typename decoder<Model>::scalar;
  safetensors const file(path);
  oracle_weights const source(file, std::is_same_v<scalar, bf16>);
  at_every_level<scalar>([&](host::pool& where) { check_decoder<Model>(file, where, decoder<Model>::load(where, source)); });
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
        [&](host::pool& where) { check_decoder<Model>(expected, where, load<Model>(where, stored)); });
  }
}

}  // namespace moesaic::test
