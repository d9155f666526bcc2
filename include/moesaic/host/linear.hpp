// Rows of x to rows of y through a packed matrix: projections, router logits, the head.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/multiply.hpp>

namespace moesaic::host {

/// y[t][n] = bias[n] + Σ_k W[n][k] x[t][k]. x [tokens, inputs], y [tokens, outputs], bias [outputs] or empty; W is w.stored.type.
/// X: double, float or bf16; Y: double for double, else float or bf16. A sum is rounded to Y once, after the bias.
/// Bits depend neither on threads nor on the other rows of x; for float they are the same on every level.
template <dtype W, class X, class Y>
void linear(pool& where, packed_matrix const& w, view<X> x, list<const float> bias, view<Y> y) {
  using scalar = std::remove_const_t<X>;
  product<scalar, Y> const p{.matrix = w, .bias = bias.empty() ? nullptr : bias.data, .rows = x.rows,
                             .x = x.data, .x_stride = x.stride, .y = y.data, .y_stride = y.stride};
  auto const pairs = packed::pairs(w), step = pairs_of_task(where, pairs);
  if (x.rows == 0) return;
  where.for_each(packed::ceil_div(pairs, step), [&](std::int64_t task) {
    multiply_pairs<W>(where.level(), p, task * step, std::min(pairs, (task + 1) * step));
  });
}

}  // namespace moesaic::host
