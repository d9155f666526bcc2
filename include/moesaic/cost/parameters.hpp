// A configuration into how many parameters it has, and how many of them one token uses.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cost/tensors.hpp>

namespace moesaic {

namespace detail {
constexpr std::int64_t count_parameters(weight_tensor const& t) { return t.copy ? 0 : t.outputs * t.inputs * t.parts; }
}  // namespace detail

/// Of one layer. Exact: the numbers that a checkpoint holds.
constexpr block_cost parameters(block_config const& c) { return cost_of(c, detail::count_parameters); }
template <block_spec Spec>
constexpr block_cost parameters() {
  return parameters(validated<Spec>::config);
}

/// Of routed expert `e` alone.
constexpr std::int64_t expert_parameters(block_config const& c, int e) { return cost_of_expert(c, e, detail::count_parameters); }

/// Of a decoder: `parameters<model>().total()`.
constexpr decoder_cost parameters(decoder_config const& c, list<const block_config> layers) {
  return cost_of(c, layers, detail::count_parameters);
}
template <decoder_spec Model>
constexpr decoder_cost parameters() {
  return parameters(validated<Model>::config, layer_configs<Model>);
}

}  // namespace moesaic
