// Keys and values of past tokens in device memory, a row a token of each head, and how a batch's are written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/status.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/cuda/kernel/kv_cache.hpp>
#include <moesaic/cuda/launch.hpp>
#include <moesaic/cuda/memory.hpp>
#include <moesaic/cuda/rotary.hpp>

namespace moesaic::cuda {

using owned_kv_cache = owned_cache<kv_cache>;

/// An empty cache for a layer of these shapes: `sequences` sequences of up to max_tokens tokens.
template <class T>
owned_kv_cache make_kv_cache(stream& where, block_shapes const& s, int sequences, int max_tokens) {
  check_cache(sequences, max_tokens);
  return owned_kv_cache(where, kv_cache{s.cache, sequences, s.kv_heads, s.key_dim, s.value_dim, max_tokens, nullptr, nullptr});
}

/// Whether a cache was made for heads of this shape.
inline status check(stream&, kv_cache const& c, int kv_heads, int key_dim, int value_dim) {
  if (c.kv_heads != kv_heads) return invalid("The cache must have been made for the layer's number of kv heads.", kv_heads, c.kv_heads);
  if (c.key_dim != key_dim) return invalid("The cache must have been made for the layer's head dimension.", key_dim, c.key_dim);
  if (c.value_dim != value_dim) return invalid("The cache must have been made for the layer's value dimension.", value_dim, c.value_dim);
  return {};
}
inline status check(stream& where, kv_cache const& c, int kv_heads, int head_dim) { return check(where, c, kv_heads, head_dim, head_dim); }

namespace cache_detail {
template <dtype Stored, class T>
status check(kv_cache const& cache, view<const T> k, view<const T> v, list<const std::int32_t> sequence, list<const std::int32_t> position) {
  if (sequence.size != position.size) return invalid("Every token has one sequence and one position.", sequence.size, position.size);
  if (k.rows != sequence.size || v.rows != sequence.size)
    return invalid("Keys and values have one row for every token.", sequence.size, k.rows != sequence.size ? k.rows : v.rows);
  auto const k_width = std::int64_t{cache.kv_heads} * cache.key_dim, v_width = std::int64_t{cache.kv_heads} * cache.value_dim;
  if (k.columns != k_width) return invalid("Keys are kv_heads · key_dim wide.", k_width, k.columns);
  if (v.columns != v_width) return invalid("Values are kv_heads · value_dim wide.", v_width, v.columns);
  if (cache.storage != Stored) return invalid("A cache must have been made for the layer's storage.", bits(Stored), bits(cache.storage));
  return {};
}
}  // namespace cache_detail

/// Writes the batch's keys and values into their slots. k [tokens, kv_heads · key_dim], v [tokens, kv_heads · value_dim]; sequence, position [tokens]. No two tokens of a call may
/// have one slot. A token without a slot writes nothing and raises flags->site. Stored: the cache's storage, fp32 or bf16.
template <class T, dtype Stored, class Tuning>
status append(basic_stream_ref<Tuning>& where, kv_cache const& cache, view<const T> k, view<const T> v, list<const std::int32_t> sequence,
              list<const std::int32_t> position, call_flags* flags = nullptr) {
  if (auto const fits = cache_detail::check<Stored>(cache, k, v, sequence, position); !fits) return fits;
  start<append_rows<T, scalar_of<Stored>>>(where, {.x = blocks_for(k.rows), .early = true}, {cache, k, v, sequence.data, position.data, flags});
  return {};
}

/// rotate, then append, of a fused projection in one launch: turns the `heads` heads of qk [tokens, heads · head_dim] in place, of which k are the last,
/// and writes k and v into their slots.
template <class T, dtype Stored, class Tuning>
status rotate_and_append(basic_stream_ref<Tuning>& where, rope_table const& table, view<T> qk, int heads, kv_cache const& cache, view<const T> k,
                         view<const T> v, list<const std::int32_t> sequence, list<const std::int32_t> position, call_flags* flags = nullptr) {
  if (auto const fits = cache_detail::check<Stored>(cache, k, v, sequence, position); !fits) return fits;
  start<rotate_rows<T, scalar_of<Stored>>>(where, {.x = blocks_for(qk.rows), .early = true},
                                           {qk, position.data, table.frequency.data, heads, table.pairs(), table.head_dim, table.magnitude,
                                            table.layout, cache, v, sequence.data, flags, table.original_positions, table.long_magnitude});
  return {};
}

}  // namespace moesaic::cuda
