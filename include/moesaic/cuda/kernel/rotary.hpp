// Positions into queries and keys: pairs of elements turned by position · frequency, and keys and values into the cache. A block a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/rope.hpp>
#include <moesaic/cuda/kernel/kv_cache.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// In place: pair (a, b) of every head becomes (a cos − b sin, b cos + a sin) · magnitude; what does not turn stays. Angles in float from
/// frequencies rounded to float; at bf16 cos and sin (times magnitude) are rounded to bf16 first, as the host does. With a Stored type the last heads are keys, and go with the values into their slots of the cache.
template <class T, class Stored = void>
struct rotate_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  static constexpr bool appends = !std::is_void_v<Stored>;
  struct params {
    view<T> x;                           // [tokens, heads · head_dim]
    std::int32_t const* position;        // [tokens]
    double const* frequency;             // [pairs] radians a position
    int heads, pairs, head_dim;          // 2 · pairs at most head_dim
    float magnitude;
    rope_layout layout;
    kv_cache cache = {};                 // of the last kv_heads of the heads
    view<const T> v = {};                // [tokens, kv_heads · value_dim]
    std::int32_t const* sequence = nullptr;   // [tokens]; null = all are of one
    call_flags* flags = nullptr;
    int original_positions = 0;          // a sequence that reaches further turns by the next [pairs] of frequency, and the next magnitude; 0 = none does
    float long_magnitude = 1;
  };
  struct shared {
    float cosine[most_rope_pairs], sine[most_rope_pairs];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& turn = device::shared<shared>();
    bool const halves = p.layout == rope_layout::half_split;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.x.rows; t += device::grid_x()) {
      bool const beyond = p.original_positions != 0 && (p.position[t] >= p.original_positions || p.position[last_of_sequence(p, t)] >= p.original_positions);
      double const* const frequency = p.frequency + (beyond ? p.pairs : 0);
      float const magnitude = beyond ? p.long_magnitude : p.magnitude;
      for (int i = device::thread_id(); i < p.pairs; i += threads) {
        float const angle = static_cast<float>(p.position[t]) * static_cast<float>(frequency[i]);
        turn.cosine[i] = rounded<T>(std::cos(angle) * magnitude);
        turn.sine[i] = rounded<T>(std::sin(angle) * magnitude);
      }
      std::int64_t slot = -1;
      if constexpr (appends) slot = slot_or_flag(p.cache, p.sequence[t], p.position[t], p.flags);
      device::block_sync();
      T* const row = p.x.row(t);
      for (int at = device::thread_id(); at < p.heads * p.pairs; at += threads) {
        int const h = at / p.pairs, i = at % p.pairs;
        int const first = halves ? i : 2 * i, second = halves ? i + p.pairs : 2 * i + 1;
        T* const head = row + static_cast<std::int64_t>(h) * p.head_dim;
        float const a = static_cast<float>(head[first]), b = static_cast<float>(head[second]), c = turn.cosine[i], s = turn.sine[i];
        head[first] = static_cast<T>(a * c - b * s);
        head[second] = static_cast<T>(b * c + a * s);
        if constexpr (appends)
          if (int const kv_head = h - (p.heads - p.cache.kv_heads); kv_head >= 0 && slot >= 0) {
            Stored* const key = keys_of<Stored>(p.cache, p.sequence[t], kv_head) + slot * p.cache.key_dim;
            key[first] = static_cast<Stored>(static_cast<float>(head[first]));
            key[second] = static_cast<Stored>(static_cast<float>(head[second]));
          }
      }
      if constexpr (appends)
        if (int const still = p.head_dim - 2 * p.pairs; still > 0 && slot >= 0)
          for (int at = device::thread_id(); at < p.cache.kv_heads * still; at += threads) {
            int const kv_head = at / still, d = 2 * p.pairs + at % still;
            keys_of<Stored>(p.cache, p.sequence[t], kv_head)[slot * p.cache.key_dim + d] =
                static_cast<Stored>(static_cast<float>(row[static_cast<std::int64_t>(p.heads - p.cache.kv_heads + kv_head) * p.head_dim + d]));
          }
      if constexpr (appends)
        if (slot >= 0) append_row<threads>(p.v.row(t), p.cache.kv_heads, p.cache.value_dim, slot, [&](int h) { return values_of<Stored>(p.cache, p.sequence[t], h); });
      device::block_sync();              // the table is free for the next token
    }
  }

 private:
  // The last row of t's sequence, which is its furthest: every warp looks for itself, 32 rows at a time from the end.
  MOESAIC_DEVICE static std::int64_t last_of_sequence(params const& p, std::int64_t t) {
    if (p.sequence == nullptr) return p.x.rows - 1;
    for (std::int64_t end = p.x.rows - 1;; end -= device::warp_size) {
      std::int64_t const row = end - device::lane_id();
      std::uint32_t const found = device::ballot(device::all_lanes, row >= t && p.sequence[row] == p.sequence[t]);
      if (found != 0) return end - count_ones((found & (0u - found)) - 1u);
    }
  }
};

}  // namespace moesaic::cuda
