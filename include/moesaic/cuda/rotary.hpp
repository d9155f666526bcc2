// Positions into queries and keys: pairs of elements turned by position · frequency (RoPE, arXiv:2104.09864).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/cuda/kernel/rotary.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

/// Frequencies that lie on the device.
struct rope_table {
  rope_layout layout = rope_layout::half_split;
  list<const double> frequency;          ///< [head_dim / 2] radians a position
};
template <class T>
rope_table rope_of(stream&, rope_layout layout, list<const double> frequencies) { return {layout, frequencies}; }

/// Frequencies of a configuration into host memory, at set-up.
inline void rope_frequencies(stream&, attention_config const& config, int head_dim, list<double> into) {
  check_rope(head_dim);
  for (std::int64_t i = 0; i < into.size; ++i) into[i] = rope_frequency(config, head_dim, static_cast<int>(i));
}

/// In place: x [tokens, heads · head_dim], positions [tokens].
template <class T, class Tuning>
void rotate(basic_stream_ref<Tuning>& where, rope_table const& table, list<const std::int32_t> positions, view<T> x, int heads) {
  start<rotate_rows<T>>(where, {.x = blocks_for(x.rows), .early = true},
                        {x, positions.data, table.frequency.data, heads, static_cast<int>(table.frequency.size), table.layout});
}

}  // namespace moesaic::cuda
