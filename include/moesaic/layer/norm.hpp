// A norm's weights: their storage, and loading them. The op itself is `normalize`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/block_config.hpp>
#include <moesaic/layer/load.hpp>

namespace moesaic {

/// x [tokens, hidden] -> normalised x: normalize<T, norm::rms(config)>(where, config, weights, x, y).
struct norm {
  static constexpr bool rms(norm_config const& c) { return c.kind == norm_kind::rms; }

  static constexpr norm_weights carve_weights(norm_config const& c, int width, arena& memory) {   // width 0: no norm
    return {memory.take<float>(width), memory.take<float>(c.bias ? width : 0)};
  }
  template <class Loader>
  static void load(norm_config const& c, norm_weights const& w, Loader& from, spellings const& weight, spellings const& bias) {
    from.vector(weight, "", w.weight);
    if (c.bias) from.vector(bias, "", w.bias);
  }
};

}  // namespace moesaic
