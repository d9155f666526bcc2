// Which layers a device has kernels for. A host computes every one that its rules allow.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/latent.hpp>
#include <moesaic/config/shapes.hpp>

namespace moesaic {

/// Whether kernels of a device do all that a layer's configuration asks for: they keep latents in registers and move 16 elements at once.
constexpr bool device_has_attention(block_config const& c) {
  auto const& l = c.attention.latent;
  return l.kv_rank == 0 || (l.kv_rank <= most_latent_rank && l.kv_rank + l.rope_dim <= most_latent_slot_dim && l.kv_rank % 16 == 0 && l.q_rank % 16 == 0 &&
                             shapes(c).head_dim % 16 == 0);
}

}  // namespace moesaic
