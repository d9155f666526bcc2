// Queries and the cache to attention outputs: softmax(q Kᵀ · scale) V, causal, grouped heads, any mix of sequences in a batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/host/kv_cache.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/doubles.hpp>

namespace moesaic::host {

/// The widest head: a task keeps a few rows of this width on its stack.
inline constexpr int max_head_dim = 512;
/// Keys whose scores are kept at a time.
inline constexpr std::int64_t attention_block = 512;
/// Query rows that share one pass over keys and values.
inline constexpr int attention_row_count = 4;

/// One (sequence, kv head) of a cache.
struct attention_head {
  std::byte const* keys;
  std::byte const* values;
  std::int64_t head_dim, max_tokens;
  double scale;
};

/// What a task keeps on its stack: a few query rows and their results.
template <class Sum>
struct attention_rows {
  alignas(64) Sum query[attention_row_count][max_head_dim];
  alignas(64) Sum out[attention_row_count][max_head_dim];
  alignas(64) Sum weight[attention_row_count][attention_block];
  alignas(64) Sum total[attention_row_count][packed::lanes];
  Sum top[attention_row_count], shrink[attention_row_count];
  std::int64_t visible[attention_row_count];  // keys, from slot 0 on
};

}  // namespace moesaic::host

// The kernel for every level, and on doubles as its own reference.
namespace moesaic::host::in_double {
#include <moesaic/host/simd/attention.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/attention.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

namespace attention_detail {

/// Whether shapes fit the cache and each other.
template <class T>
status check(kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence, list<const std::int32_t> position) {
  if (auto const fits = host::check(cache, sequence, position); !fits) return fits;
  if (q.rows != sequence.size) return {status_code::invalid_argument, "Queries have one row for every token.", sequence.size, q.rows};
  if (cache.head_dim > max_head_dim)
    return {status_code::invalid_argument, "Attention keeps its heads on the stack: head_dim is at most 512.", max_head_dim,
            cache.head_dim};
  if (q.columns == 0 || q.columns % (std::int64_t{cache.kv_heads} * cache.head_dim) != 0)
    return {status_code::invalid_argument, "Queries are heads · head_dim wide, heads a multiple of kv_heads.",
            std::int64_t{cache.kv_heads} * cache.head_dim, q.columns};
  return {};
}

}  // namespace attention_detail

/// out[t] = the values of token t's sequence weighted by softmax(q · k · scale) over its slots 0 .. own; query head h reads kv head
/// h / (heads / kv_heads) (arXiv:2305.13245). q, out [tokens, heads · head_dim], out not q; sequence, position [tokens]; scale above 0.
/// Whose keys and values a batch uses must have been appended. Scores, softmax and sums in float (double for double), rounded to T once.
/// A token's bits depend on its own slots only: decoded alone or in a batch, with any number of threads.
/// Promised: the cache's storage where it is known, so that only code for that is made. The head dimension is for backends that compile for it.
template <class T, dtype Promised = dtype::same, int /*HeadDim*/ = 0>
status attend(pool& where, double scale, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
              list<const std::int32_t> position, view<T> out) {
  using sum = accumulator<T>;
  if (auto const fits = attention_detail::check<T>(cache, q, sequence, position); !fits) return fits;
  auto const tokens = sequence.size;
  auto const head_dim = std::int64_t{cache.head_dim};
  auto const group = q.columns / head_dim / cache.kv_heads;  // query heads that read one kv head
  constexpr std::int64_t tile = 8;                           // tokens of a task

  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    where.for_each(packed::ceil_div(tokens, tile) * cache.kv_heads, [&](std::int64_t task) {
      auto const kv_head = task % cache.kv_heads;
      auto const first = task / cache.kv_heads * tile, last = std::min(tokens, first + tile);
      attention_rows<sum> rows;
      for (auto begin = first; begin < last;) {  // a run: tokens of one sequence side by side
        auto end = begin + 1;
        while (end < last && sequence[end] == sequence[begin]) ++end;
        attention_head const head{keys_of(cache, sequence[begin], kv_head), values_of(cache, sequence[begin], kv_head), head_dim,
                                  cache.max_tokens, scale};
        auto const run = (end - begin) * group;
        for (std::int64_t row = 0; row < run; row += attention_row_count) {
          auto const token = [&](std::int64_t r) { return begin + std::min(row + r, run - 1) / group; };  // spare rows repeat the last
          auto const column = [&](std::int64_t r) { return (kv_head * group + std::min(row + r, run - 1) % group) * head_dim; };
          auto const used = std::min<std::int64_t>(run - row, attention_row_count);
          for (int r = 0; r < attention_row_count; ++r) {
            auto const t = token(r);
            rows.visible[r] = slot_of(cache, sequence[t], position[t]) + 1;
            for (std::int64_t d = 0; d < head_dim; ++d) rows.query[r][d] = static_cast<sum>(q(t, column(r) + d));
          }
          at_level<T>(where.level(), [&](auto here) { attend_rows<Stored>(here, head, rows, used > 1); });
          for (int r = 0; r < used; ++r)
            for (std::int64_t d = 0; d < head_dim; ++d) out(token(r), column(r) + d) = static_cast<T>(rows.out[r][d] / rows.total[r][0]);
        }
        begin = end;
      }
    });
  });
  return known ? status{} : cache_detail::wrong_storage;
}

/// The weights that attend() gives to slots, for a tap: probabilities row h · tokens + t, [heads · tokens, keys], zero beyond a
/// token's own slot. Plain and slow. out_of_range where `keys` is not above every token's slot.
template <class T, dtype Promised = dtype::same>
status attention_probabilities(pool& where, double scale, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
                               list<const std::int32_t> position, view<accumulator<T>> probabilities) {
  using sum = accumulator<T>;
  if (auto const fits = attention_detail::check<T>(cache, q, sequence, position); !fits) return fits;
  auto const tokens = sequence.size;
  auto const head_dim = std::int64_t{cache.head_dim};
  auto const heads = q.columns / head_dim, group = heads / cache.kv_heads;
  if (probabilities.rows != heads * tokens)
    return {status_code::invalid_argument, "Probabilities have a row for every head and token.", heads * tokens, probabilities.rows};
  for (std::int64_t t = 0; t < tokens; ++t)
    if (auto const slot = slot_of(cache, sequence[t], position[t]); slot >= probabilities.columns)
      return {status_code::out_of_range, "Probabilities have a column for every slot that a token sees.", probabilities.columns, slot};

  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    where.for_each(heads * tokens, [&](std::int64_t task) {
      auto const h = task / tokens, t = task % tokens;
      auto const* const keys = keys_of(cache, sequence[t], h / group);
      auto const visible = slot_of(cache, sequence[t], position[t]) + 1;
      auto* const row = probabilities.row(task);
      auto largest = -std::numeric_limits<sum>::infinity();
      for (std::int64_t s = 0; s < visible; ++s) {
        row[s] = sum(0);
        for (std::int64_t d = 0; d < head_dim; ++d)
          row[s] += static_cast<sum>(q(t, h * head_dim + d)) * static_cast<sum>(cache_detail::read<Stored>(keys, key_panels(cache), s, d));
        row[s] *= static_cast<sum>(scale);
        largest = std::max(largest, row[s]);
      }
      auto total = sum(0);
      for (std::int64_t s = 0; s < visible; ++s) total += row[s] = std::exp(row[s] - largest);
      for (std::int64_t s = 0; s < probabilities.columns; ++s) row[s] = s < visible ? row[s] / total : sum(0);
    });
  });
  return known ? status{} : cache_detail::wrong_storage;
}

}  // namespace moesaic::host
