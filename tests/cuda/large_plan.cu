// Plans of many tokens, and counts of experts, by device algorithms of CUB.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/cuda/large_plan.cuh>

namespace every_policy {

void plan_many(moesaic::cuda::stream& where, moesaic::view<const std::int32_t> ids, moesaic::dispatch_plan const& plan, moesaic::list<std::int32_t> counts,
               moesaic::list<std::byte> workspace) {
  auto const slots = static_cast<int>(ids.columns), experts = static_cast<int>(counts.size);
  if (static_cast<std::size_t>(workspace.size) >= moesaic::cuda::large_plan_bytes(where, ids.rows, slots, experts)) moesaic::cuda::large_plan(where, ids, plan, workspace);
  if (static_cast<std::size_t>(workspace.size) >= moesaic::cuda::count_choices_bytes(where, ids.rows, slots, experts)) moesaic::cuda::count_choices(where, ids, counts, workspace);
}

}  // namespace every_policy
