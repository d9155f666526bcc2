// Queries and the cache to attention outputs: a warp a query (simt), tiles of a prompt by mma.sync, and single tokens with their keys split (sm80, sm90).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/attention_rule.hpp>
#include <moesaic/cuda/kernel/kv_cache.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/tuning/attention.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda {

/// out[t] = values of token t's sequence weighted by the softmax of its scores over the slots that it sees: its own and those before, as far back as the
/// rule reaches. A token whose site lies outside the cache gets zeros: it attends to nothing.
template <class T>
struct attention_params {
  kv_cache cache;
  view<const T> q;                       // [tokens, heads · key_dim]
  view<T> out;                           // [tokens, heads · value_dim]
  std::int32_t const *sequence, *position;   // [tokens]
  float scale;                           // of q · k; where there is a cap, divided by it
  int heads, group;                      // query heads, and those that share a kv head
  bool one_by_one = false;               // attend_split takes prompts too
  float softcap = 0, unit = 1;           // scores and sinks are in units of 1 / unit: log2 e where weights are powers of two
  attention_rule rule = {};              // what else kernels that are not plain look at

  MOESAIC_DEVICE std::int64_t slot(std::int64_t token) const { return slot_of(cache, sequence[token], position[token]); }
  /// The first slot that a token with slot `own` sees.
  template <bool Plain>
  MOESAIC_DEVICE std::int64_t first_slot(std::int64_t token, std::int64_t own) const {
    if constexpr (Plain) {
      return 0;
    } else {
      auto const slot = own - (position[token] - rule.first_seen(position[token]));
      return slot > 0 ? slot : 0;
    }
  }
  template <bool Plain>
  MOESAIC_DEVICE int kv_head(int head) const {
    if constexpr (!Plain)
      if (rule.tiled_kv) return head % cache.kv_heads;
    return head / group;
  }
  template <bool Plain>
  MOESAIC_DEVICE float score(float product) const {
    if constexpr (!Plain)
      if (softcap != 0.0f) return softcap * std::tanh(product * scale);
    return product * scale;
  }
  /// The logit that joins a head's softmax: −∞ without one.
  template <bool Plain>
  MOESAIC_DEVICE float sink(int head) const {
    if constexpr (!Plain)
      if (rule.sinks.data != nullptr) return rule.sinks.data[head] * unit;
    return -infinity<float>;
  }
  /// Its weight beside a largest score that is the sink's own: 0 where there is none.
  MOESAIC_DEVICE static float weight_of(float sink) { return sink == -infinity<float> ? 0.0f : 1.0f; }
};

/// Any types and dimensions: 32 keys at a time, a key a lane for the scores, a column a lane for the sums.
template <class T, class Stored, bool Plain>
struct attend_simt {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  static constexpr int warps = threads / device::warp_size;
  using params = attention_params<T>;
  struct shared {
    float query[warps][attention_tuning::most_head_dim];
  };
  static constexpr int columns_a_lane = attention_tuning::most_head_dim / device::warp_size;

  MOESAIC_DEVICE void operator()(params const& p) const {
    int const key_dim = p.cache.key_dim, value_dim = p.cache.value_dim, lane = device::lane_id();
    float* const query = device::shared<shared>().query[device::warp_id()];
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const all = p.q.rows * p.heads;
    for (std::int64_t i = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id(); i < all; i += static_cast<std::int64_t>(device::grid_x()) * warps) {
      auto const t = i / p.heads;
      auto const h = static_cast<int>(i % p.heads);
      T const* const q = p.q.row(t) + static_cast<std::int64_t>(h) * key_dim;
      device::warp_sync();               // the row before is done with `query`
      for (int d = lane; d < key_dim; d += device::warp_size) query[d] = static_cast<float>(q[d]);
      device::warp_sync();
      auto const own = p.slot(t);
      auto const known = own >= 0 ? p.sequence[t] : 0;
      Stored const* const keys = keys_of<Stored>(p.cache, known, p.template kv_head<Plain>(h));
      Stored const* const values = values_of<Stored>(p.cache, known, p.template kv_head<Plain>(h));
      float top = p.template sink<Plain>(h), total = p.weight_of(top), sum[columns_a_lane] = {};
      for (std::int64_t first = p.template first_slot<Plain>(t, own); first <= own; first += device::warp_size) {
        bool const visible = first + lane <= own;
        float score = 0.0f;
        if (visible)
          for (int d = 0; d < key_dim; ++d) score += query[d] * static_cast<float>(keys[(first + lane) * key_dim + d]);
        score = visible ? p.template score<Plain>(score) : -infinity<float>;
        float const highest = device::warp_max(score), next = highest > top ? highest : top;
        float const shrink = std::exp(top - next), weight = std::exp(score - next);
        total = total * shrink + device::warp_sum(weight);
        top = next;
        int const count = own - first + 1 < device::warp_size ? static_cast<int>(own - first + 1) : device::warp_size;
        MOESAIC_UNROLL
        for (int c = 0; c < columns_a_lane; ++c) sum[c] *= shrink;
        for (int k = 0; k < count; ++k) {
          float const w = device::shuffle(weight, k);
          MOESAIC_UNROLL
          for (int c = 0; c < columns_a_lane; ++c) {
            int const d = c * device::warp_size + lane;
            if (d < value_dim) sum[c] += w * static_cast<float>(values[(first + k) * value_dim + d]);
          }
        }
      }
      T* const out = p.out.row(t) + static_cast<std::int64_t>(h) * value_dim;
      MOESAIC_UNROLL
      for (int c = 0; c < columns_a_lane; ++c) {
        int const d = c * device::warp_size + lane;
        if (d < value_dim) out[d] = static_cast<T>(own >= 0 ? sum[c] / total : 0.0f);
      }
    }
  }
};

/// What a warp holds of 16 query rows: fragments of the queries, running maxima and sums, and the output's accumulators. Lane l has rows l / 4 and
/// l / 4 + 8. Scores are in units of log2 e, so that weights are powers of two.
template <int KeyDim, int ValueDim, bool Plain>
struct attention_rows {
  /// Of rows in shared memory: an odd number of 16-byte chunks, so that ldmatrix meets no bank twice.
  static constexpr int stride = KeyDim + 8, value_stride = ValueDim + 8;
  /// Of the widest heads, queries and outputs would take more registers than there are: queries stay in shared memory, and are read for each tile of keys.
  static constexpr bool keeps_query = KeyDim + ValueDim < 512;
  bf16 const* queries;
  std::uint32_t query[keeps_query ? KeyDim / 16 : 1][4];
  float top[2] = {-infinity<float>, -infinity<float>}, total[2] = {};
  float out[ValueDim / 8][4] = {};

  /// The sink of row r, which one of the four lanes that share it adds up.
  MOESAIC_DEVICE void start(int r, float sink) {
    if constexpr (!Plain) {
      top[r] = sink;
      if (device::lane_id() % 4 == 0) total[r] = attention_params<bf16>::weight_of(sink);
    }
  }

  /// Queries of 16 rows [16, stride] in shared memory, where they stay.
  MOESAIC_DEVICE void load_query(bf16 const* rows) {
    int const lane = device::lane_id();
    queries = rows + lane % 16 * stride + lane / 16 * 8;
    if constexpr (keeps_query) {
      MOESAIC_UNROLL
      for (int k = 0; k < KeyDim / 16; ++k) device::ldmatrix<4>(query[k], queries + k * 16);
    }
  }

  /// Goes on by `Keys` keys [Keys, stride] and values [Keys, value_stride] in shared memory, whose first is slot `first`; row i of mine sees slots
  /// from[i] .. visible[i].
  template <int Keys>
  MOESAIC_DEVICE void visit(bf16 const* keys, bf16 const* values, std::int64_t first, std::int64_t const (&from)[2], std::int64_t const (&visible)[2],
                            attention_params<bf16> const& p) {
    int const lane = device::lane_id();
    float score[Keys / 8][4] = {};
    MOESAIC_UNROLL
    for (int k = 0; k < KeyDim / 16; ++k) {
      auto& a = query[keeps_query ? k : 0];
      if constexpr (!keeps_query) device::ldmatrix<4>(a, queries + k * 16);
      MOESAIC_UNROLL
      for (int n = 0; n < Keys / 16; ++n) {
        std::uint32_t b[4];
        device::ldmatrix<4>(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * stride + k * 16 + lane / 8 % 2 * 8);
        std::uint32_t const low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        device::mma_sync<dtype::bf16>(score[2 * n], a, low);
        device::mma_sync<dtype::bf16>(score[2 * n + 1], a, high);
      }
    }
    float highest[2] = {top[0], top[1]};
    // Counted from this lane's first key on, since 32 bits hold what lies between two slots of a cache.
    auto const mine = first + 2 * (lane % 4);
    int const until[2] = {static_cast<int>(visible[0] - mine), static_cast<int>(visible[1] - mine)};
    int const since[2] = {static_cast<int>(from[0] - mine), static_cast<int>(from[1] - mine)};
    MOESAIC_UNROLL
    for (int n = 0; n < Keys / 8; ++n)
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) {
        int const key = n * 8 + i % 2;
        bool const sees = key <= until[i / 2] && (Plain || key >= since[i / 2]);
        score[n][i] = sees ? p.template score<Plain>(score[n][i]) : -infinity<float>;
        highest[i / 2] = score[n][i] > highest[i / 2] ? score[n][i] : highest[i / 2];
      }
    MOESAIC_UNROLL
    for (int r = 0; r < 2; ++r) {
      for (int mask = 1; mask <= 2; mask *= 2) {
        float const other = device::shuffle_xor(highest[r], mask);
        highest[r] = other > highest[r] ? other : highest[r];
      }
      float const base = highest[r] > -infinity<float> ? highest[r] : 0.0f;   // a row that has seen nothing yet
      float const shrink = device::ex2_approx(top[r] - base);
      top[r] = highest[r];
      total[r] *= shrink;
      MOESAIC_UNROLL
      for (int n = 0; n < ValueDim / 8; ++n) out[n][2 * r] *= shrink, out[n][2 * r + 1] *= shrink;
      MOESAIC_UNROLL
      for (int n = 0; n < Keys / 8; ++n)
        MOESAIC_UNROLL
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          score[n][i] = device::ex2_approx(score[n][i] - base);
          total[r] += score[n][i];
        }
    }
    MOESAIC_UNROLL
    for (int k = 0; k < Keys / 16; ++k) {
      std::uint32_t const a[4] = {device::cvt_bf16x2(score[2 * k][0], score[2 * k][1]), device::cvt_bf16x2(score[2 * k][2], score[2 * k][3]),
                                  device::cvt_bf16x2(score[2 * k + 1][0], score[2 * k + 1][1]), device::cvt_bf16x2(score[2 * k + 1][2], score[2 * k + 1][3])};
      MOESAIC_UNROLL
      for (int n = 0; n < ValueDim / 16; ++n) {
        std::uint32_t b[4];
        device::ldmatrix_trans<4>(b, values + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * value_stride + n * 16 + lane / 16 * 8);
        std::uint32_t const low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        device::mma_sync<dtype::bf16>(out[2 * n], a, low);
        device::mma_sync<dtype::bf16>(out[2 * n + 1], a, high);
      }
    }
  }

  /// Σ of a row's weights over the four lanes that share it.
  MOESAIC_DEVICE float whole(int row) const {
    float sum = total[row];
    sum += device::shuffle_xor(sum, 1);
    return sum + device::shuffle_xor(sum, 2);
  }
};

/// `Rows` rows of `Dim` from global to shared memory by cp.async, `threads` threads together, number `thread` the caller; rows from `count` on are zero.
template <int Dim, int Rows>
MOESAIC_DEVICE void copy_rows(bf16* to, bf16 const* from, std::int64_t stride, std::int64_t count, int thread, int threads) {
  constexpr int chunks = Dim / 8;
  for (int i = thread; i < Rows * chunks; i += threads) {
    int const row = i / chunks, c = i % chunks;
    bool const there = row < count;
    device::cp_async<16>(to + row * (Dim + 8) + c * 8, from + (there ? row * stride : 0) + c * 8, there ? 16 : 0);
  }
}

/// The part of a run of tokens of one sequence that lies in one tile of the batch; tokens of short parts are split_attention's.
template <int Tile>
MOESAIC_DEVICE bool belongs_to_prompt(std::int32_t const* sequence, std::int64_t tokens, std::int64_t t) {
  auto const first = t / Tile * Tile, last = first + Tile < tokens ? first + Tile : tokens;
  int length = 1;
  for (auto i = t - 1; i >= first && length < attention_tuning::prompt_tokens && sequence[i] == sequence[t]; --i) ++length;
  for (auto i = t + 1; i < last && length < attention_tuning::prompt_tokens && sequence[i] == sequence[t]; ++i) ++length;
  return length >= attention_tuning::prompt_tokens;
}

/// Prompts: a block takes 64 tokens of the batch and one query head, and goes over the keys of every sequence that has enough tokens among them.
template <int KeyDim, int ValueDim, bool Plain>
struct attend_prompt {
  static constexpr int widest = KeyDim > ValueDim ? KeyDim : ValueDim;
  static constexpr int tile = attention_tuning::tile_tokens, keys = attention_tuning::tile_keys(widest), stages = attention_tuning::stages(widest);
  static constexpr int threads = tile / 16 * device::warp_size;
  static constexpr rung needs = rung::sm80;
  using params = attention_params<bf16>;
  using rows = attention_rows<KeyDim, ValueDim, Plain>;
  struct shared {
    alignas(16) bf16 query[tile * rows::stride];
    alignas(16) bf16 key[stages][keys * rows::stride];
    alignas(16) bf16 value[stages][keys * rows::value_stride];
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    auto const first = static_cast<std::int64_t>(device::block_x()) * tile;
    auto const last = first + tile < p.q.rows ? first + tile : p.q.rows;
    for (auto begin = first; begin < last;) {
      auto end = begin + 1;
      while (end < last && p.sequence[end] == p.sequence[begin]) ++end;
      if (end - begin >= attention_tuning::prompt_tokens) visit_run(p, begin, end);
      begin = end;
    }
  }

 private:
  MOESAIC_DEVICE static void visit_run(params const& p, std::int64_t begin, std::int64_t end) {
    auto& memory = device::shared<shared>();
    int const thread = device::thread_id(), lane = device::lane_id(), head = device::block_y();
    copy_rows<KeyDim, tile>(memory.query, p.q.row(begin) + static_cast<std::int64_t>(head) * KeyDim, p.q.stride, end - begin, thread, threads);
    // Rows of the block's tile are those of the run, from row 0 on.
    int const row = device::warp_id() * 16 + lane / 4;
    std::int64_t const visible[2] = {begin + row < end ? p.slot(begin + row) : -1, begin + row + 8 < end ? p.slot(begin + row + 8) : -1};
    std::int64_t const seen_from[2] = {visible[0] >= 0 ? p.template first_slot<Plain>(begin + row, visible[0]) : 0,
                                       visible[1] >= 0 ? p.template first_slot<Plain>(begin + row + 8, visible[1]) : 0};
    // The keys that some row sees.
    std::int64_t earliest = Plain ? 0 : p.cache.max_tokens, longest = -1;
    for (auto t = begin; t < end; ++t) {
      auto const slot = p.slot(t);
      longest = slot > longest ? slot : longest;
      if constexpr (!Plain)
        if (auto const from = p.template first_slot<Plain>(t, slot); slot >= 0 && from < earliest) earliest = from;
    }
    auto const sequence = longest >= 0 ? p.sequence[begin] : 0;
    bf16 const* const key = keys_of<bf16>(p.cache, sequence, p.template kv_head<Plain>(head));
    bf16 const* const value = values_of<bf16>(p.cache, sequence, p.template kv_head<Plain>(head));
    auto const fetch = [&](std::int64_t from) {
      auto const stage = (from - earliest) / keys % stages;
      if (from <= longest) {
        copy_rows<KeyDim, keys>(memory.key[stage], key + from * KeyDim, KeyDim, longest + 1 - from, thread, threads);
        copy_rows<ValueDim, keys>(memory.value[stage], value + from * ValueDim, ValueDim, longest + 1 - from, thread, threads);
      }
      device::cp_async_commit_group();
    };
    for (int s = 0; s < stages - 1 || s == 0; ++s) fetch(earliest + static_cast<std::int64_t>(s) * keys);
    rows mine;
    mine.start(0, p.template sink<Plain>(head)), mine.start(1, p.template sink<Plain>(head));
    for (std::int64_t from = earliest; from <= longest; from += keys) {
      if constexpr (stages > 1) fetch(from + (stages - 1) * keys);
      device::cp_async_wait_group<(stages > 1 ? stages - 1 : 0)>();
      device::block_sync();
      if (from == earliest) mine.load_query(memory.query + device::warp_id() * 16 * rows::stride);
      auto const stage = (from - earliest) / keys % stages;
      mine.template visit<keys>(memory.key[stage], memory.value[stage], from, seen_from, visible, p);
      device::block_sync();              // all have read the stage before it is filled again
      if constexpr (stages == 1) fetch(from + keys);
    }
    device::cp_async_wait_group<0>();
    MOESAIC_UNROLL
    for (int r = 0; r < 2; ++r) {
      float const whole = mine.whole(r);
      if (begin + row + 8 * r >= end) continue;
      bf16* const out = p.out.row(begin + row + 8 * r) + static_cast<std::int64_t>(head) * ValueDim;
      MOESAIC_UNROLL
      for (int n = 0; n < ValueDim / 8; ++n) {
        float const scale = visible[r] >= 0 ? 1.0f / whole : 0.0f;
        *reinterpret_cast<std::uint32_t*>(out + n * 8 + 2 * (lane % 4)) = device::cvt_bf16x2(mine.out[n][2 * r] * scale, mine.out[n][2 * r + 1] * scale);
      }
    }
    device::block_sync();                // the memory is free for the next run
  }
};

/// Takes what another has found into (top, total, out).
MOESAIC_DEVICE void join_found(float other_top, float other_total, float other_out, float& top, float& total, float& out) {
  float const next = other_top > top ? other_top : top;
  bool const some = next > -infinity<float>;             // or nothing was seen, or NaN alone, which stays
  float const mine = some ? device::ex2_approx(top - next) : 1.0f, others = some ? device::ex2_approx(other_top - next) : 1.0f;
  total = total * mine + other_total * others;
  out = out * mine + other_out * others;
  top = next;
}

/// Single tokens: the query heads of one kv head are the rows of a tile, and its keys are dealt out to the warps of a block, and with `Cluster` above 1 to
/// the blocks of a cluster. What they found is joined in one fixed order, so that bits depend on the token's own slots alone.
template <int KeyDim, int ValueDim, int Cluster, bool Plain>
struct attend_split {
  static constexpr int warps = 4, keys = attention_tuning::split_keys;
  static constexpr int threads = warps * device::warp_size;
  static constexpr rung needs = Cluster > 1 ? rung::sm90 : rung::sm80;
  using params = attention_params<bf16>;
  using rows = attention_rows<KeyDim, ValueDim, Plain>;
  /// Of 16 rows, as one warp leaves them for the others.
  struct found {
    float top[16], total[16], out[16][ValueDim];
  };
  struct warp_memory {
    alignas(16) bf16 key[keys * rows::stride];
    alignas(16) bf16 value[keys * rows::value_stride];
  };
  struct shared {
    alignas(16) bf16 query[16 * rows::stride];
    union {
      warp_memory of_warp[warps];
      found left[warps];                 // when all keys have been read
    };
  };

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& memory = device::shared<shared>();
    int const lane = device::lane_id(), warp = device::warp_id(), rank = Cluster > 1 ? device::cluster_rank() : 0;
    auto const t = static_cast<std::int64_t>(device::block_x()) / Cluster;
    int const kv_head = device::block_y(), first_head = device::block_z() * 16;   // of the group
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    if (!p.one_by_one && belongs_to_prompt<attention_tuning::tile_tokens>(p.sequence, p.q.rows, t)) return;   // all blocks of the cluster alike
    int const heads = p.group - first_head < 16 ? p.group - first_head : 16;
    // Query heads of the tile: `head`, and `apart` further each.
    bool tiled = false;
    if constexpr (!Plain) tiled = p.rule.tiled_kv;
    int const head = tiled ? first_head * p.cache.kv_heads + kv_head : kv_head * p.group + first_head, apart = tiled ? p.cache.kv_heads : 1;
    auto const own = p.slot(t);
    copy_rows<KeyDim, 16>(memory.query, p.q.row(t) + static_cast<std::int64_t>(head) * KeyDim, static_cast<std::int64_t>(apart) * KeyDim, heads, device::thread_id(), threads);
    device::cp_async_commit_group();
    device::cp_async_wait_group<0>();
    device::block_sync();

    auto const sequence = own >= 0 ? p.sequence[t] : 0;
    bf16 const* const key = keys_of<bf16>(p.cache, sequence, kv_head);
    bf16 const* const value = values_of<bf16>(p.cache, sequence, kv_head);
    rows mine;
    mine.load_query(memory.query);
    auto const first = own >= 0 ? p.template first_slot<Plain>(t, own) : 0;
    std::int64_t const seen_from[2] = {first, first}, visible[2] = {own, own};
    if constexpr (!Plain)
      if (warp == 0 && rank == 0)        // sinks enter once
        MOESAIC_UNROLL
        for (int r = 0; r < 2; ++r)
          if (int const row = lane / 4 + 8 * r; row < heads) mine.start(r, p.template sink<Plain>(head + row * apart));
    auto& tile = memory.of_warp[warp];
    for (std::int64_t from = first + (static_cast<std::int64_t>(rank) * warps + warp) * keys; from <= own; from += Cluster * warps * keys) {
      device::warp_sync();               // the tile before has been read
      copy_rows<KeyDim, keys>(tile.key, key + from * KeyDim, KeyDim, own + 1 - from, lane, device::warp_size);
      copy_rows<ValueDim, keys>(tile.value, value + from * ValueDim, ValueDim, own + 1 - from, lane, device::warp_size);
      device::cp_async_commit_group();
      device::cp_async_wait_group<0>();
      device::warp_sync();
      mine.template visit<keys>(tile.key, tile.value, from, seen_from, visible, p);
    }
    device::block_sync();                // all tiles have been read
    leave(mine, memory.left[warp]);
    device::block_sync();
    if constexpr (Cluster > 1) {
      join_warps(memory);
      device::cluster_arrive();
      device::cluster_wait();
      if (rank == 0) join_cluster(memory, p.out.row(t), head, apart, heads, own >= 0);
      device::cluster_arrive();          // nobody leaves while his memory is read
      device::cluster_wait();
    } else {
      for (int i = device::thread_id(); i < heads * ValueDim; i += threads) {
        int const r = i / ValueDim, d = i % ValueDim;
        float top = -infinity<float>, total = 0.0f, out = 0.0f;
        for (int w = 0; w < warps; ++w) join_found(memory.left[w].top[r], memory.left[w].total[r], memory.left[w].out[r][d], top, total, out);
        p.out.row(t)[static_cast<std::int64_t>(head + r * apart) * ValueDim + d] = static_cast<bf16>(own >= 0 ? out / total : 0.0f);
      }
    }
  }

 private:
  MOESAIC_DEVICE static void leave(rows const& mine, found& to) {
    int const lane = device::lane_id();
    MOESAIC_UNROLL
    for (int r = 0; r < 2; ++r) {
      int const row = lane / 4 + 8 * r;
      float const whole = mine.whole(r);
      if (lane % 4 == 0) to.top[row] = mine.top[r], to.total[row] = whole;
      MOESAIC_UNROLL
      for (int n = 0; n < ValueDim / 8; ++n) {
        to.out[row][n * 8 + 2 * (lane % 4)] = mine.out[n][2 * r];
        to.out[row][n * 8 + 2 * (lane % 4) + 1] = mine.out[n][2 * r + 1];
      }
    }
  }
  /// The block's warps into what warp 0 left; a thread has a column of a row, and the row's own numbers are written when all have read them.
  MOESAIC_DEVICE static void join_warps(shared& memory) {
    constexpr int each = 16 * ValueDim / threads;
    float tops[each], totals[each];
    MOESAIC_UNROLL
    for (int i = 0; i < each; ++i) {
      int const at = i * threads + device::thread_id(), r = at / ValueDim, d = at % ValueDim;
      float top = -infinity<float>, total = 0.0f, out = 0.0f;
      for (int w = 0; w < warps; ++w) join_found(memory.left[w].top[r], memory.left[w].total[r], memory.left[w].out[r][d], top, total, out);
      memory.left[0].out[r][d] = out;
      tops[i] = top, totals[i] = total;
    }
    device::block_sync();
    MOESAIC_UNROLL
    for (int i = 0; i < each; ++i) {
      int const at = i * threads + device::thread_id(), r = at / ValueDim;
      if (at % ValueDim == 0) memory.left[0].top[r] = tops[i], memory.left[0].total[r] = totals[i];
    }
  }
  MOESAIC_DEVICE static void join_cluster(shared& memory, bf16* row, int head, int apart, int heads, bool seen) {
    auto const read = [](float const& place, int rank) { return bit_cast<float>(device::load_cluster(device::mapa(&place, rank))); };
    for (int i = device::thread_id(); i < heads * ValueDim; i += threads) {
      int const r = i / ValueDim, d = i % ValueDim;
      auto const& left = memory.left[0];
      float top = -infinity<float>, total = 0.0f, out = 0.0f;
      for (int rank = 0; rank < Cluster; ++rank) join_found(read(left.top[r], rank), read(left.total[r], rank), read(left.out[r][d], rank), top, total, out);
      row[static_cast<std::int64_t>(head + r * apart) * ValueDim + d] = static_cast<bf16>(seen ? out / total : 0.0f);
    }
  }
};

/// The weights that attention gives to slots, for a tap: row h · tokens + t of [heads · tokens, keys]. A warp a row, slow.
template <class T, class Stored>
struct attention_weights_simt {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    attention_params<T> attention;       // out is not used
    view<float> probabilities;           // [heads · tokens, keys]
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    constexpr int warps = threads / device::warp_size;
    auto const& a = p.attention;
    int const key_dim = a.cache.key_dim;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t i = static_cast<std::int64_t>(device::block_x()) * warps + device::warp_id(); i < p.probabilities.rows;
         i += static_cast<std::int64_t>(device::grid_x()) * warps) {
      auto const t = i % a.q.rows;
      auto const h = static_cast<int>(i / a.q.rows);
      auto const own = a.slot(t);
      Stored const* const keys = keys_of<Stored>(a.cache, own >= 0 ? a.sequence[t] : 0, a.template kv_head<false>(h));
      T const* const q = a.q.row(t) + static_cast<std::int64_t>(h) * key_dim;
      float* const row = p.probabilities.row(i);
      auto const first = own >= 0 ? a.template first_slot<false>(t, own) : 0;
      auto const sees = [&](std::int64_t s) { return s >= first && s <= own; };
      float const sink = a.template sink<false>(h);
      float top = sink, total = 0.0f;
      for (std::int64_t s = device::lane_id(); s < p.probabilities.columns; s += device::warp_size) {
        float score = 0.0f;
        for (int d = 0; sees(s) && d < key_dim; ++d) score += static_cast<float>(q[d]) * static_cast<float>(keys[s * key_dim + d]);
        row[s] = sees(s) ? a.template score<false>(score) : -infinity<float>;
        top = row[s] > top ? row[s] : top;
      }
      top = device::warp_max(top);
      for (std::int64_t s = device::lane_id(); s < p.probabilities.columns; s += device::warp_size) {
        row[s] = sees(s) ? std::exp(row[s] - top) : 0.0f;
        total += row[s];
      }
      total = device::warp_sum(total) + (a.weight_of(sink) != 0.0f ? std::exp(sink - top) : 0.0f);
      for (std::int64_t s = device::lane_id(); s < p.probabilities.columns; s += device::warp_size) row[s] = own >= 0 ? row[s] / total : 0.0f;
    }
  }
};

}  // namespace moesaic::cuda
