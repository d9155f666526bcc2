// What a layer needs before it runs: weights packed by all threads, an empty cache, a table of rotary frequencies.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include <moesaic/config/shapes.hpp>
#include <moesaic/host/kv_cache.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pack.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/rotary.hpp>

namespace moesaic::host {

namespace pack_detail {

using pair_packer = void (*)(packed_matrix const& m, std::int64_t index, row_source source, std::byte* out, std::int64_t first_pair, std::int64_t last_pair);

inline void pack(pool& where, packed_matrix const& m, std::int64_t index, row_source source, pair_packer pack_pairs) {
  constexpr std::int64_t pairs_a_task = 8;               // 128 or 256 outputs: whole fp8 blocks, whose rows are read twice
  auto const pairs = packed::pairs(m);
  auto const tasks = (pairs + pairs_a_task - 1) / pairs_a_task;
  auto const pack_task = [&](std::int64_t task) {
    auto const first = task * pairs_a_task;
    pack_pairs(m, index, source, const_cast<std::byte*>(m.data), first, std::min(pairs, first + pairs_a_task));
  };
  std::atomic<std::int64_t> failed{tasks};
  where.for_each(tasks, [&](std::int64_t task) {
    try {
      pack_task(task);
    } catch (...) {
      auto earliest = failed.load();
      while (task < earliest && !failed.compare_exchange_weak(earliest, task)) {}
    }
  });
  // Once more, alone, from the first that failed on: the message does not depend on threads, and where memory was short for a moment
  // every task that failed is packed after all.
  for (auto task = failed.load(); task < tasks; ++task) pack_task(task);
}

}  // namespace pack_detail

/// Packs matrix `index` of `m` into the memory that m.data points to, which the caller owns. `source` as of pack_pairs; threads call it at
/// the same time. Throws what packing throws, of the first rows that fail.
/// Promised: the stored type where it is known, so that only code for that is made.
template <dtype Promised = dtype::same, class RowSource>
void pack(pool& where, packed_matrix const& m, std::int64_t index, RowSource const& source) {
  pack_detail::pack(where, m, index, packing::as_row_source(source), &pack_detail::pack_pairs<Promised>);
}

using owned_kv_cache = owned_cache<kv_cache>;

/// An empty cache for a layer of these shapes: `sequences` sequences of up to max_tokens tokens.
template <class T>
owned_kv_cache make_kv_cache(pool&, block_shapes const& s, int sequences, int max_tokens) {
  check_cache(sequences, max_tokens);
  return owned_kv_cache(kv_cache{s.cache, sequences, s.kv_heads, s.key_dim, s.value_dim, max_tokens, nullptr, {}});
}

/// Frequencies of a rotary embedding that turns `turning` elements of a head: [rope_frequency_count].
inline void rope_frequencies(pool&, attention_config const& config, int turning, list<double> into) { moesaic::rope_frequencies(config, turning, into); }

/// The table that `rotate` takes, in the precision that T's angles are computed in, of kept frequencies. Heads are `head_dim` elements apart.
template <class T>
rope_table<accumulator<T>> rope_of(pool&, attention_config const& config, int head_dim, list<const double> frequencies) {
  return rope_table_of<accumulator<T>>(config, head_dim, frequencies);
}

}  // namespace moesaic::host
