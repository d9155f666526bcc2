// Positions into queries and keys: pairs of elements turned by position · frequency (RoPE, arXiv:2104.09864).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/kernel/rotary.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

/// Frequencies that lie on the device, and how heads turn by them.
struct rope_table {
  rope_layout layout = rope_layout::half_split;
  list<const double> frequency;          ///< [pairs] radians a position; the first 2 · pairs elements of a head turn. Then those of long sequences
  int head_dim = 0;                      ///< from one head to the next
  float magnitude = 1;                   ///< on cosines and sines
  int original_positions = 0;            ///< of a sequence that reaches further in a call, tokens turn by the frequencies that follow; 0 = there are none
  float long_magnitude = 1;

  int pairs() const { return static_cast<int>(frequency.size) / (original_positions != 0 ? 2 : 1); }
};
template <class T>
rope_table rope_of(stream&, attention_config const& config, int head_dim, list<const double> frequencies) {
  return {config.layout, frequencies, head_dim, static_cast<float>(rope_magnitude(config)),
          config.scaling.long_factors.empty() ? 0 : config.scaling.original_positions, static_cast<float>(rope_magnitude(config, true))};
}

/// Frequencies of a rotary embedding that turns `turning` elements of a head into host memory, at set-up: [rope_frequency_count].
inline void rope_frequencies(stream&, attention_config const& config, int turning, list<double> into) { moesaic::rope_frequencies(config, turning, into); }

/// In place: x [tokens, heads · head_dim], positions [tokens]. sequences [tokens], or empty where all tokens are of one: read where a table has
/// frequencies for long sequences, whose last row is their furthest.
template <class T, class Tuning>
void rotate(basic_stream_ref<Tuning>& where, rope_table const& table, list<const std::int32_t> positions, view<T> x, int heads,
            list<const std::int32_t> sequences = {}) {
  start<rotate_rows<T>>(where, {.x = blocks_for(x.rows), .early = true},
                        {x, positions.data, table.frequency.data, heads, table.pairs(), table.head_dim, table.magnitude, table.layout, {}, {},
                         sequences.data, nullptr, table.original_positions, table.long_magnitude});
}

}  // namespace moesaic::cuda
