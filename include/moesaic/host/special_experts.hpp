// The experts that are no feed-forward: their slots of the expert outputs filled with zeros, copies of x, or mixtures of x and a constant.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/host/pool.hpp>
#include <moesaic/host/simd/parts.hpp>

namespace moesaic::host::in_double {
#include <moesaic/host/simd/special_experts.inl>
}
#define MOESAIC_BODY <moesaic/host/simd/special_experts.inl>
#include <moesaic/host/simd/levels.inl>

namespace moesaic::host {

/// y[s] of the zero, the copy and the constant experts, in this order (expert_config): 0, x, or a1 x + a2 v with [a1, a2] = softmax(W x).
/// offsets [zero + copy + constant + 1]: slots of the i-th of them are [offsets[i], offsets[i + 1]), and no other row of y is touched.
/// Slot s reads row token_of_slot[s] of x [tokens, hidden]; y [slots, hidden]. W x, the softmax and the mixture are in accumulator<T>,
/// rounded to T once. For float the bits are the same on every level.
template <class T>
void special_experts(pool& where, expert_config const& kinds, constant_weights const& w, view<const T> x, list<const std::int32_t> offsets,
                     const std::int32_t* token_of_slot, view<T> y) {
  constexpr std::int64_t slots_a_task = 8;
  std::int64_t const copies = offsets[kinds.zero], constants = offsets[kinds.zero + kinds.copy];
  std::int64_t const first = offsets[0], last = offsets[kinds.zero + kinds.copy + kinds.constant];
  auto const* const of_constant = offsets.data + kinds.zero + kinds.copy;
  auto const hidden = x.columns;
  at_level<T>(where.level(), [&](auto here) {
    where.for_each((last - first + slots_a_task - 1) / slots_a_task, [&](std::int64_t task) {
      auto const begin = first + task * slots_a_task;
      std::int64_t e = 0;
      for (auto s = begin; s < std::min(last, begin + slots_a_task); ++s) {
        auto const* const row = x.row(token_of_slot[s]);
        if (s < copies) {
          std::fill_n(y.row(s), hidden, static_cast<T>(accumulator<T>(0)));
        } else if (s < constants) {
          std::copy_n(row, hidden, y.row(s));
        } else {
          while (s >= of_constant[e + 1]) ++e;
          constant_row(here, w.gate.data + e * 2 * hidden, w.value.data + e * hidden, row, y.row(s), hidden);
        }
      }
    });
  });
}

}  // namespace moesaic::host
