// Where weights come from: named tensors as a checkpoint stores them, and the spellings of their names.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/view.hpp>

namespace moesaic {

/// A stored tensor: row-major, `data` valid as long as its source. Of codes whose scales are another tensor, as the loader makes it of the two:
///   e4m3    a scale for each 128 rows × 128 inputs, a short block last (DeepSeek)
///   mxfp4   a scale for each 32 inputs of a row; input 2j is the low half of byte j (gpt-oss)
struct tensor {
  dtype type = dtype::same;
  list<const std::int64_t> shape;
  const std::byte* data = nullptr;     ///< may be unaligned
  std::int64_t bytes = 0;
  const tensor* scales = nullptr;      ///< of codes; weight = code · scale
};

/// Where tensors come from: a checkpoint file, a folder of shards, memory. `find` answers nullptr for a name it does not have;
/// `where` says, for an error message, which file a name would be in.
template <class S>
concept tensor_source = requires(S const& s, std::string_view name) {
  { s.find(name) } -> std::same_as<const tensor*>;
  { s.where(name) } -> std::convertible_to<std::string>;
};

/// Whether `widen` reads it: fp64, fp32, bf16, fp16, e4m3, e5m2.
constexpr bool widens(dtype t) {
  return t == dtype::fp64 || t == dtype::fp32 || t == dtype::bf16 || t == dtype::fp16 || t == dtype::e4m3 || t == dtype::e5m2;
}

/// Scale i of codes, whose tensor is one of floats, or of exponents: e8m0, or bytes that are.
inline float scale_of(tensor const& scales, std::int64_t i) {
  float scale = 0;
  if (scales.type == dtype::uint8 || scales.type == dtype::e8m0) return e8m0::from_bits(static_cast<std::uint8_t>(scales.data[i]));
  std::memcpy(&scale, scales.data + i * 4, sizeof scale);
  return scale;
}

/// Calls f(scale, i, j) for elements [i, j) of [first, first + count) that share one.
template <class F>
void for_each_scale(tensor const& t, std::int64_t first, std::int64_t count, F f) {
  auto const group = groups::extent_of(t.type);
  auto const inputs = t.shape[t.shape.size - 1], along = groups::scales_of(1, inputs, group).inputs;
  for (auto i = first; i < first + count;) {
    auto const row = i / inputs, k = i % inputs;
    auto const in_group = group.inputs - k % group.inputs, in_row = inputs - k, wanted = first + count - i;
    auto const shorter = in_group < in_row ? in_group : in_row, n = shorter < wanted ? shorter : wanted;
    f(scale_of(*t.scales, row / group.rows * along + k / group.inputs), i, i + n);
    i += n;
  }
}

/// Elements [first, first + count) of a stored tensor as fp32: code · scale where it has scales; else its type must be one that `widens`.
inline void widen(tensor const& t, std::int64_t first, std::int64_t count, float* out) {
  if (t.scales != nullptr)
    return for_each_scale(t, first, count, [&](float scale, std::int64_t i, std::int64_t end) {
      for (; i < end; ++i)
        *out++ = t.type == dtype::e4m3 ? groups::decode<dtype::e4m3>(static_cast<std::uint32_t>(t.data[i]), {scale, 0})
                                       : groups::decode<dtype::mxfp4>(static_cast<std::uint32_t>(t.data[i / 2]) >> i % 2 * 4 & 15u, {scale, 0});
    });
  auto const copy = [&]<class X>(X) {
    for (std::int64_t i = 0; i < count; ++i) {
      X x;
      std::memcpy(&x, t.data + (first + i) * static_cast<std::int64_t>(sizeof(X)), sizeof(X));
      out[i] = static_cast<float>(x);
    }
  };
  switch (t.type) {
    case dtype::fp64: return copy(double{});
    case dtype::fp32: std::memcpy(out, t.data + first * 4, static_cast<std::size_t>(count) * 4); return;
    case dtype::bf16: return copy(bf16{});
    case dtype::fp16: return copy(fp16{});
    case dtype::e4m3: return copy(e4m3{});
    case dtype::e5m2: return copy(e5m2{});
    default: return;
  }
}

/// How published checkpoints spell one weight, relative to its layer; the first that exists is taken. `{}` stands for the expert's number,
/// `{sublayer}` for that of a layer among those that share a number.
struct spellings {
  const char* options[4] = {};
};

/// How stacked experts lie: gate_up [experts, 2 · intermediate, hidden], gate rows first, or gate and up [experts, intermediate, hidden] apart, and
/// down [experts, hidden, intermediate]; or otherwise, as said here. Biases [experts, outputs] follow the order of the rows.
struct stack_layout {
  bool interleaved = false;            ///< of gate_up, row (or column) 2i is gate's i and 2i + 1 is up's (gpt-oss)
  bool transposed = false;             ///< gate_up [experts, hidden, 2 · intermediate]: y = x W (Llama 4, gpt-oss in bf16); gate, up likewise
  bool down_transposed = false;        ///< down [experts, intermediate, hidden] (those, and DBRX)
  bool flat = false;                   ///< the first two dimensions are one (DBRX)

  friend constexpr bool operator==(stack_layout const&, stack_layout const&) = default;
};

/// Names of a layer's tensors. The defaults cover every published family of config/presets/; give your own for others.
/// An expert's matrices are found one by one (gate, up, down), or, where all are of one width, stacked. Experts are numbered as the router's
/// rows: feed-forwards first.
struct tensor_names {
  spellings attention_norm = {"input_layernorm.weight"};
  spellings attention_norm_bias = {"input_layernorm.bias"};
  spellings ffn_norm = {"post_attention_layernorm.weight"};
  spellings ffn_norm_bias = {"post_attention_layernorm.bias"};
  // Norms after attention and feed-forward. Where there is an ffn_pre_norm, it is the ffn_norm: the name of that one is then the
  // attention_post_norm's (Gemma).
  spellings ffn_pre_norm = {"pre_feedforward_layernorm.weight"};
  spellings ffn_pre_norm_bias = {"pre_feedforward_layernorm.bias"};
  spellings attention_post_norm = {"post_self_attn_layernorm.weight", "post_attention_layernorm.weight"};
  spellings attention_post_norm_bias = {"post_self_attn_layernorm.bias", "post_attention_layernorm.bias"};
  spellings ffn_post_norm = {"post_feedforward_layernorm.weight", "post_mlp_layernorm.weight"};
  spellings ffn_post_norm_bias = {"post_feedforward_layernorm.bias", "post_mlp_layernorm.bias"};
  spellings q = {"self_attn.q_proj"}, k = {"self_attn.k_proj"}, v = {"self_attn.v_proj"}, out = {"self_attn.o_proj"};   // + .weight, .bias
  // One tensor of q, k and v rows, in place of three.
  spellings qkv = {"self_attn.qkv_proj", "norm_attn_norm.attn.Wqkv"};                                                   // + .weight, .bias
  spellings kv = {"self_attention.kv_proj"};                                                                             // of k and v rows; + .weight
  // Of experts of attention, stacked: q [experts, q_width / top_k, hidden], out [experts, hidden, heads_width / top_k], and the bias of their sum.
  spellings stacked_q = {"self_attention.experts.input_linear.weight"}, stacked_out = {"self_attention.experts.output_linear.weight"};
  spellings stacked_out_bias = {"self_attention.experts.bias"};
  spellings attention_router = {"self_attention.experts.router.layer.weight"}, attention_router_bias = {"self_attention.experts.router.layer.bias"};
  spellings sinks = {"self_attn.sinks"};
  spellings q_norm = {"self_attn.q_norm.weight"}, k_norm = {"self_attn.k_norm.weight"};
  spellings q_down = {"self_attn.q_a_proj"}, q_down_norm = {"self_attn.q_a_layernorm.weight"}, q_up = {"self_attn.q_b_proj"};   // of latent attention
  spellings kv_down = {"self_attn.kv_a_proj_with_mqa"}, kv_down_norm = {"self_attn.kv_a_layernorm.weight"}, kv_up = {"self_attn.kv_b_proj"};
  spellings gate = {"mlp.gate_proj"}, up = {"mlp.up_proj"}, down = {"mlp.down_proj"};                                   // + .weight, .bias
  spellings router = {"mlp.gate.weight", "block_sparse_moe.gate.weight"};
  spellings router_bias = {"mlp.gate.bias", "block_sparse_moe.gate.bias"};
  spellings score_bias = {"mlp.gate.e_score_correction_bias"};
  spellings expert_gate = {"mlp.experts.{}.gate_proj", "block_sparse_moe.experts.{}.w1"};                               // + .weight, .bias
  spellings expert_up = {"mlp.experts.{}.up_proj", "block_sparse_moe.experts.{}.w3"};
  spellings expert_down = {"mlp.experts.{}.down_proj", "block_sparse_moe.experts.{}.w2"};
  spellings constant_gate = {"mlp.experts.{}.wg.weight"}, constant_value = {"mlp.experts.{}.constant"};   // of constant experts
  spellings stacked_gate_up = {"mlp.experts.gate_up_proj"}, stacked_gate_up_bias = {"mlp.experts.gate_up_proj_bias"};
  spellings stacked_gate = {}, stacked_up = {};                                                                         // apart
  spellings stacked_down = {"mlp.experts.down_proj"}, stacked_down_bias = {"mlp.experts.down_proj_bias"};
  stack_layout stacked = {};
  spellings mixture_bias = {"mlp.bias"};
  spellings latent_down = {"mlp.fc1_latent_proj.weight"}, latent_up = {"mlp.fc2_latent_proj.weight"};     // around latent experts
  spellings shared_gate_proj = {"mlp.shared_expert.gate_proj", "mlp.shared_experts.gate_proj"};                         // + .weight, .bias
  spellings shared_up_proj = {"mlp.shared_expert.up_proj", "mlp.shared_experts.up_proj"};
  spellings shared_down_proj = {"mlp.shared_expert.down_proj", "mlp.shared_experts.down_proj"};
  spellings shared_gate = {"mlp.shared_expert_gate.weight"};

  // of a whole model
  spellings layer = {"model.layers.{}."};
  int sublayers = 1;                   ///< layers that share a number there (LongCat-Flash: 2, mixture and dense): {sublayer} tells them apart
  spellings embedding = {"model.embed_tokens.weight"};
  spellings final_norm = {"model.norm.weight"}, final_norm_bias = {"model.norm.bias"};
  spellings head = {"lm_head.weight"}, head_bias = {"lm_head.bias"};
};

}  // namespace moesaic
