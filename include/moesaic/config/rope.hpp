// Rotary embedding: a configuration to the radians that each pair of a head turns by a position.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>

#include <moesaic/base/status.hpp>
#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// Pairs of a head at most: heads of up to 512.
inline constexpr int most_rope_pairs = 256;

/// Throws where a head cannot be turned.
inline void check_rope(int head_dim) {
  if (head_dim <= 0 || head_dim % 2 != 0 || head_dim > 2 * most_rope_pairs)
    throw error(
        "rotary embedding: head_dim must be even and at most 512, because elements turn in pairs and their sines are kept on the stack; "
        "found " +
        std::to_string(head_dim));
}

/// θ^(−2 pair / head_dim) (RoPE, arXiv:2104.09864), then the scaling:
///   linear   divided by factor
///   llama3   by wavelength λ = 2π / frequency: kept below original / high_freq_factor, divided by factor above
///            original / low_freq_factor, a linear blend in original / λ between (Llama 3.1's rope_scaling)
inline double rope_frequency(attention_config const& config, int head_dim, int pair) {
  constexpr auto two_pi = 6.283185307179586476925;
  auto const& scaling = config.scaling;
  auto const plain = std::pow(config.rope_theta, -2.0 * pair / head_dim);
  auto keep = 1.0;  // 1 = as it is, 0 = divided by factor
  if (scaling.kind == rope_scaling_kind::linear) keep = 0.0;
  if (scaling.kind == rope_scaling_kind::llama3) {
    auto const turns = scaling.original_positions * plain / two_pi;  // of the original context: original / λ
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    keep = keep < 0.0 ? 0.0 : keep > 1.0 ? 1.0 : keep;
  }
  return keep == 1.0 ? plain : (1.0 - keep) * plain / scaling.factor + keep * plain;
}

}  // namespace moesaic
