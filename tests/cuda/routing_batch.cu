// Rules over a whole batch compile for a device, their source unchanged.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/cap.hpp>
#include <moesaic/route/two_phase.hpp>
#include <moesaic/route/two_prices.hpp>

#include "routing.cuh"

namespace every_policy {

void start_batch(moesaic::cuda::stream& where) {
  start_all<with_bias, two_phase<>, cap<>, greedy_cap<>, two_prices<>, two_prices_refilled<>>(where);
}

}  // namespace every_policy
