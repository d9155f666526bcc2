// A dense checkpoint and a text -> carvings of all its layers, one layer in memory at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <moesaic/moesaic.hpp>

#include "carved_model.hpp"

namespace demo {

namespace detail {

inline void must(moesaic::status const& done) {
  if (!done) throw moesaic::error(to_string(done));
}

/// A tap that keeps the feed-forward's inputs: the next rows of `into` [tokens, hidden].
struct keep_ffn_inputs {
  float* into;
  template <class X>
  void operator()(moesaic::tap_point at, view<const X> values) const {
    if constexpr (std::is_same_v<X, float>)
      if (at.stage == moesaic::stage::ffn_norm)
        for (std::int64_t t = 0; t < values.rows; ++t) std::copy_n(values.row(t), values.columns, into + t * values.columns);
  }
};

}  // namespace detail

/// Carves every layer of a dense model in each of the given ways. ids [windows · window]: each window is a text of its own. Spec: its
/// layer, dense, with fp32 weights and activations. progress(layer) is called after each layer. Throws moesaic::error.
/// Deterministic, whatever the threads of `where`.
template <class Spec, moesaic::tensor_source Source, class Progress>
std::vector<carved_model> carve_model(host::pool& where, Source const& source, int layers, list<const std::int32_t> ids, int window,
                                      std::vector<carving> const& ways, Progress&& progress) {
  using block = moesaic::block<Spec>;
  constexpr auto shape = moesaic::shapes(Spec::config);
  static_assert(shape.dense && std::is_same_v<typename block::scalar, float>, "carving starts from a dense layer in fp32");
  constexpr std::int64_t hidden = shape.hidden, intermediate = shape.intermediate;
  constexpr int together = 4;          // windows of one call
  auto const tokens = ids.size;

  std::vector<float> stream(index(tokens * hidden)), x(index(tokens * hidden)), strength(index(tokens * intermediate));
  auto const* const embedding = source.find("model.embed_tokens.weight");
  if (embedding == nullptr) throw moesaic::error(source.where("") + ": expected model.embed_tokens.weight, found none of that name");
  for (std::int64_t t = 0; t < tokens; ++t) moesaic::widen(*embedding, ids[t] * hidden, hidden, &stream[index(t * hidden)]);
  std::vector<std::int32_t> sequence, position;
  for (std::int32_t s = 0; s < together; ++s)
    for (std::int32_t p = 0; p < window; ++p) {
      sequence.push_back(s);
      position.push_back(p);
    }
  auto const cache = block::make_cache(where, together, window);
  auto const scratch = allocate(where, block::template workspace_bytes<detail::keep_ffn_inputs>(together * window));
  auto const memory = list<std::byte>{scratch.data(), static_cast<std::int64_t>(scratch.size())};

  std::vector<carved_model> models(ways.size());
  for (std::size_t i = 0; i < ways.size(); ++i) models[i].widths = ways[i].widths;
  for (int l = 0; l < layers; ++l) {
    auto const prefix = "model.layers." + std::to_string(l) + ".";
    auto const weights = block::load(where, source, prefix);
    moesaic::block_weights const& w = weights;

    double log_energy = 0;
    for (std::int64_t first = 0; first < tokens; first += together * window) {
      auto const n = std::min<std::int64_t>(together * window, tokens - first);
      auto* const rows = &stream[index(first * hidden)];
      auto const y = view<float>{rows, n, hidden};
      detail::must(block::forward(where, w, {y, {sequence.data(), n}, {position.data(), n}}, cache, y, memory, {},
                                  detail::keep_ffn_inputs{&x[index(first * hidden)]}));
      for (std::int64_t t = 0; t < n; ++t) {
        double energy = 0;
        for (std::int64_t k = 0; k < hidden; ++k) energy += static_cast<double>(y(t, k)) * y(t, k);
        log_energy += std::log(energy);
      }
    }

    auto const inputs = view<float>{x.data(), tokens, hidden};
    auto const neurons = view<float>{strength.data(), tokens, intermediate};
    std::int32_t const whole[] = {0, static_cast<std::int32_t>(tokens)};
    host::expert_gate_up<shape.ffn_format.type>(where, activation_rule_of(Spec::config.expert), w.ffn.experts.gate_up, w.ffn.experts.gate_up_bias,
                                                view<const float>(inputs), whole, nullptr, neurons);
    std::vector<double> squares(index(intermediate));
    auto const down = elements<float>(source, prefix + "mlp.down_proj.weight");          // [hidden, intermediate]
    for (std::size_t i = 0; i < down.size(); ++i) squares[i % squares.size()] += static_cast<double>(down[i]) * down[i];
    std::vector<float> reach;
    for (auto const s : squares) reach.push_back(static_cast<float>(std::sqrt(s)));
    where.for_each(tokens, [&](std::int64_t t) {
      for (std::int64_t i = 0; i < intermediate; ++i) neurons(t, i) = std::abs(neurons(t, i)) * reach[index(i)];
    });

    ridge const fit(where, inputs);
    for (std::size_t i = 0; i < ways.size(); ++i) {
      auto way = ways[i];
      way.seed += static_cast<std::uint64_t>(l);
      models[i].layers.push_back(carve_layer(fit, neurons, std::exp(log_energy / static_cast<double>(tokens)), way));
    }
    progress(l);
  }
  return models;
}

}  // namespace demo
