// Multi-head latent attention: a cache of latents, and queries attending to it in either form (arXiv:2405.04434 §2.1, appendix C).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/latent.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/host/attention.hpp>
#include <moesaic/host/kv_cache.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/multiply.hpp>

namespace moesaic::host {

/// Slots of one block, and query rows that share one pass over it.
inline constexpr std::int64_t latent_slots = 64;
inline constexpr int latent_row_count = 4;

/// Rows of keys or values as they lie: `dims` elements, `stride` apart.
template <class Stored>
struct latent_keys {
  Stored const* data = nullptr;
  std::int64_t stride = 0, dims = 0;
};
/// What a task keeps on its stack of a few query rows. A row's state is as latent_memory::state_width says.
template <class Sum>
struct latent_rows {
  alignas(64) Sum weight[latent_row_count][latent_slots];
  Sum const* query[latent_row_count];
  Sum* state[latent_row_count];
  std::int64_t visible[latent_row_count];  // slots of the block, from its first on
  Sum scale;
};

}  // namespace moesaic::host

namespace moesaic::host::in_double {
#include <moesaic/host/simd/latent.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/latent.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

/// One layer's cache, a view: [sequences, max_tokens] slots of rank + rope_dim elements, a token's normalised latent and then its rotated key,
/// and nothing else. A token's slot is its position − its sequence's first position.
struct latent_cache {
  dtype storage = dtype::fp32;  ///< fp32, bf16 or fp64
  int sequences = 0, rank = 0, rope_dim = 0;
  int max_tokens = 0;                            ///< slots of a sequence
  std::byte* data = nullptr;                     ///< bytes(cache) bytes, 64-byte aligned, zero at first
  list<const std::int32_t> first_position = {};  ///< [sequences], or empty: all sequences start at position 0

  std::int64_t slot_dim() const { return std::int64_t{rank} + rope_dim; }
};
constexpr std::size_t bytes(latent_cache const& c) {
  return static_cast<std::size_t>(std::int64_t{c.sequences} * c.max_tokens * (c.rank + c.rope_dim) * bits(c.storage) / 8);
}
inline std::int64_t slot_of(latent_cache const& c, std::int64_t sequence, std::int64_t position) {
  return position - (c.first_position.empty() ? 0 : c.first_position[sequence]);
}
/// Slot 0 of a sequence.
template <class Stored>
Stored* slots_of(latent_cache const& c, std::int64_t sequence) {
  return reinterpret_cast<Stored*>(c.data) + sequence * c.max_tokens * c.slot_dim();
}

using owned_latent_cache = owned_cache<latent_cache>;

/// An empty cache: `sequences` sequences of up to max_tokens tokens.
inline owned_latent_cache make_latent_cache(pool&, dtype storage, latent_shape const& s, int sequences, int max_tokens) {
  check_cache(sequences, max_tokens);
  return owned_latent_cache(latent_cache{storage, sequences, s.rank, s.rope_dim, max_tokens, nullptr, {}});
}

/// Whether a cache was made for latents of this shape.
inline status check(pool&, latent_cache const& c, latent_shape const& s) {
  if (c.rank != s.rank) return {status_code::invalid_argument, "The cache must have been made for the layer's latent rank.", s.rank, c.rank};
  if (c.rope_dim != s.rope_dim)
    return {status_code::invalid_argument, "The cache must have been made for the layer's rotated elements.", s.rope_dim, c.rope_dim};
  return {};
}
/// Whether every token's sequence and position lie in the cache; the first that does not, otherwise.
inline status check(latent_cache const& c, list<const std::int32_t> sequence, list<const std::int32_t> position) {
  kv_cache slots;
  slots.sequences = c.sequences, slots.max_tokens = c.max_tokens, slots.first_position = c.first_position;
  return check(slots, sequence, position);
}

/// In place: every element times a factor, rounded once.
template <class T>
void multiply(pool& where, double factor, view<T> x) {
  using sum = accumulator<T>;
  where.for_each(x.rows, [&](std::int64_t t) {
    for (std::int64_t c = 0; c < x.columns; ++c) x(t, c) = static_cast<T>(static_cast<sum>(x(t, c)) * static_cast<sum>(factor));
  });
}

/// Writes the batch's latents [tokens, rank] and rotated keys [tokens, rope_dim] into their slots. Of two tokens with one slot the later stays.
/// out_of_range where a token has no slot: nothing is written then. Promised: the cache's storage, so that only code for that is made.
template <class T, dtype Promised = dtype::same>
status append(pool&, latent_cache const& cache, view<const T> latent, view<const T> key, list<const std::int32_t> sequence,
              list<const std::int32_t> position, call_flags* = nullptr) {
  if (auto const fits = check(cache, sequence, position); !fits) return fits;
  if (latent.rows != sequence.size || key.rows != sequence.size)
    return {status_code::invalid_argument, "Latents and keys have one row for every token.", sequence.size, latent.rows != sequence.size ? latent.rows : key.rows};
  if (latent.columns != cache.rank || key.columns != cache.rope_dim)
    return {status_code::invalid_argument, "Latents are rank wide and keys rope_dim.", cache.slot_dim(), latent.columns + key.columns};
  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    for (std::int64_t t = 0; t < sequence.size; ++t) {
      auto* const slot = slots_of<Stored>(cache, sequence[t]) + slot_of(cache, sequence[t], position[t]) * cache.slot_dim();
      for (int d = 0; d < cache.rank; ++d) slot[d] = static_cast<Stored>(static_cast<accumulator<Stored>>(latent(t, d)));
      for (int d = 0; d < cache.rope_dim; ++d) slot[cache.rank + d] = static_cast<Stored>(static_cast<accumulator<Stored>>(key(t, d)));
    }
  });
  return known ? status{} : cache_detail::wrong_storage;
}

namespace latent_detail {

/// y[r] = W x[r] of matrix `index`, its pairs [first, last).
template <dtype W, class X, class Y>
void product_of(level at, packed_matrix m, std::int64_t index, std::int64_t rows, X const* x, std::int64_t x_stride, Y* y, std::int64_t y_stride, std::int64_t first,
                std::int64_t last) {
  m.data += index * packed::matrix_bytes(m);
  product<X, Y> p{};
  p.matrix = m, p.rows = rows, p.x = x, p.x_stride = x_stride, p.y = y, p.y_stride = y_stride;
  multiply_pairs<W>(at, p, first, last);
}
/// Head h's rows x + h · x_step times matrix h, into y + h · y_step.
template <dtype W, class X, class Y>
void product_of_heads(pool& where, packed_matrix const& m, std::int64_t rows, X const* x, std::int64_t x_step, std::int64_t x_stride, Y* y, std::int64_t y_step,
                      std::int64_t y_stride) {
  auto const pairs = packed::pairs(m);
  where.for_each(m.count * pairs, [&](std::int64_t task) {
    auto const h = task / pairs, pair = task % pairs;
    product_of<W>(where.level(), m, h, rows, x + h * x_step, x_stride, y + h * y_step, y_stride, pair, pair + 1);
  });
}

template <class T>
void clear_states(view<T> states, std::int64_t rows, std::int64_t heads, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t h = 0; h < heads; ++h) {
      auto* const state = states.row(r) + h * latent_memory<T>::state_width(width);
      auto const whole = latent_memory<T>::state_width(width);
      std::fill(state, state + whole, T(0));
      state[whole - packed::lanes] = -std::numeric_limits<T>::infinity();
    }
}
/// What a state's weights add up to.
template <class T>
T total_of(T const* state, std::int64_t width) {
  auto const* const lane = state + latent_memory<T>::state_width(width) - 2 * packed::lanes;
  T half[packed::lanes];
  std::copy(lane, lane + packed::lanes, half);
  for (int n = packed::lanes / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) half[i] += half[i + n];
  return half[0];
}

/// What both forms are given.
template <class T>
struct call {
  latent_shape shape;
  double scale;
  latent_cache cache;
  attention_weights const* w;
  view<const T> q;                             // [tokens, heads · key_dim]
  list<const std::int32_t> sequence, position;
  latent_memory<T> memory;
  view<T> out;                                 // [tokens, heads · value_dim]

  std::int64_t slot(std::int64_t t) const { return slot_of(cache, sequence[t], position[t]); }
};

/// Queries of tokens [begin, end) into memory.query: what scores against a cached slot by one dot product.
template <dtype W, class T>
void absorb(pool& where, call<T> const& c, std::int64_t begin, std::int64_t end) {
  auto const& s = c.shape;
  auto const query = c.memory.query;
  product_of_heads<turned(W)>(where, c.w->key_up_transposed, end - begin, c.q.row(begin), s.key_dim(), c.q.stride, query.data, s.slot_dim(), query.stride);
  for (auto t = begin; t < end; ++t)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (int d = 0; d < s.rope_dim; ++d)
        query(t - begin, h * s.slot_dim() + s.rank + d) = static_cast<accumulator<T>>(c.q(t, h * s.key_dim() + s.head_dim + d));
}

/// Tokens [begin, end), at most latent_memory::tokens of them, in the absorbed form: a task has a token and a group of heads, for which it reads the
/// sequence's slots once.
template <dtype W, class Stored, class T>
void absorbed(pool& where, call<T> const& c, std::int64_t begin, std::int64_t end) {
  using sum = accumulator<T>;
  constexpr std::int64_t group = 16;
  auto const& s = c.shape;
  auto const state_width = latent_memory<sum>::state_width(s.rank);
  auto const slot_dim = std::int64_t{s.slot_dim()};
  absorb<W>(where, c, begin, end);
  clear_states(c.memory.latent, end - begin, s.heads, s.rank);
  auto const groups = packed::ceil_div(s.heads, group);
  where.for_each((end - begin) * groups, [&](std::int64_t task) {
    auto const r = task / groups, t = begin + r, first_head = task % groups * group, last_head = std::min<std::int64_t>(s.heads, first_head + group);
    auto const* const slots = slots_of<Stored>(c.cache, c.sequence[t]);
    auto const visible = c.slot(t) + 1;
    latent_rows<sum> rows;
    rows.scale = static_cast<sum>(c.scale);
    at_level<T>(where.level(), [&](auto here) {
      for (std::int64_t first = 0; first < visible; first += latent_slots) {
        auto const* const block = slots + first * slot_dim;
        for (auto h = first_head; h < last_head; h += latent_row_count) {
          auto const used = static_cast<int>(std::min<std::int64_t>(last_head - h, latent_row_count));
          for (int i = 0; i < used; ++i) {
            rows.query[i] = c.memory.query.row(r) + (h + i) * slot_dim;
            rows.state[i] = c.memory.latent.row(r) + (h + i) * state_width;
            rows.visible[i] = std::min(visible - first, latent_slots);
          }
          latent_visit(here, rows, used, latent_keys<Stored>{block, slot_dim, slot_dim}, latent_keys<Stored>{}, latent_keys<Stored>{block, slot_dim, s.rank});
        }
      }
    });
    for (auto h = first_head; h < last_head; ++h) {
      auto* const state = c.memory.latent.row(r) + h * state_width;
      auto const total = total_of(state, s.rank);
      for (int d = 0; d < s.rank; ++d) state[d] /= total;
    }
  });
  product_of_heads<W>(where, c.w->value_up, end - begin, c.memory.latent.data, state_width, c.memory.latent.stride, c.out.row(begin), s.value_dim, c.out.stride);
}

/// Tokens [begin, end) of one sequence in the expanded form: block after block of slots becomes keys and values, a task a head.
template <dtype W, class Stored, class T>
void expanded(pool& where, call<T> const& c, std::int64_t begin, std::int64_t end) {
  using sum = accumulator<T>;
  auto const& s = c.shape;
  auto const& m = c.memory;
  auto const state_width = latent_memory<sum>::state_width(s.value_dim);
  auto const slot_dim = std::int64_t{s.slot_dim()};
  auto const* const slots = slots_of<Stored>(c.cache, c.sequence[begin]);
  clear_states(m.state, end - begin, s.heads, s.value_dim);
  std::int64_t all = 0;
  for (auto t = begin; t < end; ++t) all = std::max(all, c.slot(t) + 1);
  for (std::int64_t first = 0; first < all; first += latent_slots) {
    auto const count = std::min(all - first, latent_slots);
    auto const* const block = slots + first * slot_dim;
    T const* latents = nullptr;
    std::int64_t stride = slot_dim;
    if constexpr (std::is_same_v<T, Stored>) {
      latents = block;
    } else {
      for (std::int64_t j = 0; j < count; ++j)
        for (int d = 0; d < s.rank; ++d) m.narrow(j, d) = static_cast<T>(static_cast<sum>(block[j * slot_dim + d]));
      latents = m.narrow.data, stride = s.rank;
    }
    where.for_each(s.heads, [&](std::int64_t h) {
      auto* const keys = m.keys.data + h * s.head_dim;
      auto* const values = m.values.data + h * s.value_dim;
      product_of<W>(where.level(), c.w->key_up, h, count, latents, stride, keys, m.keys.stride, 0, packed::pairs(c.w->key_up));
      product_of<W>(where.level(), c.w->value_up, h, count, latents, stride, values, m.values.stride, 0, packed::pairs(c.w->value_up));
      alignas(64) sum query[latent_row_count][2 * max_head_dim];
      latent_rows<sum> rows;
      rows.scale = static_cast<sum>(c.scale);
      at_level<T>(where.level(), [&](auto here) {
        for (auto t = begin; t < end; t += latent_row_count) {
          auto const used = static_cast<int>(std::min<std::int64_t>(end - t, latent_row_count));
          bool any = false;
          for (int i = 0; i < used; ++i) {
            auto const sees = c.slot(t + i) + 1 - first;
            rows.visible[i] = sees < 0 ? 0 : std::min(sees, count);
            any = any || sees > 0;
            for (int d = 0; d < s.key_dim(); ++d) query[i][d] = static_cast<sum>(c.q(t + i, h * s.key_dim() + d));
            rows.query[i] = query[i];
            rows.state[i] = m.state.row(t + i - begin) + h * state_width;
          }
          if (!any) continue;
          latent_visit(here, rows, used, latent_keys<sum>{keys, m.keys.stride, s.head_dim}, latent_keys<Stored>{block + s.rank, slot_dim, s.rope_dim},
                       latent_keys<sum>{values, m.values.stride, s.value_dim});
        }
      });
    });
  }
  for (auto t = begin; t < end; ++t)
    for (std::int64_t h = 0; h < s.heads; ++h) {
      auto const* const state = m.state.row(t - begin) + h * state_width;
      auto const total = total_of(state, s.value_dim);
      for (int d = 0; d < s.value_dim; ++d) c.out(t, h * s.value_dim + d) = static_cast<T>(state[d] / total);
    }
}

template <class T>
status check(call<T> const& c) {
  if (auto const fits = host::check(c.cache, c.sequence, c.position); !fits) return fits;
  if (c.q.rows != c.sequence.size) return {status_code::invalid_argument, "Queries have one row for every token.", c.sequence.size, c.q.rows};
  auto const width = std::int64_t{c.shape.heads} * c.shape.key_dim();
  if (c.q.columns != width) return {status_code::invalid_argument, "Queries are heads · (head_dim + rope_dim) wide.", width, c.q.columns};
  if (c.cache.rank != c.shape.rank || c.cache.rope_dim != c.shape.rope_dim)
    return {status_code::invalid_argument, "The cache must have been made for latents of this shape.", c.shape.slot_dim(), c.cache.slot_dim()};
  return {};
}

}  // namespace latent_detail

/// out[t] = Σ_s p_s · value(s) over the slots s of token t's sequence up to its own; p = softmax(scale · (q_nope · key(s) + q_rope · rotated key(s))),
/// key(s) = W_uk latent(s) and value(s) = W_uv latent(s) of each head. q [tokens, heads · (head_dim + rope_dim)], its last elements rotated;
/// out [tokens, heads · value_dim]; sequence, position [tokens]; weights of type W. What a batch sees must have been appended.
/// Scores, softmax and sums in float (double for double). In one form a token's bits depend on its own slots only, with any number of threads;
/// by_shape may take the other form for the same token in another batch.
template <class T, dtype W, dtype Promised = dtype::same, class /*Shape*/ = void>
status attend_latent(pool& where, latent_form form, double scale, latent_shape const& shape, latent_cache const& cache, attention_weights const& w, view<const T> q,
                     list<const std::int32_t> sequence, list<const std::int32_t> position, latent_memory<T> const& memory, view<T> out) {
  latent_detail::call<T> const c{shape, scale, cache, &w, q, sequence, position, memory, out};
  if (auto const fits = latent_detail::check(c); !fits) return fits;
  auto const tokens = sequence.size;
  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    std::int64_t waiting = 0;            // tokens [waiting, begin) are to be absorbed
    auto const absorb_until = [&](std::int64_t end) {
      for (; waiting < end; waiting = std::min(end, waiting + latent_memory<T>::tokens))
        latent_detail::absorbed<W, Stored>(where, c, waiting, std::min(end, waiting + latent_memory<T>::tokens));
    };
    for (std::int64_t begin = 0, end = 0; begin < tokens; begin = end) {   // runs: tokens of one sequence side by side
      for (end = begin + 1; end < tokens && sequence[end] == sequence[begin];) ++end;
      if (latent_form_of(shape, form, end - begin, c.slot(end - 1) + 1) == latent_form::absorbed) continue;
      absorb_until(begin);
      latent_detail::expanded<W, Stored>(where, c, begin, end);
      waiting = end;
    }
    absorb_until(tokens);
  });
  return known ? status{} : cache_detail::wrong_storage;
}

/// The weights that attend_latent() gives to slots, for a tap: row h · tokens + t of [heads · tokens, keys], zero beyond a token's own slot.
/// Plain and slow. out_of_range where `keys` is not above every token's slot.
template <class T, dtype W, dtype Promised = dtype::same>
status latent_probabilities(pool& where, double scale, latent_shape const& shape, latent_cache const& cache, attention_weights const& w, view<const T> q,
                            list<const std::int32_t> sequence, list<const std::int32_t> position, latent_memory<T> const& memory, view<accumulator<T>> probabilities) {
  using sum = accumulator<T>;
  latent_detail::call<T> const c{shape, scale, cache, &w, q, sequence, position, memory, {}};
  if (auto const fits = latent_detail::check(c); !fits) return fits;
  auto const tokens = sequence.size;
  for (std::int64_t t = 0; t < tokens; ++t)
    if (c.slot(t) >= probabilities.columns)
      return {status_code::out_of_range, "Probabilities have a column for every slot that a token sees.", probabilities.columns, c.slot(t)};
  auto const known = cache_detail::with_storage<T, Promised>(cache.storage, [&]<class Stored>() {
    for (std::int64_t t = 0; t < tokens; ++t) {
      latent_detail::absorb<W>(where, c, t, t + 1);
      auto const* const slots = slots_of<Stored>(cache, sequence[t]);
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        auto const* const query = memory.query.data + h * shape.slot_dim();
        auto* const row = probabilities.row(h * tokens + t);
        auto largest = -std::numeric_limits<sum>::infinity();
        for (std::int64_t s = 0; s <= c.slot(t); ++s) {
          row[s] = sum(0);
          for (int d = 0; d < shape.slot_dim(); ++d) row[s] += query[d] * static_cast<sum>(slots[s * shape.slot_dim() + d]);
          row[s] *= static_cast<sum>(scale);
          largest = std::max(largest, row[s]);
        }
        auto total = sum(0);
        for (std::int64_t s = 0; s <= c.slot(t); ++s) total += row[s] = std::exp(row[s] - largest);
        for (std::int64_t s = 0; s < probabilities.columns; ++s) row[s] = s <= c.slot(t) ? row[s] / total : sum(0);
      }
    }
  });
  return known ? status{} : cache_detail::wrong_storage;
}

/// Keys and values of the batch's own latents, for a tap: [tokens, heads · (head_dim + value_dim)], each head's key before its value.
template <class T, dtype W>
void expand_latents(pool& where, latent_shape const& s, attention_weights const& w, view<const T> latent, view<T> out) {
  auto const step = std::int64_t{s.head_dim} + s.value_dim;
  latent_detail::product_of_heads<W>(where, w.key_up, latent.rows, latent.data, 0, latent.stride, out.data, step, out.stride);
  latent_detail::product_of_heads<W>(where, w.value_up, latent.rows, latent.data, 0, latent.stride, out.data + s.head_dim, step, out.stride);
}

}  // namespace moesaic::host
