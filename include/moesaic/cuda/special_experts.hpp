// The experts that are no feed-forward: their slots of the expert outputs filled with zeros, copies of x, or mixtures of x and a constant.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/config/block_config.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/cuda/kernel/special_experts.hpp>
#include <moesaic/cuda/launch.hpp>

namespace moesaic::cuda {

/// y[s] of the zero, the copy and the constant experts, in this order (expert_config): 0, x, or a1 x + a2 v with [a1, a2] = softmax(W x).
/// offsets [zero + copy + constant + 1]: slots of the i-th of them are [offsets[i], offsets[i + 1]), and no other row of y is touched.
/// Slot s reads row token_of_slot[s] of x [tokens, hidden]; y [slots, hidden]. Sums in float, rounded to T once.
template <class T, class Tuning>
void special_experts(basic_stream_ref<Tuning>& where, expert_config const& kinds, constant_weights const& w, view<const T> x,
                     list<const std::int32_t> offsets, const std::int32_t* token_of_slot, view<T> y) {
  constexpr unsigned most_blocks = 4096;                 // blocks step over slots, whose number only the device knows
  auto const blocks = blocks_for(y.rows);
  start<special_expert_rows<T>>(where, {.x = blocks < most_blocks ? blocks : most_blocks, .early = true},
                                {x, y, offsets.data, token_of_slot, w.gate.data, w.value.data, kinds.zero, kinds.copy, kinds.constant});
}

}  // namespace moesaic::cuda
