// Positions into queries and keys: pairs of elements turned by position · frequency (RoPE, arXiv:2104.09864).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/rope.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/parts.hpp>

namespace moesaic::host::in_double {
#include <moesaic/host/simd/rotary.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/rotary.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

/// Radians a position for each pair that turns, made once at set-up. Sum is double, or float (float and bf16 activations).
template <class Sum>
struct rope_table {
  static constexpr int max_pairs = most_rope_pairs;

  rope_layout layout = rope_layout::half_split;
  int pairs = 0;     ///< the first 2 · pairs elements of a head turn
  int head_dim = 0;  ///< from one head to the next
  Sum magnitude = 1; ///< on cosines and sines
  Sum frequency[max_pairs] = {};
};

/// Frequencies as config/rope.hpp has them, computed in double and rounded once. Throws where the elements that turn are odd or above 512.
template <class Sum>
rope_table<Sum> make_rope_table(attention_config const& config, int head_dim) {
  auto const turning = turning_elements(config, head_dim);
  check_rope(turning);
  rope_table<Sum> result{config.layout, turning / 2, head_dim, static_cast<Sum>(rope_magnitude(config)), {}};
  for (int i = 0; i < result.pairs; ++i) result.frequency[i] = static_cast<Sum>(rope_frequency(config, turning, i));
  return result;
}

/// In place: pair (a, b) of every head becomes (a cos − b sin, b cos + a sin) · magnitude, angle = position · frequency of the pair; what does not
/// turn stays.
/// x [tokens, heads · head_dim], positions [tokens]. Queries and keys lie side by side in a fused projection: one call turns both.
/// Angles in float (double for double); at bf16 cos and sin (times magnitude) are rounded to bf16 first, as the HuggingFace Llama classes do.
template <class T>
void rotate(pool& where, rope_table<accumulator<T>> const& table, list<const std::int32_t> positions, view<T> x, int heads) {
  using sum = accumulator<T>;
  auto const pairs = table.pairs;
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(x.rows, [&](std::int64_t t) {
      sum cosine[rope_table<sum>::max_pairs], sine[rope_table<sum>::max_pairs];
      for (int i = 0; i < pairs; ++i) {
        auto const angle = static_cast<sum>(positions[t]) * table.frequency[i];
        cosine[i] = static_cast<sum>(static_cast<T>(std::cos(angle) * table.magnitude));
        sine[i] = static_cast<sum>(static_cast<T>(std::sin(angle) * table.magnitude));
      }
      for (std::int64_t h = 0; h < heads; ++h) {
        auto* const head = x.row(t) + h * table.head_dim;
        if (table.layout == rope_layout::half_split) {
          rotate_halves(here, cosine, sine, head, pairs);
        } else {
          for (int i = 0; i < pairs; ++i) {
            auto const a = static_cast<sum>(head[2 * i]), b = static_cast<sum>(head[2 * i + 1]);
            head[2 * i] = static_cast<T>(a * cosine[i] - b * sine[i]);
            head[2 * i + 1] = static_cast<T>(b * cosine[i] + a * sine[i]);
          }
        }
      }
    });
  });
}

/// The same with a table made for this call: for trying out, not for speed.
template <class T>
void rotate(pool& where, attention_config const& config, int head_dim, list<const std::int32_t> positions, view<T> x, int heads) {
  rotate<T>(where, make_rope_table<accumulator<T>>(config, head_dim), positions, x, heads);
}

}  // namespace moesaic::host
