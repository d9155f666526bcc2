// Who computes what: expert ids [tokens, slots] -> a stable permutation of the used choices into runs, one an expert.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/view.hpp>

namespace moesaic {

/// Slots are rows of the expert GEMMs. Expert e owns slots [expert_offsets[e], expert_offsets[e + 1]), its tokens in ascending order.
struct dispatch_plan {
  list<std::int32_t> expert_offsets;   ///< [experts + 1]
  list<std::int32_t> token_of_slot;    ///< [tokens · slots], the first expert_offsets[experts] of them used
  view<std::int32_t> slot_of_choice;   ///< [tokens, slots], −1 where the choice is unused

  static constexpr dispatch_plan carve(arena& memory, std::int64_t tokens, int experts, int slots) {
    return {memory.take<std::int32_t>(experts + 1), memory.take<std::int32_t>(tokens * slots), memory.take<std::int32_t>(tokens, slots)};
  }
};

/// Optional results of `combine`, for a tap: rows as of its y; empty = not wanted.
template <class T>
struct combine_parts {
  view<T> moe_out, shared_out, ffn_out;
  view<accumulator<T>> shared_gate = {};   ///< [tokens, 1], after the sigmoid
};

/// Counting sort of the choices by expert. ids [tokens, slots], −1 = unused.
inline void make_plan(view<const std::int32_t> ids, dispatch_plan const& plan) {
  auto const experts = plan.expert_offsets.size - 1;
  auto* const offsets = plan.expert_offsets.data;
  for (std::int64_t e = 0; e <= experts; ++e) offsets[e] = 0;
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i)
      if (auto const e = ids(t, i); e >= 0) ++offsets[e + 1];
  for (std::int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  for (std::int64_t t = 0; t < ids.rows; ++t)
    for (std::int64_t i = 0; i < ids.columns; ++i) {
      auto const e = ids(t, i);
      auto const slot = e >= 0 ? offsets[e]++ : -1;          // offsets[e] walks to the end of e's run ...
      plan.slot_of_choice(t, i) = slot;
      if (slot >= 0) plan.token_of_slot[slot] = static_cast<std::int32_t>(t);
    }
  for (std::int64_t e = experts; e > 0; --e) offsets[e] = offsets[e - 1];   // ... which is the start of the next one
  offsets[0] = 0;
}

}  // namespace moesaic
