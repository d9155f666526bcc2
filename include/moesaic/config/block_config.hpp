// What a user writes: one transformer layer as a value. Everything here is compile time; every member has a neutral default.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>

#include <moesaic/base/dtype.hpp>

namespace moesaic {

/// What a layer is compiled for. Training and batch-invariant inference refuse policies whose choice for one token depends on others.
enum class purpose : std::uint8_t { inference, batch_invariant, training };

/// How router logits become scores. `identity` leaves them as they are; sqrt_softplus: sqrt(ln(1 + e^z)) (DeepSeek-V4); relu: max(z, 0)
/// (ReMoE).
enum class score : std::uint8_t { softmax, sigmoid, identity, sqrt_softplus, relu };
/// Whether scores are taken over all experts and then the top-k chosen, or the top-k chosen by logit and the score taken over those.
enum class score_position : std::uint8_t { before_top_k, after_top_k };
/// What the (renormalised, scaled) scores multiply: the expert's output, nothing (one stands in their place), or the expert's input (Llama 4).
enum class combine_weight : std::uint8_t { scores, ones, on_input };
/// What a group of experts is worth: its largest choice (DeepSeek-V2), or the sum of its two largest (DeepSeek-V3).
enum class group_worth : std::uint8_t { max, top2_sum };
/// What stands in for the choice of experts outside the chosen groups: −inf forbids them; 0.0 reproduces an implementation in which they
/// beat a negative choice.
enum class group_mask : std::uint8_t { minus_infinity, zero };

/// h = act(gate) ⊙ up for the gated ones (swiglu: SiLU; geglu_*: GELU, tanh form or exact); relu, relu_squared (max(x, 0)²) and gelu have no
/// gate: h = act(up).
enum class activation : std::uint8_t { swiglu, geglu_tanh, geglu_erf, relu, relu_squared, gelu_tanh };
constexpr bool gated(activation a) { return a == activation::swiglu || a == activation::geglu_tanh || a == activation::geglu_erf; }
/// What a routed expert is: a feed-forward, or one of those that compute next to nothing (expert_config).
enum class expert_kind : std::uint8_t { feed_forward, zero, copy, constant };

/// Root-mean-square norm, or LayerNorm (mean removed).
enum class norm_kind : std::uint8_t { rms, layer };
/// Whether a norm's result is rounded to the activations' type before it is multiplied by the weight (Llama), or after (gpt-oss, Grok-1).
enum class norm_cast : std::uint8_t { before_weight, after_weight };
/// Where a layer's norms stand: before attention and feed-forward, after each (on what is added to the stream), or both (Grok-1).
enum class norm_placement : std::uint8_t { pre, post, sandwich };
/// RMS norm of queries and keys: of each head by itself (weightless: without a weight), or over the whole projected width.
enum class qk_norm : std::uint8_t { none, per_head, full_width, weightless };
/// Which elements rotate together: (i, i + d/2), or (2i, 2i + 1).
enum class rope_layout : std::uint8_t { half_split, interleaved };
enum class rope_scaling_kind : std::uint8_t { none, linear, llama3, yarn, ntk, longrope };

/// A divisor for each pair of rotated elements: `.factors = {1.0, 1.02, ...}`.
struct rope_factors {
  static constexpr int most = 128;
  double value[most] = {};
  int count = 0;                       ///< as given; a rule refuses more than `most`

  constexpr rope_factors() = default;
  constexpr rope_factors(std::initializer_list<double> given) {
    for (auto const f : given) {
      if (count < most) value[count] = f;
      ++count;
    }
  }
  constexpr bool empty() const { return count == 0; }

  friend constexpr bool operator==(rope_factors const&, rope_factors const&) = default;
};

/// Long-context change of the rotary frequencies. llama3: bands by wavelength (spec of Llama 3.1). yarn: bands by turns of the original
/// context (arXiv:2309.00071). ntk: θ · factor^(d / (d − 2)), d the elements that turn (Hunyuan's alpha). longrope: each pair's frequency
/// divided by its own factor (arXiv:2402.13753), of one list for short texts and of another for long ones: the long list turns all of a
/// sequence's tokens in a call that brings one at position original_positions or later. Keys that an earlier call turned by the short list stay
/// so in the cache, as in the published classes: a sequence that is to grow beyond is computed anew.
struct rope_scaling {
  rope_scaling_kind kind = rope_scaling_kind::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;        // llama3 only, as the next
  double high_freq_factor = 4.0;
  int original_positions = 8192;       // llama3, yarn, longrope
  double beta_fast = 32.0;             // yarn only, as the next three
  double beta_slow = 1.0;
  bool rounded = true;                 ///< the band's borders to whole pairs outward (DeepSeek), or as they come (gpt-oss)
  double magnitude = 0.0;              ///< on cosines and sines; 0 = yarn: 0.1 ln(factor) + 1, longrope: √(1 + ln(factor) / ln(original_positions))
  rope_factors factors = {};           ///< longrope only: [pairs]
  rope_factors long_factors = {};      ///< longrope only: in place of `factors` in a call that reaches beyond original_positions; empty = as `factors`
  double long_magnitude = 0.0;         ///< with long_factors, in place of magnitude

  friend constexpr bool operator==(rope_scaling const&, rope_scaling const&) = default;
};

/// Queries longer at later positions (Llama 4's layers without rotation): q · (1 + scale · ln(1 + ⌊(position + 1) / floor⌋)).
struct query_temperature {
  double scale = 0.0;                  ///< 0 = none
  int floor = 8192;

  friend constexpr bool operator==(query_temperature const&, query_temperature const&) = default;
};

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values are projections of one normalised latent of kv_rank elements a token,
/// which is what the cache keeps, with one rotated key of rope_dim elements that all heads share.
struct latent_config {
  int kv_rank = 0;                     ///< 0 = keys and values are projected from x
  int q_rank = 0;                      ///< queries are projected from a normalised latent too; 0 = from x
  int rope_dim = 0;                    ///< elements of a query or key, beside head_dim, that turn
  double epsilon = 1e-6;               ///< of the latents' RMS norms
  double q_scale = 1.0;                ///< on queries (LongCat-Flash: √(hidden / q_rank))
  double kv_scale = 1.0;               ///< on the normalised latent of keys and values (LongCat-Flash: √(hidden / kv_rank))

  friend constexpr bool operator==(latent_config const&, latent_config const&) = default;
};

/// experts == 0 means none: of a layer, dense, one feed-forward that every token uses; of its attention, projections that every token uses.
struct router_config {
  int experts = 0;                     ///< all that the router scores: feed-forwards, then those of expert.zero, .copy and .constant
  int top_k = 0;
  moesaic::score score = moesaic::score::softmax;
  moesaic::score_position position = moesaic::score_position::before_top_k;
  double logit_softcap = 0.0;          ///< cap · tanh(logit / cap) before the score; 0 = none
  int groups = 1;                      ///< equal runs of experts; choice is limited to the best top_groups of them
  int top_groups = 1;
  moesaic::group_worth group_worth = moesaic::group_worth::top2_sum;
  moesaic::group_mask group_mask = moesaic::group_mask::minus_infinity;
  bool renormalize = false;            ///< chosen weights divided by their sum; with top_k 1 that leaves ones, and in training no gradient
  double sum_epsilon = 1e-20;          ///< added to that sum, so that scores that all underflow give 0, not NaN
  double sum_floor = 0.0;              ///< and the least it may be (ERNIE-4.5: 1e-12)
  double routed_scale = 1.0;           ///< factor on the chosen weights, after renormalisation
  bool bias = false;                   ///< the router's linear layer has a bias
  double cosine = 0.0;                 ///< logits are cosines of x and an expert's row times this, 1 / temperature; 0 = plain products
  bool group_gate = false;             ///< `groups` more rows, after the experts': the outer level of routing::hierarchical
  bool score_bias = false;             ///< a bias an expert, added for selection only (balance without a loss)
  combine_weight weights = combine_weight::scores;

  friend constexpr bool operator==(router_config const&, router_config const&) = default;
};

struct attention_config {
  int heads = 0;
  int kv_heads = 0;                    ///< 0 = as many as heads (multi-head attention); query head h reads kv head h / (heads / kv_heads)
  int head_dim = 0;                    ///< 0 = hidden / heads
  int value_dim = 0;                   ///< of a head's values and output; 0 = head_dim
  bool tiled_kv = false;               ///< query head h reads kv head h mod kv_heads (JetMoE)
  bool rotary = true;                  ///< false = no positions (NoPE)
  int rotary_dim = 0;                  ///< the first elements of a head that turn; 0 = all
  double rope_theta = 1e4;
  rope_layout layout = rope_layout::half_split;
  rope_scaling scaling = {};
  moesaic::qk_norm qk_norm = moesaic::qk_norm::none;
  bool qk_norm_after_rope = false;
  bool qkv_bias = false;
  bool out_bias = false;
  double qkv_clip = 0.0;               ///< projections are clamped to ± this, before a QK norm (DBRX); 0 = none
  double scale = 0.0;                  ///< of the scores; 0 = 1 / sqrt(elements of a query)
  double softcap = 0.0;                ///< cap · tanh(score / cap) before the mask (Grok-1); 0 = none
  int window = 0;                      ///< a token sees itself and the window − 1 before it; 0 = all
  int chunk = 0;                       ///< a token sees no position of an earlier chunk of so many (Llama 4); 0 = all
  bool sinks = false;                  ///< a logit a head in the softmax that no value belongs to (gpt-oss)
  bool output_gate = false;            ///< heads' outputs times sigmoid of as many more columns of the query projection (Qwen3-Next)
  query_temperature temperature = {};
  latent_config latent = {};
  /// Of a mixture of attention heads (arXiv:2210.05144; JetMoE): each of its experts projects queries to heads / top_k heads and those heads' outputs back,
  /// keys and values are of no expert. A token's heads stand in the order of its choices. Outputs are weighed and summed; out_bias is added once.
  router_config router = {};

  friend constexpr bool operator==(attention_config const&, attention_config const&) = default;
};

/// So many feed-forwards of one width.
struct width_run {
  int experts = 0;
  int intermediate = 0;

  friend constexpr bool operator==(width_run const&, width_run const&) = default;
};

/// Feed-forwards of unequal width, run by run in the order of the experts' numbers: `.widths = {{10, 32}, {6, 64}}`.
struct width_runs {
  static constexpr int most = 8;
  width_run run[most] = {};
  int count = 0;                       ///< as given; a rule refuses more than `most`

  constexpr width_runs() = default;
  constexpr width_runs(std::initializer_list<width_run> given) {
    for (auto const& r : given) {
      if (count < most) run[count] = r;
      ++count;
    }
  }
  constexpr bool empty() const { return count == 0; }
  constexpr width_run const* begin() const { return run; }
  constexpr width_run const* end() const { return run + (count < most ? count : most); }
  constexpr int experts() const {
    int sum = 0;
    for (auto const& r : *this) sum += r.experts;
    return sum;
  }
  constexpr int widest() const {
    int width = 0;
    for (auto const& r : *this) width = r.intermediate > width ? r.intermediate : width;
    return width;
  }

  friend constexpr bool operator==(width_runs const&, width_runs const&) = default;
};

/// One feed-forward: of the dense layer, or of every routed expert that is one. The last experts that a router scores may be none: they
/// cost next to nothing, so that a token may do with less, and their outputs are weighed as any other's.
struct expert_config {
  int intermediate = 0;                ///< width; 0 where `widths` says it
  moesaic::activation activation = moesaic::activation::swiglu;
  double limit = 0.0;                  ///< gate clamped to at most this, up to ± it, before the activation (gpt-oss: 7); 0 = none
  double alpha = 1.0;                  ///< swiglu: gate · σ(alpha · gate) (gpt-oss: 1.702)
  double up_offset = 0.0;              ///< added to up (gpt-oss: 1)
  bool bias = false;                   ///< on gate, up and down
  bool mixture_bias = false;           ///< a bias [hidden] added once to the weighted sum (JetMoE)
  int latent = 0;                      ///< routed experts work on a projection of x to so many elements, and their sum is projected back; 0 = on x
  width_runs widths = {};              ///< of unequal feed-forwards (HMoE, arXiv:2408.10681); empty = all are `intermediate` wide
  int zero = 0;                        ///< experts whose output is 0 (MoE++, arXiv:2410.07348; null experts of AdaMoE, arXiv:2406.13233)
  int copy = 0;                        ///< whose output is their input x (MoE++; the identity experts of LongCat-Flash, arXiv:2509.01322)
  int constant = 0;                    ///< a₁ x + a₂ v, [a₁, a₂] = softmax(W x), with a W [2, hidden] and a v [hidden] each (MoE++)

  friend constexpr bool operator==(expert_config const&, expert_config const&) = default;
};

/// A feed-forward beside the routed experts that every token uses. Several shared experts are one of their summed width.
struct shared_config {
  int intermediate = 0;                ///< 0 = none
  bool sigmoid_gate = false;           ///< its output times sigmoid(w · x) (Qwen1.5-MoE)

  friend constexpr bool operator==(shared_config const&, shared_config const&) = default;
};

struct norm_config {
  norm_kind kind = norm_kind::rms;
  double epsilon = 1e-5;               ///< inside the mean of squares
  bool bias = false;                   ///< LayerNorm only
  norm_cast cast = norm_cast::before_weight;
  double weight_offset = 0.0;          ///< added to the weight (Gemma, Qwen3-Next: 1)

  friend constexpr bool operator==(norm_config const&, norm_config const&) = default;
};

/// Number formats. Router weights, norms and biases are always fp32.
struct storage_config {
  format weights = dtype::bf16;        ///< attention projections, and whatever is not named below
  format ffn = dtype::same;            ///< expert, shared and dense feed-forward matrices
  dtype activations = dtype::fp32;     ///< the residual stream and what passes between ops: fp32, bf16, or fp64 (the reference)
  input_codes inputs = input_codes::none;   ///< what matrices of e4m3 multiply; not the router, not the head, not latents on their way up to keys and values
  dtype cache = dtype::same;           ///< keys and values: same = as activations; fp32 or bf16 (with fp64 activations: fp64)

  friend constexpr bool operator==(storage_config const&, storage_config const&) = default;
};

/// Where a mixture's output joins the stream (LongCat-Flash, arXiv:2509.01322): at the end of its own layer; or, of a layer that `opens` a
/// shortcut, only at the end of the next, dense one, which `closes` it: the shared expert alone is added at the end of the layer that opens.
enum class shortcut : std::uint8_t { none, opens, closes };

/// One transformer layer: x + attention(norm(x)), then + feed-forward(norm(·)).
struct block_config {
  int hidden = 0;
  attention_config attention = {};
  router_config router = {};
  expert_config expert = {};
  shared_config shared = {};
  norm_config norm = {};
  norm_placement norms = norm_placement::pre;
  double residual_scale = 1.0;         ///< on what attention and feed-forward add to the stream (Granite)
  moesaic::shortcut shortcut = moesaic::shortcut::none;
  storage_config storage = {};
  moesaic::purpose purpose = moesaic::purpose::inference;

  friend constexpr bool operator==(block_config const&, block_config const&) = default;
};

/// What a whole model has besides its layers.
struct decoder_config {
  int vocabulary = 0;
  norm_config norm = {};               ///< before the head
  bool tied_head = false;              ///< the head is the embedding
  bool head_bias = false;
  double embedding_scale = 1.0;        ///< on the embedding's rows (Grok-1, Granite)
  double logit_scale = 1.0;            ///< on the logits
  double logit_softcap = 0.0;          ///< cap · tanh(logit / cap), after the scale; 0 = none
  format embedding = dtype::bf16;      ///< storage of the embedding, and of the head

  friend constexpr bool operator==(decoder_config const&, decoder_config const&) = default;
};

// How messages spell them.

constexpr const char* name(purpose value) {
  switch (value) {
    case purpose::inference: return "inference";
    case purpose::batch_invariant: return "batch_invariant";
    case purpose::training: return "training";
  }
  return "";
}

constexpr const char* name(group_worth value) {
  switch (value) {
    case group_worth::max: return "max";
    case group_worth::top2_sum: return "top2_sum";
  }
  return "";
}

constexpr const char* name(group_mask value) {
  switch (value) {
    case group_mask::minus_infinity: return "minus_infinity";
    case group_mask::zero: return "zero";
  }
  return "";
}

constexpr const char* name(score value) {
  switch (value) {
    case score::softmax: return "softmax";
    case score::sigmoid: return "sigmoid";
    case score::identity: return "identity";
    case score::sqrt_softplus: return "sqrt_softplus";
    case score::relu: return "relu";
  }
  return "";
}

constexpr const char* name(score_position value) {
  switch (value) {
    case score_position::before_top_k: return "before_top_k";
    case score_position::after_top_k: return "after_top_k";
  }
  return "";
}

constexpr const char* name(combine_weight value) {
  switch (value) {
    case combine_weight::scores: return "scores";
    case combine_weight::ones: return "ones";
    case combine_weight::on_input: return "on_input";
  }
  return "";
}

constexpr const char* name(activation value) {
  switch (value) {
    case activation::swiglu: return "swiglu";
    case activation::geglu_tanh: return "geglu_tanh";
    case activation::geglu_erf: return "geglu_erf";
    case activation::relu: return "relu";
    case activation::relu_squared: return "relu_squared";
    case activation::gelu_tanh: return "gelu_tanh";
  }
  return "";
}

constexpr const char* name(expert_kind value) {
  switch (value) {
    case expert_kind::feed_forward: return "feed_forward";
    case expert_kind::zero: return "zero";
    case expert_kind::copy: return "copy";
    case expert_kind::constant: return "constant";
  }
  return "";
}

constexpr const char* name(norm_kind value) {
  switch (value) {
    case norm_kind::rms: return "rms";
    case norm_kind::layer: return "layer";
  }
  return "";
}

constexpr const char* name(qk_norm value) {
  switch (value) {
    case qk_norm::none: return "none";
    case qk_norm::per_head: return "per_head";
    case qk_norm::full_width: return "full_width";
    case qk_norm::weightless: return "weightless";
  }
  return "";
}

constexpr const char* name(norm_cast value) {
  switch (value) {
    case norm_cast::before_weight: return "before_weight";
    case norm_cast::after_weight: return "after_weight";
  }
  return "";
}

constexpr const char* name(norm_placement value) {
  switch (value) {
    case norm_placement::pre: return "pre";
    case norm_placement::post: return "post";
    case norm_placement::sandwich: return "sandwich";
  }
  return "";
}

constexpr const char* name(shortcut value) {
  switch (value) {
    case shortcut::none: return "none";
    case shortcut::opens: return "opens";
    case shortcut::closes: return "closes";
  }
  return "";
}

constexpr const char* name(rope_layout value) {
  switch (value) {
    case rope_layout::half_split: return "half_split";
    case rope_layout::interleaved: return "interleaved";
  }
  return "";
}

constexpr const char* name(rope_scaling_kind value) {
  switch (value) {
    case rope_scaling_kind::none: return "none";
    case rope_scaling_kind::linear: return "linear";
    case rope_scaling_kind::llama3: return "llama3";
    case rope_scaling_kind::yarn: return "yarn";
    case rope_scaling_kind::ntk: return "ntk";
    case rope_scaling_kind::longrope: return "longrope";
  }
  return "";
}

}  // namespace moesaic
