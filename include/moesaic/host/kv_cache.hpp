// Keys and values of past tokens as packed panels, so that attention reads them as a linear layer reads its weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/rotary.hpp>

namespace moesaic::host {

/// One layer's cache, a view. Every (sequence, kv head) has two matrices in the layout of base/packed.hpp:
///   keys    outputs = slots, inputs = key_dim: one vector holds 16 tokens, so scores of 32 keys come out side by side
///   values  outputs = value_dim, inputs = slots: one vector holds 16 elements of a token, so a weighted sum runs down the slots
/// All keys lie first, then all values. A token's slot is its position − its sequence's first position.
/// fp64 takes the index map of fp32 with lanes twice as wide.
struct kv_cache {
  dtype storage = dtype::fp32;  ///< fp32, bf16 or fp64
  int sequences = 0, kv_heads = 0;
  int key_dim = 0, value_dim = 0;                ///< elements of a head's key, and of its value
  int max_tokens = 0;                            ///< slots of a sequence
  std::byte* data = nullptr;                     ///< bytes(cache) bytes, 64-byte aligned, zero at first
  list<const std::int32_t> first_position = {};  ///< [sequences], or empty: all sequences start at position 0
};

/// Index maps, in fp32 lanes where the storage is fp64.
constexpr packed_matrix key_panels(kv_cache const& c) {
  return {.stored = c.storage == dtype::bf16 ? dtype::bf16 : dtype::fp32,
          .outputs = c.max_tokens,
          .inputs = c.key_dim,
          .count = std::int64_t{c.sequences} * c.kv_heads};
}
constexpr packed_matrix value_panels(kv_cache const& c) {
  auto m = key_panels(c);
  m.outputs = c.value_dim;
  m.inputs = c.max_tokens;
  return m;
}

/// 4, or 8 where a lane holds a double.
constexpr int lane_bytes(dtype storage) { return storage == dtype::fp64 ? 8 : 4; }

/// Memory of one layer's cache.
constexpr std::size_t bytes(kv_cache const& c) {
  return static_cast<std::size_t>((packed::bytes(key_panels(c)) + packed::bytes(value_panels(c))) * (lane_bytes(c.storage) / 4));
}

/// First byte of a head's keys, and of its values.
inline std::byte* keys_of(kv_cache const& c, std::int64_t sequence, std::int64_t kv_head) {
  return c.data + (sequence * c.kv_heads + kv_head) * packed::matrix_bytes(key_panels(c)) * (lane_bytes(c.storage) / 4);
}
inline std::byte* values_of(kv_cache const& c, std::int64_t sequence, std::int64_t kv_head) {
  auto const before = packed::bytes(key_panels(c)) + (sequence * c.kv_heads + kv_head) * packed::matrix_bytes(value_panels(c));
  return c.data + before * (lane_bytes(c.storage) / 4);
}

inline std::int64_t slot_of(kv_cache const& c, std::int64_t sequence, std::int64_t position) {
  return position - (c.first_position.empty() ? 0 : c.first_position[sequence]);
}

namespace cache_detail {

/// Element (output, input) of one head's matrix.
template <class Stored>
Stored read(std::byte const* matrix, packed_matrix const& m, std::int64_t output, std::int64_t input) {
  constexpr std::int64_t in_lane = sizeof(Stored) == 2 ? 2 : 1, wide = sizeof(Stored) == 8 ? 2 : 1;
  auto const panel = static_cast<int>(output / packed::lanes % 2);
  auto const row = packed::row_offset(input / in_lane, panel, packed::rows(m.stored.type, m.inputs));
  auto const lane = output / (2 * packed::lanes) * packed::pair_bytes(m.stored, m.inputs) + row + output % packed::lanes * 4;
  Stored value;
  std::memcpy(&value, matrix + lane * wide + input % in_lane * static_cast<std::int64_t>(sizeof(Stored)), sizeof value);
  return value;
}

/// The element of T as it is stored: narrower by one rounding to nearest even.
template <class Stored, class T>
MOESAIC_HOST void write(std::byte* at, T x) {
  auto const value = static_cast<Stored>(static_cast<accumulator<Stored>>(x));
  std::memcpy(at, &value, sizeof value);
}

/// One token's key [key_dim] into its slot of a head's keys: one lane of every row of a panel.
template <class Stored, class T>
void write_key(std::byte* keys, packed_matrix const& m, std::int64_t slot, T const* x) {
  constexpr std::int64_t in_lane = sizeof(Stored) == 2 ? 2 : 1, wide = sizeof(Stored) == 8 ? 2 : 1;
  auto const total_rows = packed::rows(m.stored.type, m.inputs);
  auto const panel = static_cast<int>(slot / packed::lanes % 2);
  auto* const lane = keys + (slot / (2 * packed::lanes) * packed::pair_bytes(m.stored, m.inputs) + slot % packed::lanes * 4) * wide;
  for (std::int64_t row = 0; row < total_rows; ++row) {
    auto* const at = lane + packed::row_offset(row, panel, total_rows) * wide;
    write<Stored>(at, x[row * in_lane]);
    if (in_lane == 2 && 2 * row + 1 < m.inputs) write<Stored>(at + 2, x[2 * row + 1]);
  }
}

/// One token's value [value_dim] into its slot of a head's values: all lanes of one row of every panel.
template <class Stored, class T>
void write_value(std::byte* values, packed_matrix const& m, std::int64_t slot, T const* x) {
  constexpr std::int64_t in_lane = sizeof(Stored) == 2 ? 2 : 1, wide = sizeof(Stored) == 8 ? 2 : 1;
  auto const total_rows = packed::rows(m.stored.type, m.inputs), pair_bytes = packed::pair_bytes(m.stored, m.inputs);
  for (std::int64_t first = 0; first < m.outputs; first += packed::lanes) {
    auto const panel = static_cast<int>(first / packed::lanes % 2);
    auto* const at = values + (first / (2 * packed::lanes) * pair_bytes + packed::row_offset(slot / in_lane, panel, total_rows)) * wide +
                     slot % in_lane * static_cast<std::int64_t>(sizeof(Stored));
    auto const count = m.outputs - first < packed::lanes ? m.outputs - first : packed::lanes;
    for (std::int64_t l = 0; l < count; ++l) write<Stored>(at + l * 4 * wide, x[first + l]);
  }
}

/// Calls f.operator()<Stored>() for the cache's storage; false where activations of T do not go with it, or it is not the one promised.
template <class T, dtype Promised, class F>
bool with_storage(dtype storage, F&& f) {
  auto const is = [&]<dtype D>() {
    constexpr bool goes_with_t = std::is_same_v<T, double> == (D == dtype::fp64);
    if constexpr (goes_with_t && (Promised == dtype::same || Promised == D)) {
      if (storage == D) f.template operator()<scalar_of<D>>();
      return storage == D;
    } else {
      return false;
    }
  };
  return is.template operator()<dtype::fp64>() || is.template operator()<dtype::fp32>() || is.template operator()<dtype::bf16>();
}

inline constexpr status wrong_storage{status_code::invalid_argument,
                                      "A cache holds fp64 for double activations, and fp32 or bf16 for float and bf16 ones.", 0, 0};

}  // namespace cache_detail

/// Whether a cache was made for heads of this shape.
inline status check(pool&, kv_cache const& c, int kv_heads, int key_dim, int value_dim) {
  if (c.kv_heads != kv_heads)
    return {status_code::invalid_argument, "The cache must have been made for the layer's number of kv heads.", kv_heads, c.kv_heads};
  if (c.key_dim != key_dim)
    return {status_code::invalid_argument, "The cache must have been made for the layer's head dimension.", key_dim, c.key_dim};
  if (c.value_dim != value_dim)
    return {status_code::invalid_argument, "The cache must have been made for the layer's value dimension.", value_dim, c.value_dim};
  return {};
}

/// Whether every token's sequence and position lie in the cache; the first that does not, otherwise.
inline status check(kv_cache const& c, list<const std::int32_t> sequence, list<const std::int32_t> position) {
  if (sequence.size != position.size)
    return {status_code::invalid_argument, "Every token has one sequence and one position.", sequence.size, position.size};
  if (!c.first_position.empty() && c.first_position.size != c.sequences)
    return {status_code::invalid_argument, "A cache has one first position for every sequence.", c.sequences, c.first_position.size};
  for (std::int64_t t = 0; t < sequence.size; ++t) {
    if (sequence[t] < 0 || sequence[t] >= c.sequences)
      return {status_code::out_of_range, "A token's sequence must be below the number of sequences that the cache was made for.",
              c.sequences, sequence[t]};
    auto const slot = slot_of(c, sequence[t], position[t]);
    if (slot < 0 || slot >= c.max_tokens)
      return {status_code::out_of_range,
              "A token's position must lie in the cache: less than max_tokens after its sequence's first position.", c.max_tokens, slot};
  }
  return {};
}

/// Writes the batch's keys and values into their slots. k [tokens, kv_heads · key_dim], v [tokens, kv_heads · value_dim]; sequence, position
/// [tokens].
/// Of two tokens with one slot the later stays. out_of_range where a token has no slot: nothing is written then.
/// Promised: the cache's storage where it is known, so that only code for that is made. The flags are for backends that find out later.
template <class T, dtype Promised = dtype::same>
status append(pool& where, kv_cache const& cache, view<const T> k, view<const T> v, list<const std::int32_t> sequence,
              list<const std::int32_t> position, call_flags* = nullptr) {
  if (auto const fits = check(cache, sequence, position); !fits) return fits;
  if (k.rows != sequence.size || v.rows != sequence.size)
    return {status_code::invalid_argument, "Keys and values have one row for every token.", sequence.size,
            k.rows != sequence.size ? k.rows : v.rows};
  auto const k_width = std::int64_t{cache.kv_heads} * cache.key_dim, v_width = std::int64_t{cache.kv_heads} * cache.value_dim;
  if (k.columns != k_width) return {status_code::invalid_argument, "Keys are kv_heads · key_dim wide.", k_width, k.columns};
  if (v.columns != v_width) return {status_code::invalid_argument, "Values are kv_heads · value_dim wide.", v_width, v.columns};

  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    auto const key_map = key_panels(cache), value_map = value_panels(cache);
    where.for_each(cache.kv_heads, [&](std::int64_t h) {  // a task a head: tokens that share a cache line stay on one thread
      for (std::int64_t t = 0; t < sequence.size; ++t) {
        auto const slot = slot_of(cache, sequence[t], position[t]);
        cache_detail::write_key<Stored>(keys_of(cache, sequence[t], h), key_map, slot, k.row(t) + h * cache.key_dim);
        cache_detail::write_value<Stored>(values_of(cache, sequence[t], h), value_map, slot, v.row(t) + h * cache.value_dim);
      }
    });
  });
  return known ? status{} : cache_detail::wrong_storage;
}

/// rotate, then append, of a fused projection: turns the `heads` heads of qk [tokens, heads · head_dim] in place, of which k are the last, and
/// writes k and v into their slots.
template <class T, dtype Promised = dtype::same>
status rotate_and_append(pool& where, rope_table<accumulator<T>> const& table, view<T> qk, int heads, kv_cache const& cache, view<const T> k, view<const T> v,
                         list<const std::int32_t> sequence, list<const std::int32_t> position, call_flags* = nullptr) {
  rotate(where, table, position, qk, heads, sequence);
  return append<T, Promised>(where, cache, k, v, sequence, position);
}

}  // namespace moesaic::host
