// Latents and rotated keys into their cache; absorbed queries against it, by plain loads (simt) and with heads as rows of a matrix (sm80, sm90); and the
// expanded form: which tokens get it, the latents and keys of a pass, and attention that goes on from pass to pass.
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
#include <moesaic/config/latent.hpp>
#include <moesaic/cuda/kernel/attention.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/kv_cache.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/launch.hpp>
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
  static constexpr int threads = Kernel::threads, blocks = blocks_of<Kernel>();
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

/// out[t][h] = Σ_s p_s · latent(s) / Σ_s p_s over the slots s of token t's sequence up to its own, p = exp(scale · query · slot). A token whose site lies
/// outside the cache gets zeros.
template <class T, class Sum>
struct latent_params {
  latent_cache cache;
  view<const Sum> query;                 // [tokens, heads · query_step], of each head `rank` elements
  view<const T> q;                       // [tokens, heads · key_dim], of each head the last rope_dim are the rotated ones
  view<Sum> out;                         // [tokens, heads · out_step], of each head `rank` elements
  std::int32_t const *sequence, *position;   // [tokens]
  std::int32_t const* expanded;          // [tokens], not negative where a token is left to the other form; or null
  float scale;                           // simt: of e^x; else of 2^x
  int heads, query_step, key_dim, out_step;

  MOESAIC_DEVICE bool left_out(std::int64_t t) const { return expanded != nullptr && expanded[t] >= 0; }
};

/// The slots of a tile lie in shared memory, a warp has a head, and its lanes go along the elements.
template <class T, class Stored>
struct attend_latents_simt {
  static constexpr int warps = latent_tuning::heads, threads = warps * device::warp_size, slots = latent_tuning::slots;
  static constexpr rung needs = rung::simt;
  static constexpr int rank_columns = latent_tuning::most_rank / device::warp_size, columns = latent_tuning::most_slot_dim / device::warp_size;
  using params = latent_params<T, float>;
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
      if (p.left_out(t)) continue;       // the whole block alike
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


/// Heads as the rows of a matrix: a block takes a token and `Rows` of its heads, whose queries meet the same slots, as keys first and then, their first
/// `Rank` elements, as values. The slots' tiles are dealt out to the blocks of a cluster, and what these found is joined in one fixed order, so that bits
/// depend on the token's own slots alone. A warp scores 16 heads against its part of a tile and adds up its eighth of the columns for all of them.
template <int Rows, int Rank, int RopeDim, int Cluster>
struct attend_latents {
  static constexpr int warps = latent_tuning::warps, threads = warps * device::warp_size, tile = latent_tuning::tile_slots, stages = latent_tuning::stages;
  static constexpr rung needs = Cluster > 1 ? rung::sm90 : rung::sm80;
  static constexpr int slot_dim = Rank + RopeDim;
  /// Of rows in shared memory: an odd number of 16-byte chunks, so that ldmatrix meets no bank twice.
  static constexpr int stride = slot_dim + 8, weight_stride = tile + 8;
  static constexpr int row_tiles = Rows / 16, across = warps / row_tiles < tile / 8 ? warps / row_tiles : tile / 8;   // warps that share a tile's slots
  static constexpr int own_slots = tile / across, slot_tiles = own_slots / 8, column_tiles = Rank / warps / 8;
  static_assert(latent_tuning::has_tiles(Rank, RopeDim) && Rows % Cluster == 0 && slot_tiles <= 2);
  using params = latent_params<bf16, bf16>;
  /// What a block leaves for the others of its cluster.
  struct found {
    float top[Rows], total[Rows], out[Rows][Rank];
  };
  struct tiles {
    alignas(16) bf16 query[Rows * stride];
    alignas(16) bf16 slot[stages][tile * stride];
    alignas(16) bf16 weight[Rows * weight_stride];
  };
  struct shared {
    union {
      tiles now;
      found left;                        // when all tiles have been read
    };
    float top[across][Rows], total[across][Rows];   // of each warp's part
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& memory = device::shared<shared>();
    auto& now = memory.now;
    int const thread = device::thread_id(), lane = device::lane_id(), warp = device::warp_id(), rank = Cluster > 1 ? device::cluster_rank() : 0;
    auto const t = static_cast<std::int64_t>(device::block_x()) / Cluster;
    int const first_head = device::block_y() * Rows, heads = p.heads - first_head < Rows ? p.heads - first_head : Rows;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    if (p.left_out(t)) return;           // all blocks of the cluster alike
    auto const own = slot_of(sites_of(p.cache), p.sequence[t], p.position[t]);
    bf16 const* const cached = slots_of<bf16>(p.cache, own >= 0 ? p.sequence[t] : 0);
    constexpr int chunks = slot_dim / 8;
    for (int i = thread; i < Rows * chunks; i += threads) {
      int const row = i / chunks, d = i % chunks * 8;
      auto const head = static_cast<std::int64_t>(first_head + (row < heads ? row : 0));
      bf16 const* const from = d < Rank ? p.query.row(t) + head * p.query_step + d : p.q.row(t) + (head + 1) * p.key_dim - slot_dim + d;
      device::cp_async<16>(now.query + row * stride + d, from, row < heads ? 16 : 0);
    }
    auto const place = [&](int j) { return (static_cast<std::int64_t>(j) * Cluster + rank) * tile; };
    auto const fetch = [&](int j) {
      if (auto const from = place(j); from <= own)
        copy_rows<slot_dim, tile>(now.slot[j % stages], cached + from * slot_dim, slot_dim, own + 1 - from, thread, threads);
      device::cp_async_commit_group();
    };
    fetch(0);

    bool const scores = warp < row_tiles * across;
    int const row = warp / across * 16 + lane / 4, part = warp % across;   // of the scores: this row and the one 8 further
    float of_mine[2] = {-infinity<float>, -infinity<float>}, total[2] = {};
    float top[row_tiles][2], out[row_tiles][column_tiles][4] = {};
    MOESAIC_UNROLL
    for (int m = 0; m < row_tiles; ++m) top[m][0] = top[m][1] = -infinity<float>;
    for (int j = 0; place(j) <= own; ++j) {
      device::cp_async_wait_group<0>();
      device::block_sync();              // the tile is there, and the one before has been read
      fetch(j + 1);
      bf16 const* const slot = now.slot[j % stages];
      float score[slot_tiles][4];
      if (scores) {
        score_tile(score, now.query + warp / across * 16 * stride, slot + part * own_slots * stride);
        float highest[2] = {-infinity<float>, -infinity<float>};
        MOESAIC_UNROLL
        for (int n = 0; n < slot_tiles; ++n)
          MOESAIC_UNROLL
          for (int i = 0; i < 4; ++i) {
            bool const sees = place(j) + part * own_slots + n * 8 + 2 * (lane % 4) + i % 2 <= own;
            score[n][i] = sees ? score[n][i] * p.scale : -infinity<float>;
            highest[i / 2] = score[n][i] > highest[i / 2] ? score[n][i] : highest[i / 2];
          }
        MOESAIC_UNROLL
        for (int r = 0; r < 2; ++r) {
          for (int mask = 1; mask <= 2; mask *= 2) {
            float const other = device::shuffle_xor(highest[r], mask);
            highest[r] = other > highest[r] ? other : highest[r];
          }
          if (lane % 4 == 0) memory.top[part][row + 8 * r] = highest[r];
        }
      }
      device::block_sync();
      if (scores) {
        MOESAIC_UNROLL
        for (int r = 0; r < 2; ++r) {
          total[r] *= shrink(memory, row + 8 * r, of_mine[r]);
          float const base = of_mine[r] > -infinity<float> ? of_mine[r] : 0.0f;
          MOESAIC_UNROLL
          for (int n = 0; n < slot_tiles; ++n) {
            float const low = device::ex2_approx(score[n][2 * r] - base), high = device::ex2_approx(score[n][2 * r + 1] - base);
            total[r] += low;
            total[r] += high;
            *reinterpret_cast<std::uint32_t*>(now.weight + (row + 8 * r) * weight_stride + part * own_slots + n * 8 + 2 * (lane % 4)) =
                device::cvt_bf16x2(low, high);
          }
        }
      }
      MOESAIC_UNROLL
      for (int m = 0; m < row_tiles; ++m)
        MOESAIC_UNROLL
        for (int r = 0; r < 2; ++r) {
          float const factor = shrink(memory, m * 16 + lane / 4 + 8 * r, top[m][r]);
          MOESAIC_UNROLL
          for (int n = 0; n < column_tiles; ++n) out[m][n][2 * r] *= factor, out[m][n][2 * r + 1] *= factor;
        }
      device::block_sync();              // the weights are there
      add_tile(out, now.weight, slot + warp * column_tiles * 8);
    }
    device::cp_async_wait_group<0>();
    if (scores) {
      MOESAIC_UNROLL
      for (int r = 0; r < 2; ++r) {
        float sum = total[r];
        sum += device::shuffle_xor(sum, 1);
        sum += device::shuffle_xor(sum, 2);
        if (lane % 4 == 0) memory.total[part][row + 8 * r] = sum;
      }
    }
    device::block_sync();                // all tiles have been read
    bf16* const result = p.out.row(t) + static_cast<std::int64_t>(first_head) * p.out_step;
    MOESAIC_UNROLL
    for (int m = 0; m < row_tiles; ++m)
      MOESAIC_UNROLL
      for (int r = 0; r < 2; ++r) {
        int const head = m * 16 + lane / 4 + 8 * r, column = warp * column_tiles * 8 + 2 * (lane % 4);
        float whole = 0.0f;
        MOESAIC_UNROLL
        for (int a = 0; a < across; ++a) whole += memory.total[a][head];
        if constexpr (Cluster > 1) {
          if (warp == 0 && lane % 4 == 0) memory.left.top[head] = top[m][r], memory.left.total[head] = whole;
          MOESAIC_UNROLL
          for (int n = 0; n < column_tiles; ++n)
            MOESAIC_UNROLL
            for (int i = 0; i < 2; ++i) memory.left.out[head][column + n * 8 + i] = out[m][n][2 * r + i];
        } else if (head < heads) {
          float const scale = own >= 0 ? 1.0f / whole : 0.0f;
          MOESAIC_UNROLL
          for (int n = 0; n < column_tiles; ++n)
            *reinterpret_cast<std::uint32_t*>(result + static_cast<std::int64_t>(head) * p.out_step + column + n * 8) =
                device::cvt_bf16x2(out[m][n][2 * r] * scale, out[m][n][2 * r + 1] * scale);
        }
      }
    if constexpr (Cluster > 1) {
      device::cluster_arrive();
      device::cluster_wait();
      join_cluster(memory.left, rank, result, p.out_step, heads, own >= 0);
      device::cluster_arrive();          // nobody leaves while his memory is read
      device::cluster_wait();
    }
  }

 private:
  /// 16 queries · own_slots slots.
  MOESAIC_DEVICE static void score_tile(float (&score)[slot_tiles][4], bf16 const* query, bf16 const* slot) {
    int const lane = device::lane_id();
    MOESAIC_UNROLL
    for (int n = 0; n < slot_tiles; ++n) score[n][0] = score[n][1] = score[n][2] = score[n][3] = 0.0f;
    for (int k = 0; k < slot_dim; k += 16) {
      std::uint32_t a[4], b[2 * slot_tiles];
      device::ldmatrix<4>(a, query + lane % 16 * stride + k + lane / 16 * 8);
      device::ldmatrix<2 * slot_tiles>(b, slot + ((slot_tiles == 2 ? lane / 16 * 8 : 0) + lane % 8) * stride + k + lane / 8 % 2 * 8);
      MOESAIC_UNROLL
      for (int n = 0; n < slot_tiles; ++n) {
        std::uint32_t const of_slots[2] = {b[2 * n], b[2 * n + 1]};
        device::mma_sync<dtype::bf16>(score[n], a, of_slots);
      }
    }
  }
  /// Weights [Rows, tile] · the warp's columns of the tile's slots.
  MOESAIC_DEVICE static void add_tile(float (&out)[row_tiles][column_tiles][4], bf16 const* weight, bf16 const* column) {
    constexpr int together = column_tiles % 2 == 0 ? 2 : 1;
    int const lane = device::lane_id();
    MOESAIC_UNROLL
    for (int k = 0; k < tile / 16; ++k) {
      std::uint32_t a[row_tiles][4];
      MOESAIC_UNROLL
      for (int m = 0; m < row_tiles; ++m) device::ldmatrix<4>(a[m], weight + (m * 16 + lane % 16) * weight_stride + k * 16 + lane / 16 * 8);
      MOESAIC_UNROLL
      for (int n = 0; n < column_tiles; n += together) {
        std::uint32_t b[2 * together];
        device::ldmatrix_trans<2 * together>(b, column + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * stride + n * 8 + (together == 2 ? lane / 16 * 8 : 0));
        MOESAIC_UNROLL
        for (int i = 0; i < together; ++i) {
          std::uint32_t const of_columns[2] = {b[2 * i], b[2 * i + 1]};
          MOESAIC_UNROLL
          for (int m = 0; m < row_tiles; ++m) device::mma_sync<dtype::bf16>(out[m][n + i], a[m], of_columns);
        }
      }
    }
  }
  /// Takes a row's largest score of this tile into `top`: what earlier sums shrink by.
  MOESAIC_DEVICE static float shrink(shared const& memory, int row, float& top) {
    float next = top;
    MOESAIC_UNROLL
    for (int a = 0; a < across; ++a) next = memory.top[a][row] > next ? memory.top[a][row] : next;
    float const factor = device::ex2_approx(top - (next > -infinity<float> ? next : 0.0f));
    top = next;
    return factor;
  }
  /// Each block joins and writes a share of the rows.
  MOESAIC_DEVICE static void join_cluster(found const& left, int rank, bf16* result, int out_step, int heads, bool seen) {
    constexpr int share = Rows / Cluster;
    auto const read = [](float const& place, int of) { return bit_cast<float>(device::load_cluster(device::mapa(&place, of))); };
    for (int i = device::thread_id(); i < share * Rank; i += threads) {
      int const head = rank * share + i / Rank, d = i % Rank;
      if (head >= heads) continue;
      float top = -infinity<float>, total = 0.0f, out = 0.0f;
      for (int of = 0; of < Cluster; ++of) join_found(read(left.top[head], of), read(left.total[head], of), read(left.out[head][d], of), top, total, out);
      result[static_cast<std::int64_t>(head) * out_step + d] = static_cast<bf16>(seen ? out / total : 0.0f);
    }
  }
};

// ---- expanded: runs of tokens of one sequence side by side; every pass makes keys and values of `window` rows, a run's slots from a multiple of 64 on

/// Rows that a run's slots begin at a multiple of: whole tiles of keys, so that a token's bits do not depend on where its run lies.
inline constexpr int latent_block = 64;

/// Which run a token is in and where its keys lie: device memory, all int32.
struct latent_plan {
  std::int32_t* first_token = nullptr;   // [tokens + 1] of each run
  std::int32_t* slots = nullptr;         // [tokens] of each run: as many as its tokens see; −1: not expanded
  std::int32_t* block = nullptr;         // [tokens] of each run: its first row / latent_block
  std::int32_t* block_of_token = nullptr;   // [tokens], −1 where it is not expanded
  std::int32_t* absorbed = nullptr;      // [⌈tokens / 64⌉][2]: 0 and as many rows of these 64 tokens as are to be absorbed: all or none
  std::int32_t* runs = nullptr;          // [1]
  std::int32_t* blocks = nullptr;        // [1] of all expanded runs
  std::int32_t* pass = nullptr;          // [2]: 0 and the rows of the pass

  static constexpr latent_plan of(std::int32_t* words, std::int64_t tokens, std::int64_t together) {
    latent_plan p;
    p.first_token = words, p.slots = p.first_token + tokens + 1, p.block = p.slots + tokens, p.block_of_token = p.block + tokens;
    p.absorbed = p.block_of_token + tokens, p.runs = p.absorbed + 2 * packed::ceil_div(tokens, together), p.blocks = p.runs + 1, p.pass = p.blocks + 1;
    return p;
  }
};

/// One block plans a call. A thread takes a stretch of tokens, then a stretch of runs.
struct plan_latents {
  static constexpr int threads = 256, warps = threads / device::warp_size;
  static constexpr rung needs = rung::simt;
  struct params {
    latent_cache cache;
    std::int32_t const *sequence, *position;   // [tokens]
    std::int64_t tokens;
    latent_shape shape;
    latent_form form;
    int together;                        // tokens that are absorbed or not
    std::int64_t blocks;                 // that there are passes for: runs beyond are absorbed
    latent_plan plan;
  };
  struct shared {
    std::int32_t of_warp[warps];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& memory = device::shared<shared>();
    auto const& plan = p.plan;
    int const thread = device::thread_id();
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const stretch = (p.tokens + threads - 1) / threads, first = min_of(thread * stretch, p.tokens), last = min_of(first + stretch, p.tokens);
    auto const begins = [&](std::int64_t t) { return t == 0 || p.sequence[t] != p.sequence[t - 1]; };
    std::int32_t begun = 0;
    for (auto t = first; t < last; ++t) begun += begins(t);
    std::int32_t runs = 0;
    auto const before = sum_before(memory, begun, runs);
    for (auto t = first, r = std::int64_t{before}; t < last; ++t)
      if (begins(t)) plan.first_token[r] = static_cast<std::int32_t>(t), plan.slots[r] = 0, ++r;
    // Turned round, since nvcc 13 takes `together <` for a list of template arguments.
    for (auto c = static_cast<std::int64_t>(thread); p.tokens > c * p.together; c += threads) plan.absorbed[2 * c] = plan.absorbed[2 * c + 1] = 0;
    if (thread == 0) plan.first_token[runs] = static_cast<std::int32_t>(p.tokens), plan.runs[0] = runs, plan.blocks[0] = 0;
    device::block_sync();
    // The slots that some token of a run sees.
    std::int32_t longest = 0;
    for (auto t = first, r = std::int64_t{before} - 1; t < last; ++t) {
      r += begins(t);
      auto const sees = static_cast<std::int32_t>(slot(p, t) + 1);
      longest = sees > longest ? sees : longest;
      if (t + 1 == last || begins(t + 1)) {
        device::atomic_max(reinterpret_cast<std::uint32_t*>(plan.slots + r), static_cast<std::uint32_t>(longest));
        longest = 0;
      }
    }
    device::block_sync();
    auto const some = (std::int64_t{runs} + threads - 1) / threads, from = min_of(thread * some, runs), to = min_of(from + some, runs);
    auto const blocks_of = [&](std::int64_t r) {
      auto const tokens = plan.first_token[r + 1] - plan.first_token[r];
      if (p.form == latent_form::by_shape && tokens == 1) return std::int32_t{0};
      if (latent_form_of(p.shape, p.form, tokens, slot(p, plan.first_token[r + 1] - 1) + 1) == latent_form::absorbed) return std::int32_t{0};
      return plan.slots[r] <= latent_block ? std::int32_t{1} : (plan.slots[r] + latent_block - 1) / latent_block;
    };
    std::int32_t mine = 0, all = 0;
    for (auto r = from; r < to; ++r) mine += blocks_of(r);
    auto at = sum_before(memory, mine, all);
    std::int32_t end = 0;
    for (auto r = from; r < to; ++r) {
      auto const blocks = blocks_of(r);
      plan.block[r] = at;
      at += blocks;
      if (blocks == 0 || at > p.blocks) plan.slots[r] = -1;
      else end = at;
    }
    if (end != 0) device::atomic_max(reinterpret_cast<std::uint32_t*>(plan.blocks), static_cast<std::uint32_t>(end));
    device::block_sync();
    for (auto t = first, r = std::int64_t{before} - 1; t < last; ++t) {
      r += begins(t);
      bool const expanded = plan.slots[r] >= 0;
      plan.block_of_token[t] = expanded ? plan.block[r] : -1;
      if (!expanded) {
        auto const chunk = t / p.together;
        device::atomic_max(reinterpret_cast<std::uint32_t*>(plan.absorbed + 2 * chunk + 1),
                           static_cast<std::uint32_t>(min_of(p.together, p.tokens - chunk * p.together)));
      }
    }
  }

 private:
  MOESAIC_DEVICE static std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
  MOESAIC_DEVICE static std::int64_t slot(params const& p, std::int64_t t) { return slot_of(sites_of(p.cache), p.sequence[t], p.position[t]); }
  /// Σ over the threads before, and over all. Between two calls all threads meet.
  MOESAIC_DEVICE static std::int32_t sum_before(shared& memory, std::int32_t mine, std::int32_t& all) {
    int const warp = device::warp_id();
    auto const through = device::warp_inclusive_sum(mine);
    if (device::lane_id() == device::warp_size - 1) memory.of_warp[warp] = through;
    device::block_sync();
    auto before = through - mine;
    all = 0;
    for (int w = 0; w < warps; ++w) {
      before += w < warp ? memory.of_warp[w] : 0;
      all += memory.of_warp[w];
    }
    return before;
  }
};

/// A pass's rows: their latents as activations, and the rotated keys that all heads share. A block a row; rows behind a run's last slot are zero.
template <class T, class Stored>
struct gather_latents {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    latent_cache cache;
    latent_plan plan;
    std::int32_t const* sequence;        // [tokens]
    view<T> latent;                      // [window, rank]
    T* keys;                             // [heads, window, key_dim]: of each the last rope_dim elements
    std::int64_t first;                  // row of the pass's first
    int heads, key_dim;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const window = p.latent.rows, left = std::int64_t{p.plan.blocks[0]} * latent_block - p.first, count = left < 0 ? 0 : left < window ? left : window;
    if (device::block_x() == 0 && device::thread_id() == 0) p.plan.pass[0] = 0, p.plan.pass[1] = static_cast<std::int32_t>(count);
    int const rank = p.cache.rank, rope_dim = p.cache.rope_dim;
    for (std::int64_t i = device::block_x(); i < count; i += device::grid_x()) {
      auto const row = p.first + i;
      int run = 0;                       // the last one whose rows begin here or before: others that begin here too have none
      for (int end = p.plan.runs[0]; end - run > 1;) {
        int const middle = run + (end - run) / 2;
        if (p.plan.block[middle] <= row / latent_block) run = middle;
        else end = middle;
      }
      auto const slot = row - std::int64_t{p.plan.block[run]} * latent_block;
      bool const there = slot < p.plan.slots[run];
      Stored const* const from = there ? slots_of<Stored>(p.cache, p.sequence[p.plan.first_token[run]]) + slot * p.cache.slot_dim() : nullptr;
      auto const element = [&](int d) { return static_cast<T>(there ? static_cast<float>(from[d]) : 0.0f); };
      for (int d = device::thread_id(); d < rank; d += threads) p.latent(i, d) = element(d);
      for (int e = device::thread_id(); e < p.heads * rope_dim; e += threads)
        p.keys[(e / rope_dim * window + i) * p.key_dim + p.key_dim - rope_dim + e % rope_dim] = element(rank + e % rope_dim);
    }
  }
};

/// What attention to a pass's keys is told. A token whose slots reach beyond the pass leaves its sums in `state`, and goes on from there in the next.
template <class T>
struct expanded_params {
  attention_params<T> attention;         // cache: of sites alone; scale of e^x for simt, else of 2^x
  T const *keys, *values;                // [heads, window, key_dim], [heads, window, value_dim]
  std::int32_t const* block_of_token;    // [tokens]
  std::int32_t const* pass;              // [2]
  std::int64_t first, window;            // rows before the pass, and of it
  view<float> state;                     // [tokens, heads · state_step]: value_dim sums (to a multiple of 16), partial sums of weights, the largest score
  int state_step, key_dim, value_dim;

  /// The row of the pass that a token's slot 0 has, below 0 where it was before.
  MOESAIC_DEVICE std::int64_t row_of(std::int64_t t) const { return std::int64_t{block_of_token[t]} * latent_block - first; }
  MOESAIC_DEVICE float* state_of(std::int64_t t, int head) const { return state.row(t) + static_cast<std::int64_t>(head) * state_step; }
  MOESAIC_DEVICE int totals_at() const { return (value_dim + 15) / 16 * 16; }
  MOESAIC_DEVICE int top_at() const { return totals_at() + 16; }
};

/// Any types and dimensions: a warp a token and head, as attend_simt.
template <class T>
struct attend_expanded_simt {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  static constexpr int warps = threads / device::warp_size, columns_a_lane = attention_tuning::most_head_dim / device::warp_size;
  using params = expanded_params<T>;
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto const& a = p.attention;
    int const lane = device::lane_id();
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    if (p.pass[1] == 0) return;
    auto const all = a.q.rows * a.heads;
    auto const first_warp = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id();
    for (auto i = first_warp; i < all; i += static_cast<std::int64_t>(device::grid_x()) * warps) {
      auto const t = i / a.heads;
      auto const h = static_cast<int>(i % a.heads);
      if (p.block_of_token[t] < 0) continue;
      auto const own = a.slot(t), row = p.row_of(t), begin = row < 0 ? -row : 0, beyond = p.window - row;   // slots [begin, beyond) lie in the pass
      if (begin >= beyond || (own < begin && begin != 0)) continue;   // later, or done before
      T const* const q = a.q.row(t) + static_cast<std::int64_t>(h) * p.key_dim;
      T const* const keys = p.keys + (h * p.window + row) * p.key_dim;
      T const* const values = p.values + (h * p.window + row) * p.value_dim;
      float* const state = p.state_of(t, h);
      float top = -infinity<float>, total = 0.0f, sum[columns_a_lane] = {};
      if (begin > 0) {
        top = state[p.top_at()], total = state[p.totals_at()];
        MOESAIC_UNROLL
        for (int c = 0; c < columns_a_lane; ++c)
          if (int const d = c * device::warp_size + lane; d < p.value_dim) sum[c] = state[d];
      }
      auto const last = own < beyond ? own : beyond - 1;
      for (auto first = begin; first <= last; first += device::warp_size) {
        bool const visible = first + lane <= last;
        float score = 0.0f;
        if (visible)
          for (int d = 0; d < p.key_dim; ++d) score += static_cast<float>(q[d]) * static_cast<float>(keys[(first + lane) * p.key_dim + d]);
        score = visible ? score * a.scale : -infinity<float>;
        float const highest = device::warp_max(score), next = highest > top ? highest : top;
        float const shrink = std::exp(top - next), weight = std::exp(score - next);
        total = total * shrink + device::warp_sum(weight);
        top = next;
        int const count = last - first + 1 < device::warp_size ? static_cast<int>(last - first + 1) : device::warp_size;
        MOESAIC_UNROLL
        for (int c = 0; c < columns_a_lane; ++c) sum[c] *= shrink;
        for (int k = 0; k < count; ++k) {
          float const w = device::shuffle(weight, k);
          MOESAIC_UNROLL
          for (int c = 0; c < columns_a_lane; ++c)
            if (int const d = c * device::warp_size + lane; d < p.value_dim) sum[c] += w * static_cast<float>(values[(first + k) * p.value_dim + d]);
        }
      }
      bool const done = own < beyond;
      device::warp_sync();               // all have read the state
      if (!done && lane == 0) state[p.top_at()] = top, state[p.totals_at()] = total;
      T* const out = a.out.row(t) + static_cast<std::int64_t>(h) * p.value_dim;
      MOESAIC_UNROLL
      for (int c = 0; c < columns_a_lane; ++c)
        if (int const d = c * device::warp_size + lane; d < p.value_dim) {
          if (done) out[d] = static_cast<T>(own >= 0 ? sum[c] / total : 0.0f);
          else state[d] = sum[c];
        }
    }
  }
};

/// Tiles of 64 tokens and one head, as attend_prompt; short runs too.
template <int KeyDim, int ValueDim>
struct attend_expanded {
  static constexpr int widest = KeyDim > ValueDim ? KeyDim : ValueDim;
  static constexpr int tile = attention_tuning::tile_tokens, keys = attention_tuning::tile_keys(widest), stages = attention_tuning::stages(widest);
  static constexpr int threads = tile / 16 * device::warp_size;
  static constexpr rung needs = rung::sm80;
  static_assert(latent_block % keys == 0);
  using params = expanded_params<bf16>;
  using rows = attention_rows<KeyDim, ValueDim, true>;
  struct shared {
    alignas(16) bf16 query[tile * rows::stride];
    alignas(16) bf16 key[stages][keys * rows::stride];
    alignas(16) bf16 value[stages][keys * rows::value_stride];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    if (p.pass[1] == 0) return;
    auto const& a = p.attention;
    auto const first = static_cast<std::int64_t>(device::block_x()) * tile;
    auto const last = first + tile < a.q.rows ? first + tile : a.q.rows;
    for (auto begin = first; begin < last;) {
      auto end = begin + 1;
      while (end < last && a.sequence[end] == a.sequence[begin]) ++end;
      if (p.block_of_token[begin] >= 0) visit_run(p, begin, end);
      begin = end;
    }
  }

 private:
  MOESAIC_DEVICE static void visit_run(params const& p, std::int64_t begin, std::int64_t end) {
    auto& memory = device::shared<shared>();
    auto const& a = p.attention;
    int const thread = device::thread_id(), lane = device::lane_id(), head = device::block_y();
    auto const row_of_slots = p.row_of(begin), start = row_of_slots < 0 ? -row_of_slots : 0, beyond = p.window - row_of_slots;   // slots [start, beyond)
    if (start >= beyond) return;         // its rows come later
    std::int64_t longest = -1;
    for (auto t = begin; t < end; ++t)
      if (auto const slot = a.slot(t); slot > longest) longest = slot;
    if (longest < start && start != 0) return;   // all have been here
    auto const last = longest < beyond ? longest : beyond - 1;
    copy_rows<KeyDim, tile>(memory.query, a.q.row(begin) + static_cast<std::int64_t>(head) * KeyDim, a.q.stride, end - begin, thread, threads);
    int const row = device::warp_id() * 16 + lane / 4;
    bool const mine_there[2] = {begin + row < end, begin + row + 8 < end};
    std::int64_t const visible[2] = {mine_there[0] ? a.slot(begin + row) : -1, mine_there[1] ? a.slot(begin + row + 8) : -1}, from_first[2] = {0, 0};
    bf16 const* const key = p.keys + (head * p.window + row_of_slots) * KeyDim;
    bf16 const* const value = p.values + (head * p.window + row_of_slots) * ValueDim;
    auto const fetch = [&](std::int64_t from) {
      auto const stage = from / keys % stages;
      if (from <= last) {
        copy_rows<KeyDim, keys>(memory.key[stage], key + from * KeyDim, KeyDim, last + 1 - from, thread, threads);
        copy_rows<ValueDim, keys>(memory.value[stage], value + from * ValueDim, ValueDim, last + 1 - from, thread, threads);
      }
      device::cp_async_commit_group();
    };
    for (int s = 0; s < stages - 1 || s == 0; ++s) fetch(start + static_cast<std::int64_t>(s) * keys);
    rows mine;
    if (start != 0)
      MOESAIC_UNROLL
      for (int r = 0; r < 2; ++r)
        if (mine_there[r] && visible[r] >= start) move<false>(p, mine, r, p.state_of(begin + row + 8 * r, head));
    for (auto from = start; from <= last; from += keys) {
      if constexpr (stages > 1) fetch(from + (stages - 1) * keys);
      device::cp_async_wait_group<(stages > 1 ? stages - 1 : 0)>();
      device::block_sync();
      if (from == start) mine.load_query(memory.query + device::warp_id() * 16 * rows::stride);
      auto const stage = from / keys % stages;
      mine.template visit<keys>(memory.key[stage], memory.value[stage], from, from_first, visible, a);
      device::block_sync();              // all have read the stage before it is filled again, by the next run too
      if constexpr (stages == 1) fetch(from + keys);
    }
    device::cp_async_wait_group<0>();
    MOESAIC_UNROLL
    for (int r = 0; r < 2; ++r) {
      float const whole = mine.whole(r);
      if (!mine_there[r] || (visible[r] < start && start != 0)) continue;
      auto const t = begin + row + 8 * r;
      if (visible[r] >= beyond) {
        move<true>(p, mine, r, p.state_of(t, head));
        continue;
      }
      bf16* const out = a.out.row(t) + static_cast<std::int64_t>(head) * ValueDim;
      float const scale = visible[r] >= 0 ? 1.0f / whole : 0.0f;
      MOESAIC_UNROLL
      for (int n = 0; n < ValueDim / 8; ++n)
        *reinterpret_cast<std::uint32_t*>(out + n * 8 + 2 * (lane % 4)) = device::cvt_bf16x2(mine.out[n][2 * r] * scale, mine.out[n][2 * r + 1] * scale);
    }
  }
  /// Row r to its state or back: each lane's own partial sum of weights, so that going on changes no bit.
  template <bool Leave>
  MOESAIC_DEVICE static void move(params const& p, rows& mine, int r, float* state) {
    int const of_four = device::lane_id() % 4;
    auto const one = [](float& here, float& there) {
      if constexpr (Leave) there = here;
      else here = there;
    };
    one(mine.top[r], state[p.top_at() + of_four]);
    one(mine.total[r], state[p.totals_at() + of_four]);
    MOESAIC_UNROLL
    for (int n = 0; n < ValueDim / 8; ++n)
      MOESAIC_UNROLL
      for (int i = 0; i < 2; ++i) one(mine.out[n][2 * r + i], state[n * 8 + 2 * of_four + i]);
  }
};

/// The weights that attention gives to slots, for a tap: row h · tokens + t of [heads · tokens, keys]; tokens [first, first + query.rows) of them. A warp a
/// row, slow.
template <class T, class Stored>
struct latent_weights_simt {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    latent_params<T, float> attention;   // out and `expanded` are not used
    view<float> probabilities;           // [heads · tokens, keys]
    std::int64_t first, tokens;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    constexpr int warps = threads / device::warp_size;
    auto const& a = p.attention;
    int const rank = a.cache.rank, slot_dim = a.cache.slot_dim();
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const all = a.query.rows * a.heads;
    auto const first_warp = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id();
    for (auto i = first_warp; i < all; i += static_cast<std::int64_t>(device::grid_x()) * warps) {
      auto const t = i / a.heads;
      auto const h = static_cast<int>(i % a.heads);
      auto const own = slot_of(sites_of(a.cache), a.sequence[t], a.position[t]);
      Stored const* const cached = slots_of<Stored>(a.cache, own >= 0 ? a.sequence[t] : 0);
      float const* const query = a.query.row(t) + static_cast<std::int64_t>(h) * a.query_step;
      T const* const turned = a.q.row(t) + static_cast<std::int64_t>(h + 1) * a.key_dim - slot_dim;   // from element `rank` on
      float* const row = p.probabilities.row(h * p.tokens + p.first + t);
      float top = -infinity<float>, total = 0.0f;
      for (std::int64_t s = device::lane_id(); s < p.probabilities.columns; s += device::warp_size) {
        float score = 0.0f;
        for (int d = 0; s <= own && d < slot_dim; ++d)
          score += (d < rank ? query[d] : static_cast<float>(turned[d])) * static_cast<float>(cached[s * slot_dim + d]);
        row[s] = s <= own ? score * a.scale : -infinity<float>;
        top = row[s] > top ? row[s] : top;
      }
      top = device::warp_max(top);
      for (std::int64_t s = device::lane_id(); s < p.probabilities.columns; s += device::warp_size) {
        row[s] = s <= own ? std::exp(row[s] - top) : 0.0f;
        total += row[s];
      }
      total = device::warp_sum(total);
      for (std::int64_t s = device::lane_id(); s < p.probabilities.columns; s += device::warp_size) row[s] = own >= 0 ? row[s] / total : 0.0f;
    }
  }
};

}  // namespace moesaic::cuda
