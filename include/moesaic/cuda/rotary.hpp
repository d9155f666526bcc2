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
  list<const double> frequency;          ///< [pairs] radians a position; the first 2 · pairs elements of a head turn
  int head_dim = 0;                      ///< from one head to the next
  float magnitude = 1;                   ///< on cosines and sines
};
template <class T>
rope_table rope_of(stream&, attention_config const& config, int head_dim, list<const double> frequencies) {
  return {config.layout, frequencies, head_dim, static_cast<float>(rope_magnitude(config))};
}

/// Frequencies of a rotary embedding that turns `turning` elements of a head into host memory, at set-up: [turning / 2].
inline void rope_frequencies(stream&, attention_config const& config, int turning, list<double> into) {
  check_rope(turning);
  for (std::int64_t i = 0; i < into.size; ++i) into[i] = rope_frequency(config, turning, static_cast<int>(i));
}

/// In place: x [tokens, heads · head_dim], positions [tokens].
template <class T, class Tuning>
void rotate(basic_stream_ref<Tuning>& where, rope_table const& table, list<const std::int32_t> positions, view<T> x, int heads) {
  start<rotate_rows<T>>(where, {.x = blocks_for(x.rows), .early = true},
                        {x, positions.data, table.frequency.data, heads, static_cast<int>(table.frequency.size), table.head_dim, table.magnitude, table.layout});
}

}  // namespace moesaic::cuda
