// Queries and the cache to attention outputs: softmax(scores(q Kᵀ)) V, causal, grouped heads, any mix of sequences in a batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/attention_rule.hpp>
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
  std::int64_t key_dim, value_dim, max_tokens;
  double scale, softcap;
};

/// What a task keeps on its stack: a few query rows and their results.
template <class Sum>
struct attention_rows {
  alignas(64) Sum query[attention_row_count][max_head_dim];
  alignas(64) Sum out[attention_row_count][max_head_dim];
  alignas(64) Sum weight[attention_row_count][attention_block];
  alignas(64) Sum total[attention_row_count][packed::lanes];
  Sum top[attention_row_count], shrink[attention_row_count];
  Sum sink[attention_row_count];              // −∞ without one
  std::int64_t from[attention_row_count], until[attention_row_count];  // slots that a row sees
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
status check(attention_rule const& rule, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
             list<const std::int32_t> position) {
  if (auto const fits = host::check(cache, sequence, position); !fits) return fits;
  if (q.rows != sequence.size) return {status_code::invalid_argument, "Queries have one row for every token.", sequence.size, q.rows};
  if (cache.key_dim > max_head_dim || cache.value_dim > max_head_dim)
    return {status_code::invalid_argument, "Attention keeps its heads on the stack: head_dim and value_dim are at most 512.", max_head_dim,
            std::max(cache.key_dim, cache.value_dim)};
  if (q.columns == 0 || q.columns % (std::int64_t{cache.kv_heads} * cache.key_dim) != 0)
    return {status_code::invalid_argument, "Queries are heads · head_dim wide, heads a multiple of kv_heads.",
            std::int64_t{cache.kv_heads} * cache.key_dim, q.columns};
  if (!rule.sinks.empty() && rule.sinks.size != q.columns / cache.key_dim)
    return {status_code::invalid_argument, "There is a sink for every query head.", q.columns / cache.key_dim, rule.sinks.size};
  return {};
}

/// Slots [first, second) that a token sees. What its rule lets it see and its sequence does not keep is not there.
inline std::pair<std::int64_t, std::int64_t> seen_by(attention_rule const& rule, kv_cache const& cache, std::int64_t sequence,
                                                     std::int64_t position) {
  auto const own = slot_of(cache, sequence, position);
  return {std::clamp<std::int64_t>(slot_of(cache, sequence, rule.first_seen(position)), 0, own), own + 1};
}

}  // namespace attention_detail

/// out[t] = the values of token t's sequence weighted by the softmax of its scores. Slots: its own and those before, as far back as
/// rule.window and rule.chunk reach. Scores: q · k · scale, through rule.softcap where there is one, and rule.sinks beside them. Query head
/// h reads kv head rule.kv_head(h) (arXiv:2305.13245). q [tokens, heads · key_dim]; out [tokens, heads · value_dim], not q; sequence,
/// position [tokens]; scale above 0.
/// Whose keys and values a batch uses must have been appended. Scores, softmax and sums in float (double for double), rounded to T once.
/// A token's bits depend on its own slots only: decoded alone or in a batch, with any number of threads.
/// Promised: the cache's storage where it is known, so that only code for that is made. The dimensions, and that a rule is plain, are for
/// backends that compile for them.
template <class T, dtype Promised = dtype::same, int /*KeyDim*/ = 0, int /*ValueDim*/ = 0, bool /*Plain*/ = false>
status attend(pool& where, attention_rule const& rule, kv_cache const& cache, view<const T> q, list<const std::int32_t> sequence,
              list<const std::int32_t> position, view<T> out) {
  using sum = accumulator<T>;
  if (auto const fits = attention_detail::check<T>(rule, cache, q, sequence, position); !fits) return fits;
  auto const tokens = sequence.size;
  auto const key_dim = std::int64_t{cache.key_dim}, value_dim = std::int64_t{cache.value_dim};
  auto const heads = q.columns / key_dim, group = heads / cache.kv_heads;  // query heads that read one kv head
  if (out.rows != tokens || out.columns != heads * value_dim)
    return {status_code::invalid_argument, "Attention writes heads · value_dim columns.", heads * value_dim, out.columns};
  constexpr std::int64_t tile = 8;                                         // tokens of a task

  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    where.for_each(packed::ceil_div(tokens, tile) * cache.kv_heads, [&](std::int64_t task) {
      auto const kv_head = task % cache.kv_heads;
      auto const first = task / cache.kv_heads * tile, last = std::min(tokens, first + tile);
      attention_rows<sum> rows;
      for (auto begin = first; begin < last;) {  // a run: tokens of one sequence side by side
        auto end = begin + 1;
        while (end < last && sequence[end] == sequence[begin]) ++end;
        attention_head const head{keys_of(cache, sequence[begin], kv_head), values_of(cache, sequence[begin], kv_head), key_dim, value_dim,
                                  cache.max_tokens, rule.scale, rule.softcap};
        auto const run = (end - begin) * group;
        for (std::int64_t row = 0; row < run; row += attention_row_count) {
          auto const token = [&](std::int64_t r) { return begin + std::min(row + r, run - 1) / group; };  // spare rows repeat the last
          auto const query_head = [&](std::int64_t r) {
            auto const member = std::min(row + r, run - 1) % group;
            return rule.tiled_kv ? member * cache.kv_heads + kv_head : kv_head * group + member;
          };
          auto const used = std::min<std::int64_t>(run - row, attention_row_count);
          for (int r = 0; r < attention_row_count; ++r) {
            auto const t = token(r), h = query_head(r);
            auto const [from, until] = attention_detail::seen_by(rule, cache, sequence[t], position[t]);
            rows.from[r] = from, rows.until[r] = until;
            rows.sink[r] = rule.sinks.empty() ? -std::numeric_limits<sum>::infinity() : static_cast<sum>(rule.sinks[h]);
            for (std::int64_t d = 0; d < key_dim; ++d) rows.query[r][d] = static_cast<sum>(q(t, h * key_dim + d));
          }
          at_level<T>(where.level(), [&](auto here) { attend_rows<Stored>(here, head, rows, used > 1); });
          for (int r = 0; r < used; ++r)
            for (std::int64_t d = 0; d < value_dim; ++d)
              out(token(r), query_head(r) * value_dim + d) = static_cast<T>(rows.out[r][d] / rows.total[r][0]);
        }
        begin = end;
      }
    });
  });
  return known ? status{} : cache_detail::wrong_storage;
}

/// The weights that attend() gives to slots, for a tap: probabilities row h · tokens + t, [heads · tokens, keys], zero where a token does
/// not look; with sinks they sum to less than 1. Plain and slow. out_of_range where `keys` is not above every token's slot.
template <class T, dtype Promised = dtype::same>
status attention_probabilities(pool& where, attention_rule const& rule, kv_cache const& cache, view<const T> q,
                               list<const std::int32_t> sequence, list<const std::int32_t> position, view<accumulator<T>> probabilities) {
  using sum = accumulator<T>;
  if (auto const fits = attention_detail::check<T>(rule, cache, q, sequence, position); !fits) return fits;
  auto const tokens = sequence.size;
  auto const key_dim = std::int64_t{cache.key_dim};
  auto const heads = q.columns / key_dim;
  if (probabilities.rows != heads * tokens)
    return {status_code::invalid_argument, "Probabilities have a row for every head and token.", heads * tokens, probabilities.rows};
  for (std::int64_t t = 0; t < tokens; ++t)
    if (auto const slot = slot_of(cache, sequence[t], position[t]); slot >= probabilities.columns)
      return {status_code::out_of_range, "Probabilities have a column for every slot that a token sees.", probabilities.columns, slot};

  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    where.for_each(heads * tokens, [&](std::int64_t task) {
      auto const h = task / tokens, t = task % tokens;
      auto const* const keys = keys_of(cache, sequence[t], rule.kv_head(h, heads, cache.kv_heads));
      auto const seen = attention_detail::seen_by(rule, cache, sequence[t], position[t]);
      auto const sink = rule.sinks.empty() ? -std::numeric_limits<sum>::infinity() : static_cast<sum>(rule.sinks[h]);
      auto* const row = probabilities.row(task);
      std::fill_n(row, probabilities.columns, sum(0));
      auto largest = sink;
      for (auto s = seen.first; s < seen.second; ++s) {
        for (std::int64_t d = 0; d < key_dim; ++d)
          row[s] += static_cast<sum>(q(t, h * key_dim + d)) * static_cast<sum>(cache_detail::read<Stored>(keys, key_panels(cache), s, d));
        row[s] *= static_cast<sum>(rule.scale);
        if (auto const cap = static_cast<sum>(rule.softcap); cap != 0) row[s] = cap * std::tanh(row[s] / cap);
        largest = std::max(largest, row[s]);
      }
      auto total = std::exp(sink - largest);
      for (auto s = seen.first; s < seen.second; ++s) total += row[s] = std::exp(row[s] - largest);
      for (auto s = seen.first; s < seen.second; ++s) row[s] /= total;
    });
  });
  return known ? status{} : cache_detail::wrong_storage;
}

}  // namespace moesaic::host
