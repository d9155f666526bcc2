// Experts priced by every source of costs, keepers of budgets, capacities and expert choice compile for a device, their source unchanged.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/budget.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/expert_choice.hpp>

#include "routing.cuh"

namespace every_policy {

void start_costs(moesaic::cuda::stream& where) {
  using every_cost = costs::sum<costs::table, costs::flops, costs::bytes, costs::rank_distance, costs::queue, costs::energy>;
  using off_logits = cost_aware<costs::table, standard, moesaic::priced::logit>;
  start_all<with_bias, cost_aware<every_cost>, off_logits, knapsack<costs::table>, null_expert<>, top_p_of_choice<off_logits>, capacity<second_above<>>,
            expert_choice<>>(where);
}

}  // namespace every_policy
