// Elimination, alone and over costs and under a capacity, and marginal prices compile for a device, their source unchanged.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/capacity.hpp>
#include <moesaic/route/cost_aware.hpp>
#include <moesaic/route/elimination.hpp>
#include <moesaic/route/marginal.hpp>

#include "routing.cuh"

namespace every_policy {

void start_elimination(moesaic::cuda::stream& where) {
  start_all<with_bias, marginal<>, elimination<>, capacity<elimination<cost_aware<costs::table>>>>(where);
}

}  // namespace every_policy
