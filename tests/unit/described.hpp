// A configuration as JSON, in the words of cmake/config_from_hf.py: what its test compares with that program's own answer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <initializer_list>
#include <string>
#include <utility>

#include <moesaic/config/block_config.hpp>

namespace moesaic::test {

inline std::string json_text(bool value) { return value ? "true" : "false"; }
inline std::string json_text(int value) { return std::to_string(value); }
inline std::string json_text(double value) {
  char digits[32];
  return std::string(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}
template <class Enum>
std::string json_text(const char* type, Enum value) {
  return std::string("\"") + type + "::" + name(value) + '"';
}
inline std::string json_object(std::initializer_list<std::pair<const char*, std::string>> fields) {
  std::string text;
  for (auto const& [key, value] : fields) text += (text.empty() ? "{\"" : ", \"") + std::string(key) + "\": " + value;
  return text + '}';
}
inline std::string json_text(format f) {
  return json_object({{"type", std::string("\"") + name(f.type) + '"'}, {"group", json_text(f.group)}, {"zero_point", json_text(f.zero_point)}});
}
inline std::string json_text(rope_factors const& f) {
  std::string text;
  for (int i = 0; i < f.count; ++i) text += (i == 0 ? "" : ", ") + json_text(f.value[i]);
  return '[' + text + ']';
}
inline std::string json_text(norm_config const& n) {
  return json_object({{"kind", json_text("norm_kind", n.kind)}, {"epsilon", json_text(n.epsilon)}, {"bias", json_text(n.bias)},
                      {"cast", json_text("norm_cast", n.cast)}, {"weight_offset", json_text(n.weight_offset)}});
}
inline std::string json_text(rope_scaling const& s) {
  return json_object({{"kind", json_text("rope_scaling_kind", s.kind)}, {"factor", json_text(s.factor)},
                      {"low_freq_factor", json_text(s.low_freq_factor)}, {"high_freq_factor", json_text(s.high_freq_factor)},
                      {"original_positions", json_text(s.original_positions)}, {"beta_fast", json_text(s.beta_fast)},
                      {"beta_slow", json_text(s.beta_slow)}, {"rounded", json_text(s.rounded)}, {"magnitude", json_text(s.magnitude)},
                      {"factors", json_text(s.factors)}, {"long_factors", json_text(s.long_factors)},
                      {"long_magnitude", json_text(s.long_magnitude)}});
}
inline std::string json_text(router_config const& r) {
  return json_object({{"experts", json_text(r.experts)}, {"top_k", json_text(r.top_k)}, {"score", json_text("score", r.score)},
                      {"position", json_text("score_position", r.position)}, {"logit_softcap", json_text(r.logit_softcap)},
                      {"groups", json_text(r.groups)}, {"top_groups", json_text(r.top_groups)},
                      {"group_worth", json_text("group_worth", r.group_worth)}, {"group_mask", json_text("group_mask", r.group_mask)},
                      {"renormalize", json_text(r.renormalize)}, {"sum_epsilon", json_text(r.sum_epsilon)},
                      {"sum_floor", json_text(r.sum_floor)}, {"routed_scale", json_text(r.routed_scale)}, {"bias", json_text(r.bias)},
                      {"score_bias", json_text(r.score_bias)}, {"weights", json_text("combine_weight", r.weights)}});
}
inline std::string json_text(attention_config const& a) {
  auto const& l = a.latent;
  return json_object({{"heads", json_text(a.heads)}, {"kv_heads", json_text(a.kv_heads)}, {"head_dim", json_text(a.head_dim)},
                      {"value_dim", json_text(a.value_dim)}, {"tiled_kv", json_text(a.tiled_kv)}, {"rotary", json_text(a.rotary)},
                      {"rotary_dim", json_text(a.rotary_dim)}, {"rope_theta", json_text(a.rope_theta)},
                      {"layout", json_text("rope_layout", a.layout)}, {"scaling", json_text(a.scaling)},
                      {"qk_norm", json_text("qk_norm", a.qk_norm)}, {"qk_norm_after_rope", json_text(a.qk_norm_after_rope)},
                      {"qkv_bias", json_text(a.qkv_bias)}, {"out_bias", json_text(a.out_bias)}, {"qkv_clip", json_text(a.qkv_clip)},
                      {"scale", json_text(a.scale)}, {"softcap", json_text(a.softcap)}, {"window", json_text(a.window)},
                      {"chunk", json_text(a.chunk)}, {"sinks", json_text(a.sinks)}, {"output_gate", json_text(a.output_gate)},
                      {"temperature", json_object({{"scale", json_text(a.temperature.scale)}, {"floor", json_text(a.temperature.floor)}})},
                      {"latent", json_object({{"kv_rank", json_text(l.kv_rank)}, {"q_rank", json_text(l.q_rank)},
                                              {"rope_dim", json_text(l.rope_dim)}, {"epsilon", json_text(l.epsilon)},
                                              {"q_scale", json_text(l.q_scale)}, {"kv_scale", json_text(l.kv_scale)}})},
                      {"router", json_text(a.router)}});
}
inline std::string json_text(block_config const& c) {
  auto const& e = c.expert;
  return json_object(
      {{"hidden", json_text(c.hidden)},
       {"attention", json_text(c.attention)},
       {"router", json_text(c.router)},
       {"expert", json_object({{"intermediate", json_text(e.intermediate)}, {"activation", json_text("activation", e.activation)},
                               {"limit", json_text(e.limit)}, {"alpha", json_text(e.alpha)}, {"up_offset", json_text(e.up_offset)},
                               {"bias", json_text(e.bias)}, {"mixture_bias", json_text(e.mixture_bias)}, {"latent", json_text(e.latent)},
                               {"zero", json_text(e.zero)}, {"copy", json_text(e.copy)}, {"constant", json_text(e.constant)}})},
       {"shared", json_object({{"intermediate", json_text(c.shared.intermediate)}, {"sigmoid_gate", json_text(c.shared.sigmoid_gate)}})},
       {"norm", json_text(c.norm)},
       {"norms", json_text("norm_placement", c.norms)},
       {"residual_scale", json_text(c.residual_scale)},
       {"shortcut", json_text("shortcut", c.shortcut)},
       {"storage", json_object({{"weights", json_text(c.storage.weights)}, {"ffn", json_text(c.storage.ffn)},
                                {"activations", json_text("dtype", c.storage.activations)},
                                {"inputs", json_text("input_codes", c.storage.inputs)}, {"cache", json_text("dtype", c.storage.cache)}})}});
}
inline std::string json_text(decoder_config const& d) {
  return json_object({{"vocabulary", json_text(d.vocabulary)}, {"norm", json_text(d.norm)}, {"tied_head", json_text(d.tied_head)},
                      {"head_bias", json_text(d.head_bias)}, {"embedding_scale", json_text(d.embedding_scale)},
                      {"logit_scale", json_text(d.logit_scale)}, {"logit_softcap", json_text(d.logit_softcap)},
                      {"embedding", json_text(d.embedding)}});
}
/// A model's: sparse_mixer is 0 where plain top-k is the policy, and else the epsilon of its state.
template <class Layers>
std::string json_text(decoder_config const& decoder, Layers const& layers, double sparse_mixer) {
  std::string list;
  for (auto const& layer : layers) list += (list.empty() ? "" : ", ") + json_text(layer);
  return json_object({{"decoder", json_text(decoder)},
                      {"routing", sparse_mixer == 0 ? "null" : json_object({{"policy", "\"sparse_mixer\""}, {"epsilon", json_text(sparse_mixer)}})},
                      {"layers", '[' + list + ']'}});
}

}  // namespace moesaic::test
