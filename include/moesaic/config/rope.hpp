// Rotary embedding: a configuration to the radians that each pair of a head turns by a position, and its length after.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// Pairs of a head at most: 512 elements.
inline constexpr int most_rope_pairs = 256;

/// Throws where `turning` elements of a head cannot turn.
inline void check_rope(int turning) {
  if (turning <= 0 || turning % 2 != 0 || turning > 2 * most_rope_pairs)
    throw_error({"rotary embedding: the elements of a head that turn (rotary_dim, or head_dim) must be even and at most 512, because they turn in "
                 "pairs, whose sines are kept on the stack; found ", turning});
}

/// f = θ^(−2 pair / turning) (RoPE, arXiv:2104.09864) of a head of which `turning` elements turn, then the scaling:
///   linear    divided by factor
///   llama3    by wavelength λ = 2π / f: kept below original / high_freq_factor, divided by factor above original / low_freq_factor, a linear
///             blend in original / λ between (Llama 3.1's rope_scaling)
///   yarn      by pair: kept up to the pair that turns beta_fast times in the original context, divided by factor from the one that turns
///             beta_slow times on, a linear blend in the pair's number between (arXiv:2309.00071)
///   ntk       of θ · factor^(turning / (turning − 2))
///   longrope  divided by the pair's own factor (arXiv:2402.13753): of long_factors where `beyond`, a text longer than original_positions
inline double rope_frequency(attention_config const& config, int turning, int pair, bool beyond = false) {
  constexpr auto two_pi = 6.283185307179586476925;
  auto const& scaling = config.scaling;
  auto const theta = scaling.kind == rope_scaling_kind::ntk ? config.rope_theta * std::pow(scaling.factor, turning / (turning - 2.0)) : config.rope_theta;
  auto const plain = std::pow(theta, -2.0 * pair / turning);
  auto const at_most_1 = [](double x) { return x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x; };
  auto keep = 1.0;  // 1 = as it is, 0 = divided by factor
  switch (scaling.kind) {
    case rope_scaling_kind::none:
    case rope_scaling_kind::ntk: break;
    case rope_scaling_kind::linear: keep = 0.0; break;
    case rope_scaling_kind::llama3: {
      auto const turns = scaling.original_positions * plain / two_pi;  // of the original context: original / λ
      auto const band = scaling.high_freq_factor - scaling.low_freq_factor;
      keep = band > 0 ? at_most_1((turns - scaling.low_freq_factor) / band) : turns < scaling.low_freq_factor ? 0.0 : 1.0;
      break;
    }
    case rope_scaling_kind::yarn: {
      auto const pair_of = [&](double turns) { return turning * std::log(scaling.original_positions / (turns * two_pi)) / (2.0 * std::log(theta)); };
      auto low = pair_of(scaling.beta_fast), high = pair_of(scaling.beta_slow);
      if (scaling.rounded) low = std::floor(low), high = std::ceil(high);
      low = low < 0.0 ? 0.0 : low, high = high > turning - 1.0 ? turning - 1.0 : high;
      keep = 1.0 - at_most_1((pair - low) / (high != low ? high - low : 0.001));
      break;
    }
    case rope_scaling_kind::longrope: return plain / (beyond && !scaling.long_factors.empty() ? scaling.long_factors : scaling.factors).value[pair];
  }
  return keep == 1.0 ? plain : (1.0 - keep) * plain / scaling.factor + keep * plain;
}

/// The frequencies that a layer keeps, of its pairs: [pairs], or where long texts have their own, those and then these, [2 · pairs].
inline void rope_frequencies(attention_config const& config, int turning, list<double> into) {
  check_rope(turning);
  auto const pairs = turning / 2;
  for (int i = 0; i < static_cast<int>(into.size); ++i) into[i] = rope_frequency(config, turning, i % pairs, i >= pairs);
}

/// What cosines and sines are multiplied by, and with them every rotated element.
inline double rope_magnitude(attention_config const& config, bool beyond = false) {
  auto const& scaling = config.scaling;
  if (auto const given = beyond && !scaling.long_factors.empty() ? scaling.long_magnitude : scaling.magnitude; given != 0.0) return given;
  if (scaling.kind == rope_scaling_kind::yarn) return 0.1 * std::log(scaling.factor) + 1.0;
  if (scaling.kind == rope_scaling_kind::longrope) return std::sqrt(1.0 + std::log(scaling.factor) / std::log(scaling.original_positions));
  return 1.0;
}

/// Elements of a head that turn: its first.
constexpr int turning_elements(attention_config const& config, int head_dim) { return config.rotary_dim != 0 ? config.rotary_dim : head_dim; }

}  // namespace moesaic
