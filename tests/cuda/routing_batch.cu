// Rules over a whole batch compile for a device, their source unchanged.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/cap.hpp>
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "routing.cuh"

namespace every_policy {

void start_batch(moesaic::cuda::stream& where) {
  start_all<with_bias, two_phase<>, marginal<>, cap<>, greedy_cap<>, two_prices<>, two_prices_refilled<>, elimination<>, capacity<elimination<cost_aware<costs::table>>>>(
      where);
}

}  // namespace every_policy
