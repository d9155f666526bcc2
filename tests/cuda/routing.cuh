// Routing policies as kernels: what a user's own must pass too.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cuda/kernel/route.hpp>
#include <moesaic/cuda/launch.cuh>
#include <moesaic/route/cost.hpp>

namespace every_policy {

using namespace moesaic::routing;
namespace costs = moesaic::costs;
using moesaic::router_config;

struct with_bias {
  static constexpr router_config config{.experts = 64, .top_k = 6, .renormalize = true, .score_bias = true};
};
struct with_gate {
  static constexpr router_config config{.experts = 64, .top_k = 6, .groups = 8, .top_groups = 3, .renormalize = true, .group_gate = true};
};

/// A launch of every policy's kernel, for one configuration.
template <class Config, class... Policies>
void start_all(moesaic::cuda::stream& where) {
  constexpr int threads = moesaic::cuda::default_route_tuning::most_threads;
  auto const start = [&]<class Policy>() {
    using kernel = moesaic::cuda::route_logits<Policy, Config, threads, moesaic::cuda::rung::sm80>;
    moesaic::cuda::start<kernel>(where, {}, typename kernel::params{});
  };
  (start.template operator()<Policies>(), ...);
}

}  // namespace every_policy
