// Where keys and values of past tokens lie in device memory, and the kernel that writes a batch's: a block a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// One layer's cache, a view of device memory. Keys [sequences, kv_heads, max_tokens, key_dim], then values [.., value_dim]: a head's tokens lie one
/// after another, as a tile of them is read. A token's slot is its position − its sequence's first position.
struct kv_cache {
  dtype storage = dtype::bf16;           ///< fp32 or bf16
  int sequences = 0, kv_heads = 0, key_dim = 0, value_dim = 0;
  int max_tokens = 0;                    ///< slots of a sequence
  std::byte* data = nullptr;             ///< bytes(cache) bytes, 16-byte aligned
  std::int32_t const* first_position = nullptr;   ///< [sequences] on the device, or null: all start at position 0
};

MOESAIC_FN constexpr std::int64_t head_keys(kv_cache const& c) { return std::int64_t{c.max_tokens} * c.key_dim; }
MOESAIC_FN constexpr std::int64_t head_values(kv_cache const& c) { return std::int64_t{c.max_tokens} * c.value_dim; }
constexpr std::size_t bytes(kv_cache const& c) {
  return static_cast<std::size_t>(std::int64_t{c.sequences} * c.kv_heads * (head_keys(c) + head_values(c)) * bits(c.storage) / 8);
}

/// A head's keys [max_tokens, key_dim], or values [max_tokens, value_dim].
template <class Stored>
MOESAIC_DEVICE Stored* keys_of(kv_cache const& c, std::int64_t sequence, int kv_head) {
  return reinterpret_cast<Stored*>(c.data) + (sequence * c.kv_heads + kv_head) * head_keys(c);
}
template <class Stored>
MOESAIC_DEVICE Stored* values_of(kv_cache const& c, std::int64_t sequence, int kv_head) {
  return keys_of<Stored>(c, c.sequences, 0) + (sequence * c.kv_heads + kv_head) * head_values(c);
}

/// A token's slot; −1 where its sequence or position lies outside the cache.
MOESAIC_DEVICE std::int64_t slot_of(kv_cache const& c, std::int32_t sequence, std::int32_t position) {
  if (sequence < 0 || sequence >= c.sequences) return -1;
  auto const slot = std::int64_t{position} - (c.first_position != nullptr ? c.first_position[sequence] : 0);
  return slot >= 0 && slot < c.max_tokens ? slot : -1;
}

/// The same by all threads of a block, which raises flags->site where there is none.
MOESAIC_DEVICE std::int64_t slot_or_flag(kv_cache const& c, std::int32_t sequence, std::int32_t position, call_flags* flags) {
  auto const slot = slot_of(c, sequence, position);
  if (slot < 0 && flags != nullptr && device::thread_id() == 0) raise_flag(&flags->site);
  return slot;
}

/// One token's keys, or values, x [kv_heads · dim], into slot `slot` of matrix_of(kv_head), by the `Threads` threads of a block.
template <int Threads, class T, class Matrix>
MOESAIC_DEVICE void append_row(T const* x, int kv_heads, int dim, std::int64_t slot, Matrix&& matrix_of) {
  using stored = std::remove_pointer_t<decltype(matrix_of(0))>;
  for (int i = device::thread_id(); i < kv_heads * dim; i += Threads) matrix_of(i / dim)[slot * dim + i % dim] = static_cast<stored>(static_cast<float>(x[i]));
}

template <class T, class Stored>
struct append_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    kv_cache cache;
    view<const T> k, v;                  // [tokens, kv_heads · key_dim], [tokens, kv_heads · value_dim]
    std::int32_t const *sequence, *position;   // [tokens]
    call_flags* flags;                   // or null
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.k.rows; t += device::grid_x()) {
      auto const sequence = p.sequence[t];
      auto const slot = slot_or_flag(p.cache, sequence, p.position[t], p.flags);
      if (slot < 0) continue;
      append_row<threads>(p.k.row(t), p.cache.kv_heads, p.cache.key_dim, slot, [&](int h) { return keys_of<Stored>(p.cache, sequence, h); });
      append_row<threads>(p.v.row(t), p.cache.kv_heads, p.cache.value_dim, slot, [&](int h) { return values_of<Stored>(p.cache, sequence, h); });
    }
  }
};

}  // namespace moesaic::cuda
