// Which layers a device has kernels for. A host computes every one that its rules allow.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/block_config.hpp>
#include <moesaic/config/attention_rule.hpp>

namespace moesaic {

/// Whether kernels of a device do all that a layer's configuration asks for.
constexpr bool device_has_attention(attention_config const& c) {
  return plain_attention(c) && c.value_dim == 0 && c.rotary && c.rotary_dim == 0 && c.scaling.magnitude == 0 && c.qk_norm != qk_norm::weightless && !c.qk_norm_after_rope &&
         c.qkv_clip == 0 && !c.output_gate && c.temperature.scale == 0 && c.latent.kv_rank == 0 && c.scaling.kind <= rope_scaling_kind::llama3;
}
constexpr bool device_has_experts(block_config const& c) {
  auto const& e = c.expert;
  return e.limit == 0 && e.alpha == 1 && e.up_offset == 0 && !e.mixture_bias && e.latent == 0 && c.router.weights != combine_weight::on_input;
}
constexpr bool device_has_stream(block_config const& c) {
  return c.norms == norm_placement::pre && c.residual_scale == 1 && c.shortcut == shortcut::none && c.norm.cast == norm_cast::before_weight && c.norm.weight_offset == 0;
}
constexpr bool device_has_model(decoder_config const& c) {
  return c.embedding_scale == 1 && c.logit_scale == 1 && c.logit_softcap == 0 && c.norm.cast == norm_cast::before_weight && c.norm.weight_offset == 0;
}

}  // namespace moesaic
