// Latents and rotated keys into their cache, and queries that were absorbed against it: a block a token and eight heads, for which slots are read once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/dtype.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/kv_cache.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/latent.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// One layer's cache, a view of device memory: [sequences, max_tokens] slots of rank + rope_dim elements, a token's latent and then its rotated key.
struct latent_cache {
  dtype storage = dtype::bf16;           ///< fp32 or bf16
  int sequences = 0, rank = 0, rope_dim = 0;
  int max_tokens = 0;                    ///< slots of a sequence
  std::byte* data = nullptr;             ///< bytes(cache) bytes, 16-byte aligned
  std::int32_t const* first_position = nullptr;   ///< [sequences] on the device, or null: all start at position 0

  MOESAIC_FN constexpr int slot_dim() const { return rank + rope_dim; }
};
constexpr std::size_t bytes(latent_cache const& c) {
  return static_cast<std::size_t>(std::int64_t{c.sequences} * c.max_tokens * c.slot_dim() * bits(c.storage) / 8);
}
/// Slot 0 of a sequence.
template <class Stored>
MOESAIC_DEVICE Stored* slots_of(latent_cache const& c, std::int64_t sequence) {
  return reinterpret_cast<Stored*>(c.data) + sequence * c.max_tokens * c.slot_dim();
}
/// Where tokens have their slots, as any cache.
MOESAIC_DEVICE kv_cache sites_of(latent_cache const& c) {
  kv_cache sites;
  sites.sequences = c.sequences, sites.max_tokens = c.max_tokens, sites.first_position = c.first_position;
  return sites;
}

template <class T, class Stored>
struct append_latents {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    latent_cache cache;
    view<const T> latent, key;           // [tokens, rank], [tokens, rope_dim]
    std::int32_t const *sequence, *position;   // [tokens]
    call_flags* flags;                   // or null
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.latent.rows; t += device::grid_x()) {
      auto const slot = slot_or_flag(sites_of(p.cache), p.sequence[t], p.position[t], p.flags);
      if (slot < 0) continue;
      Stored* const to = slots_of<Stored>(p.cache, p.sequence[t]) + slot * p.cache.slot_dim();
      for (int d = device::thread_id(); d < p.cache.slot_dim(); d += threads)
        to[d] = static_cast<Stored>(static_cast<float>(d < p.cache.rank ? p.latent(t, d) : p.key(t, d - p.cache.rank)));
    }
  }
};

/// In place: every element times a factor, rounded once.
template <class T>
struct multiply_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    view<T> x;
    float factor;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.x.rows; t += device::grid_x())
      for (std::int64_t c = device::thread_id(); c < p.x.columns; c += threads) p.x(t, c) = static_cast<T>(static_cast<float>(p.x(t, c)) * p.factor);
  }
};

/// A matrix kernel once for every head, by the second dimension of the grid: matrix h, inputs h · x_step further, outputs h · y_step.
template <class Kernel>
struct gemm_of_heads {
  static constexpr int threads = Kernel::threads;
  static constexpr rung needs = Kernel::needs;
  struct params {
    typename Kernel::params of_head;     // of head 0
    std::int64_t x_step, y_step;
  };
  using shared = typename Kernel::shared;

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto mine = p.of_head;
    auto const head = static_cast<std::int64_t>(device::block_y());
    mine.w.data += head * mine.w.matrix_bytes;
    mine.x += head * p.x_step;
    mine.y += head * p.y_step;
    Kernel{}(mine);
  }
};

/// out[t][h] = Σ_s p_s · latent(s) / Σ_s p_s over the slots s of token t's sequence up to its own, p = exp(scale · query · slot). The slots of a tile lie in
/// shared memory, a warp has a head, and its lanes go along the elements. A token whose site lies outside the cache gets zeros.
template <class T, class Stored>
struct attend_latents_simt {
  static constexpr int warps = latent_tuning::heads, threads = warps * device::warp_size, slots = latent_tuning::slots;
  static constexpr rung needs = rung::simt;
  static constexpr int rank_columns = latent_tuning::most_rank / device::warp_size, columns = latent_tuning::most_slot_dim / device::warp_size;
  struct params {
    latent_cache cache;
    view<const float> query;             // [tokens, heads · query_step], of each head `rank` elements
    view<const T> q;                     // [tokens, heads · key_dim], of each head the last rope_dim are the rotated ones
    view<float> out;                     // [tokens, heads · out_step], of each head `rank` elements
    std::int32_t const *sequence, *position;   // [tokens]
    float scale;
    int heads, query_step, key_dim, out_step;
  };
  struct shared {
    alignas(16) Stored slot[slots * latent_tuning::most_slot_dim];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& memory = device::shared<shared>();
    int const lane = device::lane_id(), rank = p.cache.rank, slot_dim = p.cache.slot_dim(), groups = (p.heads + warps - 1) / warps;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t task = device::block_x(); task < p.query.rows * groups; task += device::grid_x()) {
      auto const t = task / groups;
      int const h = static_cast<int>(task % groups) * warps + device::warp_id();
      bool const mine = h < p.heads;
      auto const own = slot_of(sites_of(p.cache), p.sequence[t], p.position[t]);
      float query[columns], sum[rank_columns] = {}, top = -infinity<float>, total = 0.0f;
      MOESAIC_UNROLL
      for (int c = 0; c < columns; ++c) {
        int const d = c * device::warp_size + lane;
        query[c] = !mine || d >= slot_dim ? 0.0f
                   : d < rank             ? p.query(t, static_cast<std::int64_t>(h) * p.query_step + d)
                                          : static_cast<float>(p.q(t, static_cast<std::int64_t>(h + 1) * p.key_dim - p.cache.rope_dim + d - rank));
      }
      Stored const* const cached = slots_of<Stored>(p.cache, own >= 0 ? p.sequence[t] : 0);
      for (std::int64_t first = 0; first <= own; first += slots) {
        int const count = own + 1 - first < slots ? static_cast<int>(own + 1 - first) : slots;
        device::block_sync();            // the tile before has been read
        auto const* const from = reinterpret_cast<std::uint32_t const*>(cached + first * slot_dim);
        auto* const to = reinterpret_cast<std::uint32_t*>(memory.slot);
        int const words = count * slot_dim * static_cast<int>(sizeof(Stored)) / 4;
        for (int i = device::thread_id(); i < words; i += threads) to[i] = from[i];
        device::block_sync();
        if (!mine) continue;
        float score[slots], highest = top;
        MOESAIC_UNROLL
        for (int s = 0; s < slots; ++s) {
          float part = 0.0f;
          if (s < count)
            MOESAIC_UNROLL
            for (int c = 0; c < columns; ++c) {
              int const d = c * device::warp_size + lane;
              if (d < slot_dim) part = device::fma(query[c], static_cast<float>(memory.slot[s * slot_dim + d]), part);
            }
          part = device::warp_sum(part) * p.scale;
          score[s] = s < count ? part : -infinity<float>;
          highest = score[s] > highest ? score[s] : highest;
        }
        float const shrink = std::exp(top - highest);
        top = highest;
        total *= shrink;
        MOESAIC_UNROLL
        for (int c = 0; c < rank_columns; ++c) sum[c] *= shrink;
        MOESAIC_UNROLL
        for (int s = 0; s < slots; ++s) {
          if (s >= count) continue;
          float const weight = std::exp(score[s] - top);
          total += weight;
          MOESAIC_UNROLL
          for (int c = 0; c < rank_columns; ++c) {
            int const d = c * device::warp_size + lane;
            if (d < rank) sum[c] = device::fma(weight, static_cast<float>(memory.slot[s * slot_dim + d]), sum[c]);
          }
        }
      }
      if (mine)
        MOESAIC_UNROLL
        for (int c = 0; c < rank_columns; ++c) {
          int const d = c * device::warp_size + lane;
          if (d < rank) p.out(t, static_cast<std::int64_t>(h) * p.out_step + d) = own >= 0 ? sum[c] / total : 0.0f;
        }
    }
  }
};

}  // namespace moesaic::cuda
