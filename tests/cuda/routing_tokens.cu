// Policies that choose for each token by itself compile for a device, their source unchanged; and a configuration that the call brings.
// SPDX-License-Identifier: Apache-2.0
#include <moesaic/route/allowed.hpp>
#include <moesaic/route/hash.hpp>
#include <moesaic/route/hierarchical.hpp>
#include <moesaic/route/null_experts.hpp>
#include <moesaic/route/replay.hpp>
#include <moesaic/route/sparse_mixer.hpp>
#include <moesaic/route/top_p.hpp>
#include <moesaic/route/variable_k.hpp>

#include "routing.cuh"

namespace every_policy {

void start_tokens(moesaic::cuda::stream& where) {
  start_all<with_bias, standard, top_p<>, threshold<>, positive<>, sparse_mixer<>, moesaic::routing::hash<>, replay<>, allowed<>, without_nulls<moesaic::expert_range{60, 64}>>(where);
  start_all<with_gate, hierarchical<>, hierarchical<allowed<>>>(where);
  start_all<router_config, standard>(where);
}

}  // namespace every_policy
