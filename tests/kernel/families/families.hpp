// Every published model's layers with small numbers: all axes of the preset, few heads, experts and columns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/config/presets/dbrx.hpp>
#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/ernie.hpp>
#include <moesaic/config/presets/glm.hpp>
#include <moesaic/config/presets/gpt_oss.hpp>
#include <moesaic/config/presets/granite.hpp>
#include <moesaic/config/presets/grok.hpp>
#include <moesaic/config/presets/hunyuan.hpp>
#include <moesaic/config/presets/jetmoe.hpp>
#include <moesaic/config/presets/kimi.hpp>
#include <moesaic/config/presets/ling.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/longcat.hpp>
#include <moesaic/config/presets/minimax.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/phi.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/config/presets/switch.hpp>

namespace moesaic::test::families {

constexpr block_config small(block_config c) {
  auto& a = c.attention;
  bool const alone = a.kv_heads == 0 || a.kv_heads == a.heads;
  if (a.value_dim != 0) a.value_dim = a.value_dim == a.head_dim ? 16 : 32;
  if (a.rotary_dim != 0) a.rotary_dim = 8;
  a.heads = 4, a.kv_heads = alone ? 0 : 2, a.head_dim = 16;
  if (a.latent.kv_rank != 0) a.latent.kv_rank = 32, a.latent.rope_dim = 8;
  if (a.latent.q_rank != 0) a.latent.q_rank = 48;
  if (auto const kind = a.scaling.kind; kind == rope_scaling_kind::llama3 || kind == rope_scaling_kind::yarn || kind == rope_scaling_kind::longrope)
    a.scaling.original_positions = 16;
  if (!a.scaling.factors.empty()) a.scaling.factors.count = 8;
  if (a.window != 0) a.window = 6;
  if (a.chunk != 0) a.chunk = 8;
  if (a.temperature.scale != 0) a.temperature.floor = 4;
  auto& e = c.expert;
  for (int* const kind : {&e.zero, &e.copy, &e.constant}) *kind = *kind != 0 ? 2 : 0;
  if (auto& r = c.router; r.experts != 0) {
    if (r.groups != 1) r.groups = 4, r.top_groups = 2;
    r.experts = (r.groups != 1 ? 16 : 8) + e.zero + e.copy + e.constant;
    r.top_k = r.top_k < 4 ? r.top_k : 4;
  }
  if (auto& r = a.router; r.experts != 0) r.experts = 6, r.top_k = 2;
  c.hidden = 64, e.intermediate = 48;
  if (e.latent != 0) e.latent = 32;
  if (c.shared.intermediate != 0) c.shared.intermediate = 32;
  return c;
}
/// The same without what kernels are told in a call: layers of one form start the same kernels. Of attention's rule it remains whether there is one.
constexpr block_config form(block_config c) {
  c = small(c);
  auto& a = c.attention;
  bool const ruled = a.softcap != 0 || a.window != 0 || a.chunk != 0 || a.sinks || a.tiled_kv;
  a.softcap = 0, a.window = ruled ? 1 : 0, a.chunk = 0, a.sinks = a.tiled_kv = false;
  a.rope_theta = 1e4, a.scale = 0, a.scaling = {}, a.latent.epsilon = c.norm.epsilon = 1e-6;
  a.kv_heads = 0;
  for (double* const x : {&a.qkv_clip, &a.temperature.scale, &c.router.logit_softcap}) *x = *x != 0 ? 1 : 0;
  c.router.routed_scale = c.router.sum_epsilon = 1, c.router.sum_floor = 0;
  if (c.storage.inputs != input_codes::none) c.storage.inputs = input_codes::e4m3;
  return c;
}
/// And with one feed-forward in a mixture's place, of the same activation.
constexpr block_config dense_form(block_config c) {
  c = form(c);
  auto const& e = c.expert;
  c.expert = {.activation = e.activation, .limit = e.limit, .alpha = e.alpha, .up_offset = e.up_offset, .bias = e.bias};
  c.router = {}, c.shared = {}, c.shortcut = shortcut::none;
  return c;
}

template <class Layer>
struct of {
  static constexpr block_config config = small(Layer::config);
};

/// A layer of every form. Dense ones are missing whose attention and activation a mixture here has too.
#define MOESAIC_FAMILIES_OF_HEADS(X) \
  X(llama3_8b::layer) \
  X(mixtral_8x7b::layer) \
  X(olmoe_1b_7b::layer) \
  X(qwen1_5_moe_a2_7b::layer) \
  X(qwen3_30b_a3b::layer) \
  X(granite_3_0_3b_a800m::layer) \
  X(jetmoe_8b::layer) \
  X(phi_3_5_moe::layer) \
  X(dbrx::layer) \
  X(grok_1::layer) \
  X(gpt_oss_20b::sliding_layer) \
  X(llama_4_scout::layer) \
  X(llama_4_scout::global_layer) \
  X(llama_4_maverick::layer)
/// And of latent attention, of many shared and unshared experts.
#define MOESAIC_FAMILIES_OF_LATENTS(X) \
  X(deepseek_moe_16b::layer) \
  X(deepseek_v2_lite::layer) \
  X(deepseek_v2::layer) \
  X(deepseek_v3::layer) \
  X(kimi_k2::layer) \
  X(longcat_flash::layer) \
  X(longcat_flash::dense_layer) \
  X(ling_mini_2_0::layer) \
  X(ernie_4_5_21b_a3b::layer) \
  X(hunyuan_a13b::layer) \
  X(glm_4_5::layer) \
  X(glm_4_5_air::layer) \
  X(minimax_m2::layer) \
  X(switch_base_8::layer)

}  // namespace moesaic::test::families
