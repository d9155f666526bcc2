// A key-value cache with memory of its own, and the two calls of attention in a row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <moesaic/host/attention.hpp>
#include <moesaic/host/memory.hpp>
#include <support/matrix.hpp>

namespace moesaic::test {

struct owning_cache {
  host::buffer memory;
  std::vector<std::int32_t> first;  ///< first position of every sequence, or empty
  host::kv_cache view;

  owning_cache(dtype storage, int sequences, int kv_heads, int head_dim, int max_tokens, std::vector<std::int32_t> first_position = {},
               int value_dim = 0)
      : first(std::move(first_position)) {
    view = {.storage = storage,
            .sequences = sequences,
            .kv_heads = kv_heads,
            .key_dim = head_dim,
            .value_dim = value_dim != 0 ? value_dim : head_dim,
            .max_tokens = max_tokens,
            .first_position = first};
    memory = host::buffer(host::bytes(view));
    view.data = memory.data();
  }
};

/// Tokens of a batch: q [tokens, heads · key_dim], k [tokens, kv_heads · key_dim], v [tokens, kv_heads · value_dim].
template <class T>
struct attention_batch {
  matrix<T> q, k, v;
  std::vector<std::int32_t> sequence, position;
};

/// Tokens `rows` of a batch, in that order.
template <class T>
attention_batch<T> pick(attention_batch<T> const& from, std::vector<std::int64_t> const& rows) {
  auto const take = [&](matrix<T> const& m) {
    matrix<T> y(static_cast<std::int64_t>(rows.size()), m.columns);
    for (std::int64_t r = 0; r < y.rows; ++r)
      for (std::int64_t c = 0; c < y.columns; ++c) y(r, c) = m(rows[static_cast<std::size_t>(r)], c);
    return y;
  };
  attention_batch<T> y{take(from.q), take(from.k), take(from.v), {}, {}};
  for (auto const r : rows) {
    y.sequence.push_back(from.sequence[static_cast<std::size_t>(r)]);
    y.position.push_back(from.position[static_cast<std::size_t>(r)]);
  }
  return y;
}

/// Appends a batch and attends with it. Throws what a status says.
template <class T>
matrix<T> append_and_attend(host::pool& pool, attention_rule const& rule, owning_cache const& cache, attention_batch<T> const& batch) {
  matrix<T> out(batch.q.rows, batch.q.columns / cache.view.key_dim * cache.view.value_dim);
  if (auto const done = host::append<T>(pool, cache.view, batch.k.view(), batch.v.view(), batch.sequence, batch.position); !done)
    throw error(to_string(done));
  if (auto const done = host::attend<T>(pool, rule, cache.view, batch.q.view(), batch.sequence, batch.position, out.view()); !done)
    throw error(to_string(done));
  return out;
}
template <class T>
matrix<T> append_and_attend(host::pool& pool, double scale, owning_cache const& cache, attention_batch<T> const& batch) {
  return append_and_attend<T>(pool, attention_rule{.scale = scale}, cache, batch);
}

}  // namespace moesaic::test
