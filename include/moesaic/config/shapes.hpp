// Every number derived from a block_config, in one place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include <moesaic/base/macros.hpp>
#include <moesaic/config/block_config.hpp>

namespace moesaic {

/// Shapes of one layer. Weight matrices are [out, in], row-major.
struct block_shapes {
  int hidden = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int key_dim = 0, value_dim = 0;      ///< elements of a head's query or key (of latent attention: head_dim and those that turn), and of its value
  int rotary_dim = 0;                  ///< elements of a head that turn; 0 = none
  int q_width = 0;                     ///< heads · key_dim
  int k_width = 0, v_width = 0;        ///< kv_heads · key_dim, kv_heads · value_dim
  int heads_width = 0;                 ///< heads · value_dim: what the output projection reads
  int gate_width = 0;                  ///< heads_width where there is an output gate, or 0
  int qkv_width = 0;                   ///< q (not where experts of attention project it), then k, then v, then the output gate
  int attention_experts = 1;           ///< projections of queries and output; 1 where every token uses the same
  int attention_slots = 1;             ///< of them a token uses
  int group = 0;                       ///< query heads that share a kv head
  bool dense = true;
  int experts = 1;                     ///< of every kind; 1 for a dense layer
  int feed_forwards = 1;               ///< the first of them; zero, copy and constant ones follow
  width_runs widths;                   ///< of the feed-forwards; one run where all are alike
  int router_outputs = 0;              ///< experts, and the groups of a group gate
  int slots = 1;                       ///< expert slots a token has: top_k, or 1 for a dense layer
  int intermediate = 0;                ///< of the widest feed-forward
  int shared_intermediate = 0;
  int gate_parts = 2;                  ///< matrices side by side in GEMM 1: gate and up, or 1 where the activation has no gate
  format attention_format, ffn_format;
  dtype activations = dtype::fp32, cache = dtype::fp32;
};

constexpr block_shapes shapes(block_config const& c) {
  block_shapes s;
  auto const& a = c.attention;
  s.hidden = c.hidden;
  s.heads = a.heads;
  s.kv_heads = a.kv_heads != 0 ? a.kv_heads : a.heads;
  s.head_dim = a.head_dim != 0 ? a.head_dim : a.heads != 0 ? c.hidden / a.heads : 0;
  s.key_dim = s.head_dim + (a.latent.kv_rank != 0 ? a.latent.rope_dim : 0);
  s.value_dim = a.value_dim != 0 ? a.value_dim : s.head_dim;
  s.rotary_dim = !a.rotary ? 0 : a.latent.kv_rank != 0 ? a.latent.rope_dim : a.rotary_dim != 0 ? a.rotary_dim : s.head_dim;
  s.q_width = s.heads * s.key_dim;
  s.k_width = s.kv_heads * s.key_dim;
  s.v_width = s.kv_heads * s.value_dim;
  s.heads_width = s.heads * s.value_dim;
  s.gate_width = a.output_gate ? s.heads_width : 0;
  bool const mixed = a.router.experts != 0;
  s.qkv_width = (mixed ? 0 : s.q_width) + s.k_width + s.v_width + s.gate_width;
  s.attention_experts = mixed ? a.router.experts : 1;
  s.attention_slots = mixed && a.router.top_k > 0 ? a.router.top_k : 1;   // never 0: widths are divided by it, whatever is given
  s.group = s.kv_heads != 0 ? s.heads / s.kv_heads : 0;
  s.dense = c.router.experts == 0;
  s.experts = s.dense ? 1 : c.router.experts;
  s.router_outputs = s.dense ? 0 : s.experts + (c.router.group_gate ? c.router.groups : 0);
  s.slots = s.dense ? 1 : c.router.top_k;
  s.feed_forwards = s.experts - c.expert.zero - c.expert.copy - c.expert.constant;
  s.widths = c.expert.widths.empty() ? width_runs{{s.feed_forwards, c.expert.intermediate}} : c.expert.widths;
  s.intermediate = s.widths.widest();
  s.shared_intermediate = c.shared.intermediate;
  s.gate_parts = gated(c.expert.activation) ? 2 : 1;
  s.attention_format = c.storage.weights;
  s.ffn_format = c.storage.ffn.type == dtype::same ? c.storage.weights : c.storage.ffn;
  s.activations = c.storage.activations;
  s.cache = c.storage.cache == dtype::same ? c.storage.activations : c.storage.cache;
  return s;
}

/// Experts [first, first + count).
struct expert_range {
  int first = 0, count = 0;
  MOESAIC_FN constexpr bool has(int expert) const { return expert >= first && expert < first + count; }
};
constexpr expert_range zero_experts(block_config const& c) { return {shapes(c).feed_forwards, c.expert.zero}; }
constexpr expert_range copy_experts(block_config const& c) { return {shapes(c).feed_forwards + c.expert.zero, c.expert.copy}; }
constexpr expert_range constant_experts(block_config const& c) {
  return {shapes(c).feed_forwards + c.expert.zero + c.expert.copy, c.expert.constant};
}

/// What expert `e` is.
constexpr expert_kind kind_of(block_config const& c, int e) {
  int const after = e - shapes(c).feed_forwards;
  return after < 0                                 ? expert_kind::feed_forward
         : after < c.expert.zero                   ? expert_kind::zero
         : after < c.expert.zero + c.expert.copy   ? expert_kind::copy
                                                   : expert_kind::constant;
}
/// Width of feed-forward `e`; 0 for an expert that is none.
constexpr int width_of(block_config const& c, int e) {
  auto const s = shapes(c);
  for (auto const& run : s.widths) {
    if (e < run.experts) return run.intermediate;
    e -= run.experts;
  }
  return 0;
}

/// What the rotary embedding follows from. Kept with a layer's weights before the frequencies themselves, so that weights made for another
/// rotation are told from these.
inline constexpr int rope_parameter_count = 13;
struct rope_parameters {
  double value[rope_parameter_count];
};
constexpr rope_parameters rope_parameters_of(attention_config const& c) {
  auto const& s = c.scaling;
  std::uint64_t factors = 14695981039346656037u;   // lists as one number: FNV-1a (RFC 9923) over their doubles, of which 53 bits are kept
  auto const add = [&](double value) { factors = (factors ^ std::bit_cast<std::uint64_t>(value)) * 1099511628211u; };
  for (auto const* some : {&s.factors, &s.long_factors})
    for (int i = 0; i < some->count && i < rope_factors::most; ++i) add(some->value[i]);
  if (!s.long_factors.empty()) add(s.long_magnitude);
  return {{c.rope_theta, static_cast<double>(s.kind), s.factor, s.low_freq_factor, s.high_freq_factor, static_cast<double>(s.original_positions),
           s.beta_fast, s.beta_slow, static_cast<double>(s.rounded), s.magnitude, static_cast<double>(factors >> 11), static_cast<double>(c.rotary ? c.rotary_dim : -1),
           static_cast<double>(c.layout)}};
}

/// Frequencies that a layer keeps of `turning` elements of a head: one a pair, or two where long texts have factors of their own.
constexpr int rope_frequency_count(attention_config const& c, int turning) { return turning / 2 * (c.scaling.long_factors.empty() ? 1 : 2); }

/// Factor of the scores: 1 / √key_dim unless the configuration names one.
inline double attention_scale(attention_config const& config, int key_dim) {
  return config.scale != 0.0 ? config.scale : 1.0 / std::sqrt(static_cast<double>(key_dim));
}

}  // namespace moesaic
