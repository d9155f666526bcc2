// Positions into queries and keys: pairs of elements turned by position · frequency (RoPE, arXiv:2104.09864).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/rope.hpp>
#include <moesaic/config/shapes.hpp>
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
  int original_positions = 0;   ///< of a sequence that reaches further in a call, tokens turn by the next two; 0 = none does
  Sum long_magnitude = 1;
  Sum long_frequency[max_pairs] = {};
  Sum frequency[max_pairs] = {};
};

/// Of frequencies that are kept in double (rope_frequencies), each rounded once. Heads are `head_dim` elements apart.
template <class Sum>
rope_table<Sum> rope_table_of(attention_config const& config, int head_dim, list<const double> frequencies) {
  bool const two = !config.scaling.long_factors.empty();
  rope_table<Sum> table{config.layout, static_cast<int>(frequencies.size) / (two ? 2 : 1), head_dim, static_cast<Sum>(rope_magnitude(config))};
  for (int i = 0; i < table.pairs; ++i) table.frequency[i] = static_cast<Sum>(frequencies[i]);
  if (two) {
    table.original_positions = config.scaling.original_positions, table.long_magnitude = static_cast<Sum>(rope_magnitude(config, true));
    for (int i = 0; i < table.pairs; ++i) table.long_frequency[i] = static_cast<Sum>(frequencies[table.pairs + i]);
  }
  return table;
}

/// Frequencies as config/rope.hpp has them, computed in double and rounded once. Throws where the elements that turn are odd or above 512.
template <class Sum>
rope_table<Sum> make_rope_table(attention_config const& config, int head_dim) {
  auto const turning = turning_elements(config, head_dim);
  check_rope(turning);
  double kept[2 * most_rope_pairs];
  list<double> const frequencies(kept, rope_frequency_count(config, turning));
  rope_frequencies(config, turning, frequencies);
  return rope_table_of<Sum>(config, head_dim, frequencies);
}

/// In place: pair (a, b) of every head becomes (a cos − b sin, b cos + a sin) · magnitude, angle = position · frequency of the pair; what does not
/// turn stays.
/// x [tokens, heads · head_dim], positions [tokens]. Queries and keys lie side by side in a fused projection: one call turns both.
/// sequences [tokens], or empty where all tokens are of one: read where a table has frequencies for long sequences, whose last row is their furthest.
/// Angles in float (double for double); at bf16 cos and sin (times magnitude) are rounded to bf16 first, as the HuggingFace Llama classes do.
template <class T>
void rotate(pool& where, rope_table<accumulator<T>> const& table, list<const std::int32_t> positions, view<T> x, int heads,
            list<const std::int32_t> sequences = {}) {
  using sum = accumulator<T>;
  auto const pairs = table.pairs;
  constexpr std::uint32_t marks = 4096;
  std::uint64_t beyond_mark[marks / 64] = {};  // of the first sequences: whether a row of theirs reaches beyond
  if (table.original_positions != 0 && !sequences.empty())
    for (std::int64_t t = 0; t < x.rows; ++t)
      if (auto const s = static_cast<std::uint32_t>(sequences[t]); s < marks && positions[t] >= table.original_positions)
        beyond_mark[s / 64] |= std::uint64_t{1} << s % 64;
  auto const reaches_beyond = [&](std::int64_t t) {
    if (positions[t] >= table.original_positions) return true;
    auto last = x.rows - 1;
    if (!sequences.empty()) {
      if (auto const s = static_cast<std::uint32_t>(sequences[t]); s < marks) return (beyond_mark[s / 64] >> s % 64 & 1) != 0;
      while (sequences[last] != sequences[t]) --last;
    }
    return positions[last] >= table.original_positions;
  };
  at_level<T>(where.level(), [&](auto here) {
    where.for_each(x.rows, [&](std::int64_t t) {
      sum cosine[rope_table<sum>::max_pairs], sine[rope_table<sum>::max_pairs];
      bool const beyond = table.original_positions != 0 && reaches_beyond(t);
      auto const* const frequency = beyond ? table.long_frequency : table.frequency;
      auto const magnitude = beyond ? table.long_magnitude : table.magnitude;
      for (int i = 0; i < pairs; ++i) {
        auto const angle = static_cast<sum>(positions[t]) * frequency[i];
        cosine[i] = static_cast<sum>(static_cast<T>(std::cos(angle) * magnitude));
        sine[i] = static_cast<sum>(static_cast<T>(std::sin(angle) * magnitude));
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
void rotate(pool& where, attention_config const& config, int head_dim, list<const std::int32_t> positions, view<T> x, int heads,
            list<const std::int32_t> sequences = {}) {
  rotate<T>(where, make_rope_table<accumulator<T>>(config, head_dim), positions, x, heads, sequences);
}

}  // namespace moesaic::host
