// Parameters and training tokens into a loss, by a published law, and two losses into what a mixture saves. An extrapolation, and says so.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include <moesaic/base/constant_math.hpp>
#include <moesaic/cost/parameters.hpp>

namespace moesaic {

/// Krajewski et al. 2024, "Scaling Laws for Fine-Grained Mixture of Experts", arXiv 2402.07871. Fitted (RMSE 0.015) on C4, on models of
/// 129 M to 3.7 B parameters at expansion 64, routed by expert choice: everything else is extrapolation. Losses are in nats a token of its
/// vocabulary.
///
/// Granularity G: experts are 1 / G as wide as the dense feed-forward, and a token uses G of them. Expansion E: parameters of all experts
/// over those of the dense feed-forward, so that there are G · E experts.
///
/// The trap: `total` is the parameters of *all* experts and of attention, embeddings left out, (4 + 8 E) d² a block. Read as active
/// parameters, the law would have a mixture lose to a dense model everywhere.
namespace krajewski {

inline constexpr double fitted_expansion = 64, fitted_from = 129e6, fitted_to = 3.7e9;
inline constexpr double irreducible = 0.47;                                                  // loss of infinite models on infinite text
inline constexpr double dense_size = 16.3, dense_size_power = 0.126, dense_text = 26.7, dense_text_power = 0.127;

constexpr double moe_loss(double total, double tokens, double granularity) {
  using constant_math::pow;
  return irreducible + (2.1 / pow(granularity, 0.58) + 18.1) / pow(total, 0.115) + 30.8 / pow(tokens, 0.147);
}
constexpr double dense_loss(double parameters, double tokens) {
  using constant_math::pow;
  return irreducible + dense_size / pow(parameters, dense_size_power) + dense_text / pow(tokens, dense_text_power);
}

/// Parameters of all experts and attention for `active` ones (12 d² a block).
constexpr double total_of(double active, double expansion = fitted_expansion) { return active * (4 + 8 * expansion) / 12; }

/// Parameters of the dense model that reaches a loss on so many tokens; infinite where no size does.
constexpr double dense_parameters(double loss, double tokens) {
  auto const rest = loss - irreducible - dense_text / constant_math::pow(tokens, dense_text_power);
  return rest > 0 ? constant_math::pow(dense_size / rest, 1 / dense_size_power) : std::numeric_limits<double>::infinity();
}
/// FLOPs of training the dense model that reaches a loss with the fewest, size and tokens chosen for it: 6 · parameters · tokens, where
/// both terms of the law fall alike, a A / N^a = b B / D^b.
constexpr double dense_flops(double loss) {
  auto const a = dense_size_power, b = dense_text_power, rest = loss - irreducible;
  return 6 * constant_math::pow(dense_size * (a + b) / (rest * b), 1 / a) * constant_math::pow(dense_text * (a + b) / (rest * a), 1 / b);
}

/// FLOPs of a token's training in a block of width d: 6 · 12 d² of matrices, and 14 · d E G of routing (the paper's constants).
constexpr double block_flops(double d, double expansion, double granularity) { return 72 * d * d + 14 * d * expansion * granularity; }
/// How much of that is routing: what makes a mixture of tiny width not worth its while.
constexpr double router_share(double d, double expansion, double granularity) {
  return 14 * d * expansion * granularity / block_flops(d, expansion, granularity);
}

/// The mixture that reaches the least loss with so many FLOPs: width (with a block for every 64 of it, as in the paper), tokens,
/// granularity.
struct optimum {
  double loss = 0, width = 0, tokens = 0, granularity = 0;
};
constexpr optimum moe_optimum(double flops, double expansion = fitted_expansion) {
  optimum best{.loss = std::numeric_limits<double>::infinity()};
  for (double granularity = 1; granularity <= 128; granularity *= 2) {
    auto const at = [&](double log_width) {
      auto const d = constant_math::exp(log_width), tokens = flops / (d / 64 * block_flops(d, expansion, granularity));
      return optimum{moe_loss(total_of(12 * d * d * d / 64, expansion), tokens, granularity), d, tokens, granularity};
    };
    double low = constant_math::log(64), high = constant_math::log(1e6);   // the loss has one minimum in between: thirds close in on it
    for (int i = 0; i < 24; ++i) {
      auto const left = low + (high - low) / 3, right = high - (high - low) / 3;
      if (at(left).loss < at(right).loss) high = right;
      else low = left;
    }
    if (auto const found = at(low); found.loss < best.loss) best = found;
  }
  return best;
}

}  // namespace krajewski

/// A trained mixture beside dense models of the same loss, by a law. Embeddings are left out everywhere.
struct savings {
  double loss = 0;
  double dense_parameters = 0;         ///< of the dense model with that loss after as many tokens; infinite where none has it
  double at_same_tokens = 0;           ///< its training FLOPs over the mixture's, 6 · parameters · tokens each
  double at_best_tokens = 0;           ///< the same for the dense model that needs the fewest FLOPs
  double expansion = 0;                ///< the mixture's; the law knows 64 alone, and undervalues a mixture of fewer experts
  bool extrapolated = true;            ///< outside what the law was fitted on
};
constexpr savings saved_training(double total, double active, double tokens, double granularity) {
  savings s;
  s.loss = krajewski::moe_loss(total, tokens, granularity);
  s.dense_parameters = krajewski::dense_parameters(s.loss, tokens);
  s.at_same_tokens = s.dense_parameters / active;
  s.at_best_tokens = krajewski::dense_flops(s.loss) / (6 * active * tokens);
  s.expansion = (12 * total / active - 4) / 8;   // total_of, solved for it
  auto const of_fitted = s.expansion / krajewski::fitted_expansion;
  s.extrapolated = total < krajewski::fitted_from || total > krajewski::fitted_to || of_fitted < 0.9 || of_fitted > 1.1;
  return s;
}
/// Of a model: granularity is how many experts a token uses.
template <decoder_spec Model>
constexpr savings saved_training(double tokens) {
  auto const count = parameters<Model>();
  int granularity = 1;
  for (auto const& layer : layer_configs<Model>)
    if (layer.router.experts > 0) granularity = layer.router.top_k;
  return saved_training(static_cast<double>(count.layers), static_cast<double>(count.layers_active), tokens, granularity);
}

}  // namespace moesaic
