// All tokens of a sequence -> every slot, and all slots -> every token, by softmaxes in both directions: the two ends of Soft MoE.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/route/policy.hpp>

namespace moesaic::host {

namespace soft_detail {

inline constexpr std::int64_t block = 256;                 // columns summed at a time, on the stack

/// sum over i of weight(i) · row(i), in the order of i, a block of columns after another; put(column, sum).
template <class Sum, class Weight, class Row, class Put>
void weighted(std::int64_t n, std::int64_t columns, Weight&& weight, Row&& row, Put&& put) {
  for (std::int64_t first = 0; first < columns; first += block) {
    auto const width = columns - first < block ? columns - first : block;
    Sum total[block] = {};
    for (std::int64_t i = 0; i < n; ++i) {
      Sum const w = weight(i);
      if (w == Sum(0)) continue;                           // a row left out may hold NaN
      auto const* const values = row(i) + first;
      for (std::int64_t c = 0; c < width; ++c) total[c] += w * static_cast<Sum>(values[c]);
    }
    for (std::int64_t c = 0; c < width; ++c) put(first + c, total[c]);
  }
}

}  // namespace soft_detail

/// dispatch[t][j] = exp(logits[t][j]) / Σ over the tokens of t's sequence; combine[t] = softmax(logits[t]). logits, dispatch, combine
/// [tokens, slots], three memories; sequence s has the rows [first[s], first[s + 1]), first [sequences + 1]. A token whose logits are not
/// finite is left out of both (zeros) and raises `*not_finite`.
template <class T>
void soft_weights(pool& where, view<const T> logits, list<const std::int32_t> first, view<T> dispatch, view<T> combine,
                  std::int32_t* not_finite) {
  constexpr T never = -std::numeric_limits<T>::infinity();
  where.for_each(logits.rows, [&](std::int64_t t) {
    bool finite = true;
    for (std::int64_t j = 0; j < logits.columns; ++j) finite = finite && std::isfinite(logits(t, j));
    for (std::int64_t j = 0; j < logits.columns; ++j) dispatch(t, j) = finite ? logits(t, j) : never;
    if (finite) return routing::standard::softmax(serial_group{}, static_cast<int>(logits.columns), logits.row(t), combine.row(t));
    for (std::int64_t j = 0; j < logits.columns; ++j) combine(t, j) = T(0);
    std::atomic_ref<std::int32_t>(*not_finite).store(1, std::memory_order_relaxed);
  });
  auto const columns = logits.columns;
  where.for_each((first.size - 1) * columns, [&](std::int64_t task) {
    auto const s = task / columns, j = task % columns;
    T largest = never, sum = T(0);
    for (std::int64_t t = first[s]; t < first[s + 1]; ++t) largest = dispatch(t, j) > largest ? dispatch(t, j) : largest;
    for (std::int64_t t = first[s]; t < first[s + 1]; ++t) sum += dispatch(t, j) = largest > never ? std::exp(dispatch(t, j) - largest) : T(0);
    for (std::int64_t t = first[s]; t < first[s + 1] && sum > T(0); ++t) dispatch(t, j) /= sum;
  });
}

/// mixed = dispatchᵀ x, sequence by sequence. x [tokens, hidden], dispatch [tokens, experts · each]; mixed [experts · sequences · each,
/// hidden]: an expert's slots side by side, those of one sequence after those of another. Rounded to T once.
template <class T>
void soft_dispatch(pool& where, view<const T> x, view<const accumulator<T>> dispatch, list<const std::int32_t> first, int each,
                   view<T> mixed) {
  using sum = accumulator<T>;
  auto const sequences = first.size - 1;
  where.for_each(mixed.rows, [&](std::int64_t row) {
    auto const expert = row / (sequences * each), s = row / each % sequences, j = expert * each + row % each;
    soft_detail::weighted<sum>(
        first[s + 1] - first[s], x.columns, [&](std::int64_t i) { return dispatch(first[s] + i, j); },
        [&](std::int64_t i) { return x.row(first[s] + i); }, [&](std::int64_t c, sum value) { mixed(row, c) = static_cast<T>(value); });
  });
}

/// y[t] = residual[t] + Σ_j combine[t][j] · out[slot j of t's sequence], slots in order; the mixture is rounded to T, and so is y. out
/// [experts · sequences · each, hidden] as of soft_dispatch; residual, y [tokens, hidden]; y may be residual.
template <class T>
void soft_combine(pool& where, view<const T> out, view<const accumulator<T>> combine, list<const std::int32_t> first, int each,
                  view<const T> residual, view<T> y) {
  using sum = accumulator<T>;
  auto const sequences = first.size - 1;
  for (std::int64_t s = 0; s < sequences; ++s)
    where.for_each(first[s + 1] - first[s], [&](std::int64_t i) {
      auto const t = first[s] + i;
      soft_detail::weighted<sum>(
          combine.columns, y.columns, [&](std::int64_t j) { return combine(t, j); },
          [&](std::int64_t j) { return out.row((j / each * sequences + s) * each + j % each); },
          [&](std::int64_t c, sum value) {
            y(t, c) = static_cast<T>(static_cast<sum>(residual(t, c)) + static_cast<sum>(static_cast<T>(value)));
          });
    });
}

/// offsets [experts + 1] of `rows` rows an expert.
inline void even_offsets(pool&, std::int64_t rows, list<std::int32_t> offsets) {
  for (std::int64_t e = 0; e < offsets.size; ++e) offsets[e] = static_cast<std::int32_t>(e * rows);
}

}  // namespace moesaic::host
