// The two GEMMs of experts over expert_offsets: gate and up with the activation, and down.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/multiply.hpp>

namespace moesaic::host {

namespace ffn_detail {

// Every task takes a slice of outputs of all experts: slices cost the same however tokens are spread.
template <dtype W, class X, class T>
void each_expert(pool& where, packed_matrix const& w, list<const float> bias, list<const std::int32_t> offsets,
                 product<X, T> const& shared) {
  auto const pairs = packed::pairs(w), step = pairs_of_task(where, pairs);
  where.for_each(packed::ceil_div(pairs, step), [&](std::int64_t task) {
    for (std::int64_t e = 0; e < w.count; ++e) {
      auto p = shared;
      p.rows = offsets[e + 1] - offsets[e];
      if (p.rows == 0) continue;
      p.matrix.data = w.data + e * packed::matrix_bytes(w);
      p.bias = bias.empty() ? nullptr : bias.data + e * w.parts * w.outputs;
      if (p.row_of != nullptr) p.row_of += offsets[e];
      else p.x += offsets[e] * p.x_stride;
      p.y += offsets[e] * p.y_stride;
      multiply_pairs<W>(where.level(), p, task * step, std::min(pairs, (task + 1) * step));
    }
  });
}

}  // namespace ffn_detail

/// h[s] = act(gate x + gate bias) ⊙ (up x + up bias), clamped and shifted as the rule says, or act(up x + bias) for an activation without a gate
/// (w.parts == 1).
/// Slots of expert e are [offsets[e], offsets[e + 1]), offsets [experts + 1]; slot s reads row token_of_slot[s] of x, or row s where
/// that is null. x [tokens, hidden], h [slots, intermediate], bias [experts, parts, intermediate] or empty. h is rounded to T once.
/// X: T, or float for a T of bf16.
template <dtype W, class X, class T>
void expert_gate_up(pool& where, activation_rule act, packed_matrix const& w, list<const float> bias, view<const X> x,
                    list<const std::int32_t> offsets, const std::int32_t* token_of_slot, view<T> h) {
  ffn_detail::each_expert<W, X, T>(where, w, bias, offsets,
                                   {.matrix = w, .x = x.data, .x_stride = x.stride, .row_of = token_of_slot,
                                    .y = h.data, .y_stride = h.stride, .activated = true, .act = act});
}

/// y[s] = W x[r] + bias, W and bias of the slot's expert: plain products of gathered rows. W [experts] of [outputs, inputs], parts 1; r and offsets as above;
/// bias [experts, outputs] or empty. y [slots, outputs] is rounded to T once.
template <dtype W, class X, class T>
void expert_linear(pool& where, packed_matrix const& w, list<const float> bias, view<const X> x, list<const std::int32_t> offsets,
                   const std::int32_t* token_of_slot, view<T> y) {
  ffn_detail::each_expert<W, X, T>(where, w, bias, offsets,
                                   {.matrix = w, .x = x.data, .x_stride = x.stride, .row_of = token_of_slot, .y = y.data, .y_stride = y.stride});
}

/// y[s] = down h[s] + bias. h [slots, intermediate], y [slots, hidden], bias [experts, hidden] or empty; offsets and X as above.
template <dtype W, class X, class T>
void expert_down(pool& where, packed_matrix const& w, list<const float> bias, view<const X> h, list<const std::int32_t> offsets,
                 view<T> y) {
  expert_linear<W>(where, w, bias, h, offsets, nullptr, y);
}

}  // namespace moesaic::host
