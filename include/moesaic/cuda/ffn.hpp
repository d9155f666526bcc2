// The two GEMMs of experts over expert_offsets: gate and up with the activation, and down.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/cuda/gemm.hpp>
#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

/// h[s] = act(gate x + gate bias) ⊙ (up x + up bias), clamped and shifted as the rule says, or act(up x + bias) for an activation without a gate
/// (w.parts == 1).
/// Slots of expert e are [offsets[e], offsets[e + 1]), offsets [experts + 1]; slot s reads row token_of_slot[s] of x, or row s where
/// that is null. x [tokens, hidden], h [slots at most, intermediate], bias [experts, parts, intermediate] or empty. h is rounded to T once.
/// offsets and token_of_slot are read on the device; offsets[experts] is at most h.rows.
template <dtype W, class Tuning, class T>
void expert_gate_up(basic_stream_ref<Tuning>& where, activation_rule act, packed_matrix const& w, list<const float> bias, view<const T> x,
                    list<const std::int32_t> offsets, std::int32_t const* token_of_slot, view<T> h) {
  start_gemm<W>(where, w, gemm_params<T, T>{.w = weight_view(w), .bias = bias.empty() ? nullptr : bias.data, .x = x.data, .x_stride = x.stride,
                                            .y = h.data, .y_stride = h.stride, .rows = h.rows, .offsets = offsets.data,
                                            .token_of_slot = token_of_slot, .activated = true, .act = act});
}

/// y[s] = W x[r] + bias, W and bias of the slot's expert: plain products of gathered rows. W [experts] of [outputs, inputs], parts 1; r and offsets as above;
/// bias [experts, outputs] or empty. y [slots at most, outputs] is rounded to T once.
template <dtype W, class Tuning, class T>
void expert_linear(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, view<const T> x, list<const std::int32_t> offsets,
                   std::int32_t const* token_of_slot, view<T> y) {
  start_gemm<W>(where, w, gemm_params<T, T>{.w = weight_view(w), .bias = bias.empty() ? nullptr : bias.data, .x = x.data, .x_stride = x.stride,
                                            .y = y.data, .y_stride = y.stride, .rows = y.rows, .offsets = offsets.data, .token_of_slot = token_of_slot});
}

/// y[s] = down h[s] + bias. h [slots at most, intermediate], y [slots, hidden], bias [experts, hidden] or empty; offsets as above.
template <dtype W, class Tuning, class T>
void expert_down(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, view<const T> h, list<const std::int32_t> offsets,
                 view<T> y) {
  expert_linear<W>(where, w, bias, h, offsets, nullptr, y);
}

}  // namespace moesaic::cuda
