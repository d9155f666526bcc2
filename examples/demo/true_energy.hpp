// What a perfect router would know: the energy that each routed expert would add, for every token, before the real router decides.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <moesaic/moesaic.hpp>

#include "carved_model.hpp"
#include "carved_policies.hpp"

namespace demo {

/// Computes all experts of every layer once more, which a router is there to avoid: a bound, not a method. Pass it to decoder::forward as
/// its tap, and `energies()` in the state of `supplied_scores` (the tap runs before the layer routes, into the same memory every time).
template <class Model>
class true_energy {
 public:
  using decoder = moesaic::decoder<Model>;
  using spec = moesaic::first_spec<typename Model::layers>;
  static constexpr auto shape = moesaic::shapes(spec::config);
  static constexpr std::int64_t experts = shape.experts, width = shape.intermediate, hidden = shape.hidden;

  /// source: the carved_source that `weights` were loaded from. tokens: the most that a call will have. `where` and `weights` must outlive
  /// this.
  template <class Source>
  true_energy(host::pool& where, Source const& source, carved_model const& model, moesaic::decoder_weights const& weights, int tokens)
      : where_(where), weights_(weights), h_(index(tokens * experts * width)), scores_(index(tokens * experts)),
        token_of_slot_(index(tokens * experts)) {
    for (std::size_t l = 0; l < model.layers.size(); ++l) {
      std::vector<double> squares(index(experts * width));
      for (std::int64_t e = 0; e < experts; ++e) {
        auto const prefix = "model.layers." + std::to_string(l) + ".mlp.experts." + std::to_string(e);
        auto const down = elements<float>(source, prefix + ".down_proj.weight");   // [hidden, width]
        for (std::int64_t i = 0; i < hidden * width; ++i) squares[index(e * width + i % width)] += std::pow(down[index(i)], 2);
      }
      for (auto& s : squares) s /= static_cast<double>(model.layers[l].unit);
      reach_.push_back(std::move(squares));
    }
  }

  /// [tokens, experts] of the layer that runs: the logarithm, in the unit of the router's logits.
  view<const float> energies() const { return {scores_.data(), std::ssize(scores_) / experts, experts}; }

  template <class X>
  void operator()(moesaic::tap_point at, view<const X> x) {
    if constexpr (std::is_same_v<X, float>)
      if (at.stage == moesaic::stage::ffn_norm) score(at.layer, x);
  }

 private:
  void score(int layer, view<const float> x) {
    auto const tokens = x.rows;
    std::int32_t whole[experts + 1];
    for (std::int64_t e = 0; e <= experts; ++e) whole[e] = static_cast<std::int32_t>(e * tokens);
    for (std::int64_t slot = 0; slot < experts * tokens; ++slot) token_of_slot_[index(slot)] = static_cast<std::int32_t>(slot % tokens);
    auto const h = view<float>{h_.data(), experts * tokens, width};
    auto const& ffn = weights_.layers[index(layer)].ffn.experts;
    host::expert_gate_up<shape.ffn_format.type>(where_, activation_rule_of(spec::config.expert), ffn.gate_up, ffn.gate_up_bias, x, whole,
                                                token_of_slot_.data(), h);
    where_.for_each(experts * tokens, [&](std::int64_t slot) {
      auto const e = slot / tokens, t = slot % tokens;
      double energy = 0;
      for (std::int64_t i = 0; i < width; ++i) energy += std::pow(h(slot, i), 2) * reach_[index(layer)][index(e * width + i)];
      scores_[index(t * experts + e)] = static_cast<float>(std::log(std::max(energy, 1e-12)));
    });
  }

  host::pool& where_;
  moesaic::decoder_weights const& weights_;
  std::vector<std::vector<double>> reach_;               // [layers][experts · width] squared lengths of the columns of down, in the unit
  std::vector<float> h_, scores_;
  std::vector<std::int32_t> token_of_slot_;
};

}  // namespace demo
