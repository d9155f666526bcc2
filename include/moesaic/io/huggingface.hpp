// A HuggingFace model folder becomes a description (what its config.json says, in block_config's fields) and a source of tensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <moesaic/base/status.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/layers.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/tensor.hpp>
#include <moesaic/io/mapped_file.hpp>
#include <moesaic/io/safetensors.hpp>
#include <moesaic/layer/decoder.hpp>
#include <moesaic/route/sparse_mixer.hpp>

namespace moesaic {

/// A whole model at run time: what a Model says at compile time.
struct decoder_description {
  decoder_config decoder;
  std::vector<block_config> layers;
  double mixer_epsilon = 0;              ///< routing::sparse_mixer is the policy, with this in a new state; 0 = plain top-k

  friend bool operator==(decoder_description const&, decoder_description const&) = default;
};

/// What a parsed config.json describes, in either form (`rope_scaling` and `torch_dtype`, or `rope_parameters` and `dtype`). A key that is
/// absent has the default of the class that `model_type` names. Throws `error`, one sentence about the first key that block_config cannot
/// express or that is not known; no key that could change the result is passed over. `cmake/config_from_hf.py` follows the same rules.
decoder_description describe_huggingface(nlohmann::json const& config);

/// How checkpoints of a model_type spell their tensors: as published, and as the class has them in memory.
tensor_names tensor_names_of(std::string_view model_type);

/// Reads a JSON file; throws `error` with the path.
nlohmann::json read_huggingface_json(std::string const& path);

/// The description of a model type.
template <class Model>
decoder_description description_of() {
  auto made = decoder_description{Model::config, {}};
  for_each_layer<typename Model::layers>([&]<class Spec>(int) {
    made.layers.push_back(Spec::config);
    if constexpr (std::is_base_of_v<routing::sparse_mixer<>, policy_of<Spec>>) made.mixer_epsilon = typename policy_of<Spec>::state{}.epsilon;
  });
  return made;
}

/// Throws `error` that names the first difference between two descriptions: layer, field, and both values. Defaults are compared by what
/// they mean (kv_heads 0 as heads). In which formats to hold weights is the user's choice, as is whether matrices of e4m3 multiply activations as they are
/// (storage.inputs none, as the classes compute that widen a file's codes); but where both name codes of inputs, they are the same ones.
void check_configuration(decoder_description const& header, decoder_description const& folder, std::string const& where = "config.json");

/// Throws `error` unless a Model is what the folder holds.
template <class Model>
void check_configuration(decoder_description const& folder, std::string const& where = "config.json") {
  check_configuration(description_of<Model>(), folder, where);
}

/// A model folder as HuggingFace lays it out: config.json, safetensors in one file or in shards. A `tensor_source`.
class checkpoint {
 public:
  /// Token ids that begin and end a text; bos −1 and eos empty where the folder names none.
  struct generation_ids {
    std::int64_t bos = -1;
    std::vector<std::int64_t> eos;
  };

  /// Throws `error` for what cannot be read or expressed, and for every tensor that the configuration gives no reason to read (a bias, a
  /// norm, a layer too many), but for rotary frequencies and the head of a model whose head is tied.
  explicit checkpoint(std::string const& folder, std::string const& config_file = "config.json");

  const tensor* find(std::string_view name) const { return tensors_.find(name); }
  std::string where(std::string_view name) const { return tensors_.where(name); }

  std::string const& path() const { return path_; }
  std::string const& config_path() const { return config_path_; }
  decoder_description const& description() const { return description_; }
  tensor_names const& names() const { return names_; }
  generation_ids const& generation() const { return generation_; }
  safetensors const& tensors() const { return tensors_; }

 private:
  void refuse_unknown_tensors() const;

  std::string path_, config_path_;
  decoder_description description_;
  tensor_names names_;
  std::vector<std::string> predicting_;  ///< how names begin of tensors that predict further tokens
  generation_ids generation_;
  safetensors tensors_;
};

/// The packed weights of a Model, once its configuration is that of the folder: see decoder<Model>::load. Throws `error`.
/// `loaded_layer(int)` is called after each layer.
template <class Model, class Where, class Progress>
auto load(Where& where, checkpoint const& folder, Progress&& loaded_layer) {
  check_configuration<Model>(folder.description(), folder.config_path());
  return decoder<Model>::load(where, folder, folder.names(), std::forward<Progress>(loaded_layer));
}
template <class Model, class Where>
auto load(Where& where, checkpoint const& folder) {
  return load<Model>(where, folder, [](int) {});
}

namespace detail {

// What the classes of each model_type mean by the keys they have, and by those that a file leaves out. The same text stands in
// cmake/config_from_hf.py, which explains its fields; a test compares the two.
inline nlohmann::json const& huggingface_families() {
  static auto const table = nlohmann::json::parse(R"json(
{
  "dbrx": {
    "keys": {"vocab_size": 32000, "d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048, "rms_norm_eps": 1e-5,
             "attn_config.clip_qkv": null, "attn_config.kv_n_heads": 1, "attn_config.rope_theta": 10000.0,
             "ffn_config.hidden_size": null, "ffn_config.ffn_act_fn.name": "silu", "ffn_config.ffn_hidden_size": 3584,
             "ffn_config.moe_num_experts": 4, "ffn_config.moe_top_k": 1, "ffn_config.moe_normalize_expert_weights": 1.0,
             "num_key_value_heads": null},
    "nested": ["attn_config", "ffn_config", "ffn_config.ffn_act_fn"],
    "names": {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
              "num_key_value_heads": "attn_config.kv_n_heads", "max_position_embeddings": "max_seq_len",
              "rope_theta": "attn_config.rope_theta", "clip_qkv": "attn_config.clip_qkv", "hidden_act": "ffn_config.ffn_act_fn.name",
              "intermediate_size": "ffn_config.ffn_hidden_size", "num_experts_per_tok": "ffn_config.moe_top_k",
              "weight_norm": "ffn_config.moe_normalize_expert_weights"},
    "agree": {"num_key_value_heads": "attn_config.kv_n_heads", "ffn_config.hidden_size": "d_model"},
    "harmless": ["model_type", "dtype", "attn_pdrop", "emb_pdrop", "resid_pdrop", "moe_jitter_eps", "moe_loss_weight"],
    "experts": ["ffn_config.moe_num_experts"], "norm": "layer"},
  "deepseek": {
    "keys": {"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30, "num_attention_heads": 32,
             "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "attention_bias": false, "moe_intermediate_size": 1407,
             "n_routed_experts": null, "n_shared_experts": null, "num_experts_per_tok": null, "norm_topk_prob": false,
             "first_k_dense_replace": 0, "moe_layer_freq": 1},
    "neutral": {"scoring_func": "softmax"},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "renormalize": "norm_topk_prob",
    "experts": ["n_routed_experts"], "expert_width": "moe_intermediate_size"},
  "deepseek_v2": {
    "keys": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": null, "rms_norm_eps": 1e-6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
             "qk_rope_head_dim": 64, "v_head_dim": 128, "moe_intermediate_size": 1407, "n_routed_experts": 64, "n_shared_experts": 2,
             "num_experts_per_tok": null, "n_group": null, "topk_group": null, "topk_method": "greedy", "routed_scaling_factor": 1.0,
             "first_k_dense_replace": 0, "moe_layer_freq": 1},
    "neutral": {"attention_bias": false, "mlp_bias": false, "norm_topk_prob": false, "scoring_func": "softmax"},
    "agree": {"head_dim": "qk_rope_head_dim"}, "harmless": ["qk_head_dim"],
    "latent": true, "interleaved": true, "group_worth": "max",
    "experts": ["n_routed_experts"], "expert_width": "moe_intermediate_size"},
  "deepseek_v3": {
    "keys": {"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61, "num_attention_heads": 128,
             "num_key_value_heads": 128, "rms_norm_eps": 1e-6, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
             "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_interleave": true, "moe_intermediate_size": 2048, "n_routed_experts": 256,
             "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
             "norm_topk_prob": true, "first_k_dense_replace": 3, "moe_layer_freq": 1},
    "neutral": {"attention_bias": false, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    "agree": {"head_dim": "qk_rope_head_dim"}, "harmless": ["qk_head_dim"],
    "latent": true, "interleaved": "rope_interleave", "score": "sigmoid", "score_bias": true, "renormalize": "norm_topk_prob",
    "experts": ["n_routed_experts"], "expert_width": "moe_intermediate_size"},
  "ernie4_5_moe": {
    "keys": {"vocab_size": 103424, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20,
             "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "moe_intermediate_size": 1536, "moe_k": 6,
             "moe_num_experts": 64, "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": -1,
             "moe_layer_interval": 1, "moe_norm_min": 1e-12},
    "names": {"num_experts_per_tok": "moe_k", "n_shared_experts": "moe_num_shared_experts",
              "first_k_dense_replace": "moe_layer_start_index", "decoder_sparse_step": "moe_layer_interval"},
    "neutral": {"use_bias": false, "moe_gate": "topk", "moe_use_aux_free": true},
    "harmless": ["compression_ratio", "moe_capacity", "num_nextn_predict_layers", "use_flash_attention", "max_sequence_length"],
    "interleaved": true, "score_bias": true, "renormalize": true, "sum_epsilon": 0.0,
    "predicts": ["model.mtp_block.", "model.mtp_emb_norm.", "model.mtp_hidden_norm.", "model.mtp_linear_proj."],
    "experts": ["moe_num_experts"], "expert_width": "moe_intermediate_size"},
  "glm4_moe": {
    "keys": {"vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46, "num_attention_heads": 96,
             "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "attention_bias": false,
             "partial_rotary_factor": 0.5, "use_qk_norm": false,
             "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1,
             "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": true, "first_k_dense_replace": 1},
    "qkv_bias": "attention_bias", "qk_norm": "per_head", "partial": true, "score": "sigmoid", "score_bias": true,
    "renormalize": "norm_topk_prob", "experts": ["n_routed_experts"], "expert_width": "moe_intermediate_size"},
  "gpt_oss": {
    "keys": {"vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
             "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5, "attention_bias": true, "rope_theta": 150000.0,
             "max_position_embeddings": 131072, "sliding_window": 128, "layer_types": null, "num_local_experts": 128,
             "num_experts_per_tok": 4, "swiglu_limit": 7.0, "swiglu_alpha": 1.702,
             "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                              "original_max_position_embeddings": 4096}},
    "harmless": ["experts_per_token", "initial_context_length"],
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "ffn_bias": true, "router_bias": true, "sinks": true,
    "window": "alternate", "position": "after_top_k", "up_offset": 1.0, "cast": "after_weight", "experts": ["num_local_experts"]},
  "granitemoe": {
    "keys": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": null, "rms_norm_eps": 1e-6, "attention_bias": false, "attention_multiplier": 1.0,
             "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "num_local_experts": 8,
             "num_experts_per_tok": 2},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "position": "after_top_k", "experts": ["num_local_experts"]},
  "grok-1": {
    "keys": {"vocab_size": 131072, "hidden_size": 6144, "intermediate_size": 32768, "num_hidden_layers": 64, "num_attention_heads": 48,
             "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": true,
             "attn_output_multiplier": 0.08838834764831845, "embedding_multiplier_scale": 78.38367176906169,
             "output_multiplier_scale": 0.5773502691896257, "max_attn_value": 30.0, "num_experts": 8, "num_experts_per_tok": 2},
    "names": {"attention_multiplier": "attn_output_multiplier", "embedding_multiplier": "embedding_multiplier_scale"},
    "norms": "sandwich", "cast": "after_weight", "experts": ["num_experts"]},
  "hunyuan_v1_moe": {
    "keys": {"vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": null, "rms_norm_eps": 1e-5, "attention_bias": false, "num_experts": 1, "moe_topk": 1},
    "names": {"num_experts_per_tok": "moe_topk"}, "lists": ["moe_intermediate_size", "moe_topk", "num_shared_expert"],
    "neutral": {"mlp_bias": false, "norm_type": "rms", "use_cla": false, "use_mixed_mlp_moe": true, "use_mla": false, "use_qk_norm": true,
                "use_rotary_pos_emb": true, "moe_layer_num_skipped": 0, "num_shared_expert": 1},
    "agree": {"attention_head_dim": "head_dim", "moe_intermediate_size": "intermediate_size"},
    "harmless": ["capacity_factor", "cla_share_factor", "eod_token_id", "im_end_id", "im_newline_id", "im_start_id", "mask_init_id",
                 "moe_drop_tokens", "moe_random_routing_dropped_token", "norm_topk_prob", "org_vocab_size", "pad_id",
                 "routed_scaling_factor", "text_end_id", "text_start_id"],
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "qk_norm": "per_head", "qk_norm_after_rope": true, "alpha": true,
    "renormalize": true, "experts": ["num_experts"], "shared_width": "intermediate_size"},
  "jetmoe": {
    "keys": {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 12, "num_attention_heads": null,
             "num_key_value_heads": 16, "kv_channels": 128, "activation_function": "silu", "rms_norm_eps": 1e-6,
             "tie_word_embeddings": true, "num_local_experts": 8, "num_experts_per_tok": 2},
    "names": {"head_dim": "kv_channels", "hidden_act": "activation_function"}, "harmless": ["aux_loss_coef"],
    "layer_epsilon": 1e-6, "attention_experts": true, "out_bias": true, "mixture_bias": true, "position": "after_top_k",
    "experts": ["num_local_experts"]},
  "kimi_k2": {"as": "deepseek_v3"},
  "llama": {
    "keys": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": null, "rms_norm_eps": 1e-6, "attention_bias": false, "mlp_bias": false},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "ffn_bias": "mlp_bias"},
  "llama4_text": {
    "keys": {"vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
             "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5,
             "rope_theta": 500000.0, "attention_bias": false, "use_qk_norm": true, "no_rope_layers": null, "no_rope_layer_interval": 4,
             "attention_chunk_size": 8192, "layer_types": null, "attn_temperature_tuning": true, "attn_scale": 0.1, "floor_scale": 8192,
             "num_local_experts": 16, "num_experts_per_tok": 1, "moe_layers": null, "interleave_moe_layer_step": 1},
    "names": {"decoder_sparse_step": "interleave_moe_layer_step"}, "harmless": ["cache_implementation", "for_llm_compressor"],
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "qk_norm": "weightless", "qk_norm_after_rope": true,
    "interleaved": true, "score": "sigmoid", "position": "after_top_k", "weights": "on_input", "experts": ["num_local_experts"],
    "dense_width": "intermediate_size_mlp", "shared_width": "intermediate_size"},
  "longcat_flash": {
    "keys": {"vocab_size": 131072, "hidden_size": 6144, "ffn_hidden_size": 12288, "num_layers": 28, "num_attention_heads": 64,
             "num_key_value_heads": null, "rms_norm_eps": 1e-5, "rope_theta": 1e7, "q_lora_rank": 1536, "kv_lora_rank": 512,
             "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "expert_ffn_hidden_size": 2048, "moe_topk": 12,
             "n_routed_experts": 512, "zero_expert_num": 256, "routed_scaling_factor": 6.0, "router_bias": false},
    "names": {"num_hidden_layers": "num_layers", "intermediate_size": "ffn_hidden_size", "num_experts_per_tok": "moe_topk"},
    "neutral": {"attention_bias": false, "attention_method": "MLA", "mla_scale_kv_lora": true, "mla_scale_q_lora": true,
                "norm_topk_prob": false, "zero_expert_type": "identity"},
    "agree": {"head_dim": "qk_rope_head_dim"}, "harmless": ["num_hidden_layers", "qk_head_dim"],
    "latent": true, "latent_scales": true, "interleaved": true, "score_bias": true, "router_bias": "router_bias", "shortcut": true,
    "predicts": ["model.mtp."],
    "experts": ["n_routed_experts"], "copies": "zero_expert_num", "expert_width": "expert_ffn_hidden_size"},
  "minimax_m2": {
    "keys": {"vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62, "num_attention_heads": 48,
             "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 5000000.0, "rotary_dim": null,
             "num_local_experts": 256, "num_experts_per_tok": 8},
    "lists": ["attn_type_list"],
    "neutral": {"attn_type_list": 1, "layernorm_full_attention_beta": 1.0, "layernorm_linear_attention_beta": 1.0,
                "layernorm_mlp_beta": 1.0, "qk_norm_type": "per_layer", "scoring_func": "sigmoid", "shared_intermediate_size": 0,
                "use_qk_norm": true, "use_routing_bias": true},
    "harmless": ["mtp_transformer_layers", "num_mtp_modules", "use_mtp"],
    "qk_norm": "full_width", "partial": true, "score": "sigmoid", "score_bias": true, "renormalize": true, "sum_epsilon": 0.0,
    "experts": ["num_local_experts"]},
  "mixtral": {
    "keys": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": null,
             "num_local_experts": 8, "num_experts": null, "num_experts_per_tok": 2},
    "window": "all", "renormalize": true, "experts": ["num_local_experts", "num_experts"]},
  "olmoe": {
    "keys": {"vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16,
             "num_key_value_heads": null, "rms_norm_eps": 1e-5, "attention_bias": false, "clip_qkv": null,
             "num_experts": 64, "num_local_experts": null, "num_experts_per_tok": 8, "norm_topk_prob": false},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "renormalize": "norm_topk_prob", "qk_norm": "full_width",
    "experts": ["num_experts", "num_local_experts"]},
  "phimoe": {
    "keys": {"vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": null, "attention_bias": false,
             "lm_head_bias": false, "original_max_position_embeddings": null, "max_position_embeddings": 131072,
             "num_local_experts": 16, "num_experts_per_tok": 2, "router_jitter_noise": 0.01},
    "harmless": ["input_jitter_noise"],
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "window": "all", "norm": "layer", "norm_bias": true,
    "head_bias": "lm_head_bias", "sparse_mixer": "router_jitter_noise", "experts": ["num_local_experts"]},
  "qwen2": {
    "keys": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 32, "rms_norm_eps": 1e-6,
             "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28, "layer_types": null},
    "qkv_bias": true, "window": "later"},
  "qwen2_moe": {
    "keys": {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
             "num_key_value_heads": 16, "rms_norm_eps": 1e-6, "qkv_bias": true,
             "use_sliding_window": false, "sliding_window": 4096, "layer_types": null,
             "num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": false, "moe_intermediate_size": 1408,
             "shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1, "mlp_only_layers": null},
    "qkv_bias": "qkv_bias", "renormalize": "norm_topk_prob", "experts": ["num_experts"], "expert_width": "moe_intermediate_size"},
  "qwen3": {
    "keys": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6, "attention_bias": false,
             "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28, "layer_types": null},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "qk_norm": "per_head", "window": "later"},
  "qwen3_moe": {
    "keys": {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24, "num_attention_heads": 32,
             "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "attention_bias": false,
             "use_sliding_window": false, "sliding_window": 4096, "layer_types": null,
             "num_experts": 128, "num_local_experts": null, "num_experts_per_tok": 8, "norm_topk_prob": false,
             "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": null},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "qk_norm": "per_head", "renormalize": "norm_topk_prob",
    "experts": ["num_experts", "num_local_experts"], "expert_width": "moe_intermediate_size"}
}
)json");
  return table;
}

inline nlohmann::json const& huggingface_common() {
  static auto const table = nlohmann::json::parse(R"json(
{
  "keys": {"model_type": null, "hidden_act": "silu", "head_dim": null, "tie_word_embeddings": false, "dtype": null, "torch_dtype": null,
           "rope_theta": 10000.0, "rope_scaling": null, "rope_parameters": null, "max_position_embeddings": null,
           "quantization_config": null},
  "neutral": {"add_cross_attention": false, "chunk_size_feed_forward": 0, "is_encoder_decoder": false, "partial_rotary_factor": 1.0,
              "pruned_heads": {}, "rope_interleaved": false, "tie_encoder_decoder": false},
  "harmless": ["_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map",
               "aux_loss_alpha", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "diversity_penalty",
               "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "ep_size", "exponential_decay_length_penalty",
               "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range", "is_decoder",
               "is_llama_config", "label2id", "length_penalty", "max_length", "max_window_layers", "min_length", "no_repeat_ngram_size",
               "num_beam_groups", "num_beams", "num_nextn_predict_layers", "num_return_sequences", "output_attentions",
               "output_hidden_states",
               "output_router_logits", "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
               "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "router_aux_loss_coef",
               "router_jitter_noise", "sep_token_id", "seq_aux", "suppress_tokens", "task_specific_params", "temperature",
               "tokenizer_class", "top_k", "top_p", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
               "use_cache"],
  "wrapped": {"llama4": "text_config"}
}
)json");
  return table;
}

[[noreturn]] inline void refuse_key(std::string const& key, nlohmann::json const& value, std::string const& why) {
  constexpr std::size_t longest = 60;
  auto const shown = value.dump(-1, ' ', true);
  throw error("\"" + key + "\" is " + (shown.size() <= longest ? shown : shown.substr(0, longest) + "...") + ", " + why + ".");
}

/// Typed reading of the keys, each with the class's default; `names`: what the family calls the keys that are asked for.
class huggingface_keys {
 public:
  static constexpr int largest = 2147483647;
  template <class T>
  using words = std::vector<std::pair<const char*, T>>;

  explicit huggingface_keys(nlohmann::json values, nlohmann::json const& names = {}) : values_(std::move(values)), names_(names) {}

  std::string own(std::string const& key) const {
    auto const at = names_.find(key);
    return at != names_.end() ? at->get<std::string>() : key;
  }
  nlohmann::json const& operator[](std::string const& key) const {
    static nlohmann::json const absent;
    auto const at = values_.find(own(key));
    return at != values_.end() ? *at : absent;
  }
  bool has(std::string const& key) const { return !(*this)[key].is_null(); }
  [[noreturn]] void refuse(std::string const& key, std::string const& why) const { refuse_key(own(key), (*this)[key], why); }

  int integer(std::string const& key, int least = 1) const {
    auto const& value = (*this)[key];
    auto const fits = [&](auto number) { return std::cmp_greater_equal(number, least) && std::cmp_less_equal(number, largest); };
    if (!(value.is_number_unsigned() ? fits(value.get<std::uint64_t>()) : value.is_number_integer() && fits(value.get<std::int64_t>())))
      refuse(key, "which should be an integer from " + std::to_string(least) + " to " + std::to_string(largest));
    return value.get<int>();
  }
  /// A list of integers, so many if asked for; empty where there is none.
  std::vector<std::int64_t> integers(std::string const& key, int count = -1) const {
    auto const& value = (*this)[key];
    if (value.is_null()) return {};
    bool fits = value.is_array() && (count < 0 || value.size() == static_cast<std::size_t>(count));
    std::vector<std::int64_t> numbers;
    if (fits)
      for (auto const& one : value) {
        fits = fits && one.is_number_integer();
        if (fits) numbers.push_back(one.get<std::int64_t>());
      }
    if (!fits) refuse(key, "which should be a list of " + (count >= 0 ? std::to_string(count) + " " : "") + "integers");
    return numbers;
  }
  double number(std::string const& key) const {
    auto const& value = (*this)[key];
    if (!value.is_number() || !(value.get<double>() > 0) || !(value.get<double>() < 1e300))
      refuse(key, "which should be a number above 0");
    return value.get<double>();
  }
  bool boolean(std::string const& key) const {
    auto const& value = (*this)[key];
    if (!value.is_boolean()) refuse(key, "which should be true or false");
    return value.get<bool>();
  }
  template <class T>
  T word(std::string const& key, words<T> const& known) const {
    auto const& value = (*this)[key];
    std::string list;
    for (auto const& [text, meaning] : known) {
      if (value == text) return meaning;
      list += (list.empty() ? "" : ", ") + std::string(text);
    }
    refuse(key, "which is not one of " + list);
  }
  /// What the family says: true, or the key that says it, or nothing (false).
  bool trait(nlohmann::json const& family, const char* name) const {
    auto const said = family.find(name);
    if (said == family.end()) return false;
    return said->is_string() ? boolean(said->get<std::string>()) : said->get<bool>();
  }

 private:
  nlohmann::json values_, names_;
};

/// What a family's entry says: a word, or `otherwise`.
inline std::string said_of(nlohmann::json const& family, const char* field, const char* otherwise = "") {
  return family.value(field, std::string(otherwise));
}
inline bool flag_of(nlohmann::json const& family, const char* field) { return family.value(field, false); }
template <class T>
T word_of(nlohmann::json const& family, const char* field, huggingface_keys::words<T> const& known) {
  auto const said = said_of(family, field);
  for (auto const& [text, meaning] : known)
    if (said == text) return meaning;
  return T{};
}

/// The configuration with its nested objects' keys as object.key, and lists of equal numbers as that number.
inline nlohmann::json flat(nlohmann::json config, nlohmann::json const& family) {
  for (auto const& entry : family.value("nested", nlohmann::json::array())) {
    auto const key = entry.get<std::string>();
    auto const at = config.find(key);
    if (at == config.end()) continue;
    auto const inner = *at;
    config.erase(at);
    if (!inner.is_null() && !inner.is_object()) refuse_key(key, inner, "which should be an object");
    for (auto const& [name, value] : inner.items()) config[key + "." + name] = value;
  }
  for (auto const& entry : family.value("lists", nlohmann::json::array())) {
    auto const at = config.find(entry.get<std::string>());
    if (at == config.end() || !at->is_array() || at->empty()) continue;
    bool same = true;
    for (auto const& other : *at) same = same && other == at->front();
    if (same) *at = nlohmann::json(at->front());
  }
  return config;
}

/// A configuration and the family that reads it.
struct huggingface_model {
  nlohmann::json const& family;
  nlohmann::json config;                 ///< what it says itself, flat
  huggingface_keys keys;                 ///< over the class's defaults
};

/// Refuses a key that is not known, or that must be neutral and is not.
inline huggingface_model known_keys(nlohmann::json config) {
  if (!config.is_object()) throw error("The configuration is not a JSON object.");
  auto const &common = huggingface_common(), &families = huggingface_families();
  auto const type_of = [](nlohmann::json const& c) { return c.contains("model_type") ? c["model_type"] : nlohmann::json(); };
  auto const in = [](nlohmann::json const& names, nlohmann::json const& type) {
    return type.is_string() && names.contains(type.get<std::string>());
  };
  auto type = type_of(config);
  if (in(common["wrapped"], type)) {
    auto const name = common["wrapped"][type.get<std::string>()].get<std::string>();
    auto inner = config.contains(name) ? config[name] : nlohmann::json();
    if (!inner.is_object()) refuse_key(name, inner, "which should be an object");
    for (auto const key : {"dtype", "quantization_config", "torch_dtype"})
      if (config.contains(key) && !inner.contains(key)) inner[key] = config[key];
    config = nlohmann::json(std::move(inner));
    type = type_of(config);
  }
  if (!in(families, type)) {
    auto names = families;
    names.update(common["wrapped"]);
    std::string known;
    for (auto const& [name, ignored] : names.items()) known += (known.empty() ? "" : ", ") + name;
    refuse_key("model_type", type, "which is not one of " + known);
  }
  auto const name = type.get<std::string>();
  auto const& family = families[families[name].value("as", name)];
  config = flat(std::move(config), family);

  auto values = common["keys"], neutral = common["neutral"];
  values.update(family["keys"]);
  if (family.contains("neutral")) neutral.update(family["neutral"]);
  auto const listed = [](nlohmann::json const& names, std::string const& key) {
    return std::find(names.begin(), names.end(), nlohmann::json(key)) != names.end();
  };
  auto const harmless = [&](std::string const& key) {
    return listed(common["harmless"], key) || (family.contains("harmless") && listed(family["harmless"], key));
  };
  for (auto const& [key, value] : config.items()) {
    auto const last = key.substr(key.rfind('.') + 1);              // of object.key the key
    if (values.contains(key) || value.is_null() || harmless(key) || harmless(last)) continue;
    auto same = neutral.find(key);
    if (same == neutral.end()) same = neutral.find(last);
    if (same == neutral.end()) refuse_key(key, value, "and what it means for a " + name + " model is not known");
    if (value != *same) refuse_key(key, value, "which changes the result, and block_config has no field for it");
  }
  values.update(config);
  if (!values["rope_parameters"].is_null() && !config.contains("rope_scaling")) values["rope_scaling"] = nullptr;
  auto const agree = family.value("agree", nlohmann::json::object());
  for (auto const& [key, other] : agree.items())
    if (config.contains(key) && !config[key].is_null() && config[key] != values[other.get<std::string>()])
      refuse_key(key, config[key], "but " + other.get<std::string>() + " says otherwise");
  return {family, std::move(config), huggingface_keys(std::move(values), family.value("names", nlohmann::json::object()))};
}

inline double yarn_magnitude(double factor, double scale) { return factor > 1 ? 0.1 * scale * std::log(factor) + 1.0 : 1.0; }

/// How the elements of a head, or of it those that may, turn: from rope_scaling + rope_theta, or from rope_parameters.
inline void read_rope(huggingface_keys const& keys, nlohmann::json const& family, int head_dim, attention_config& attention) {
  auto const &old = keys["rope_scaling"], &now = keys["rope_parameters"];
  auto const name = std::string(now.is_null() ? "rope_scaling" : "rope_parameters");
  auto const values = !now.is_null() ? now : !old.is_null() ? old : nlohmann::json::object();
  if (!values.is_object()) refuse_key(name, values, "which should be an object");
  if (!old.is_null() && !now.is_null() && old != now) refuse_key("rope_scaling", old, "but rope_parameters says otherwise");

  auto const in = [&](std::string const& key) { return name + "." + key; };
  auto prefixed = nlohmann::json::object();
  for (auto const& [key, value] : values.items()) prefixed[in(key)] = value;
  auto const inside = huggingface_keys(std::move(prefixed));

  struct rope_kind {
    const char* name;
    rope_scaling_kind kind;
    std::vector<std::string> keys;
  };
  using enum rope_scaling_kind;
  static std::vector<rope_kind> const kinds = {
      {"default", none, {}},
      {"dynamic", ntk, {"alpha", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim"}},
      {"linear", linear, {"factor"}},
      {"llama3", llama3, {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}},
      {"longrope",
       longrope,
       {"attention_factor", "factor", "long_factor", "long_mscale", "original_max_position_embeddings", "short_factor", "short_mscale"}},
      {"yarn",
       yarn,
       {"attention_factor", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim", "original_max_position_embeddings",
        "truncate"}}};
  auto const word = values.value(values.contains("rope_type") ? "rope_type" : "type", nlohmann::json("default"));
  rope_kind const* kind = nullptr;
  std::string list;
  for (auto const& one : kinds) {
    if (one.kind == ntk && !flag_of(family, "alpha")) continue;
    list += (list.empty() ? "" : ", ") + std::string(one.name);
    if (word == one.name) kind = &one;
  }
  if (kind == nullptr) refuse_key(in("rope_type"), word, "which is not one of " + list);
  bool const partial = flag_of(family, "partial");
  for (auto const& [key, value] : values.items()) {
    if (key == "partial_rotary_factor" && (partial || value == 1.0)) continue;
    bool const known = key == "rope_type" || key == "type" || key == "rope_theta" ||
                       std::find(kind->keys.begin(), kind->keys.end(), key) != kind->keys.end();
    if (!known && !value.is_null())
      refuse_key(in(key), value, "and what it means for " + std::string(kind->name) + " rotary frequencies is not known");
  }
  attention.rope_theta = inside.has(in("rope_theta")) ? inside.number(in("rope_theta")) : keys.number("rope_theta");
  int turning = head_dim;
  if (partial) {
    auto const part = in("partial_rotary_factor");
    if (inside.has(part) || keys.has("partial_rotary_factor")) {
      double const elements = head_dim * (inside.has(part) ? inside.number(part) : keys.number("partial_rotary_factor"));
      turning = elements < huggingface_keys::largest ? static_cast<int>(elements) : huggingface_keys::largest;
    }
    if (keys.has("rotary_dim")) {
      if (inside.has(part) && keys.integer("rotary_dim") != turning) keys.refuse("rotary_dim", "but " + part + " says otherwise");
      turning = keys.integer("rotary_dim");
    }
    if (turning > head_dim || turning < 2)
      throw error("Fewer than two elements of a head should turn, or more than the " + std::to_string(head_dim) + " that it has.");
    if (turning != head_dim) attention.rotary_dim = turning;
  }

  auto& scaling = attention.scaling;
  auto const number = [&](const char* key) { return inside.number(in(key)); };
  auto const either = [&](std::string const& key, double other) { return inside.has(in(key)) ? inside.number(in(key)) : other; };
  auto const original = [&] {
    auto const own = std::string("original_max_position_embeddings");
    return inside.has(in(own)) ? inside.integer(in(own)) : keys.integer(keys.has(own) ? own : "max_position_embeddings");
  };
  scaling.kind = kind->kind;
  if (kind->kind == none) return;
  if (kind->kind == ntk) scaling.factor = number("alpha");
  else if (kind->kind != longrope) scaling.factor = number("factor");
  double const factor = scaling.factor;
  if (kind->kind == llama3) {
    scaling.low_freq_factor = number("low_freq_factor");
    scaling.high_freq_factor = number("high_freq_factor");
    scaling.original_positions = original();
  }
  if (kind->kind == yarn) {
    scaling.magnitude = factor > 1 ? 0.0 : 1.0;
    if (inside.has(in("attention_factor"))) scaling.magnitude = number("attention_factor");
    else if (inside.has(in("mscale")) && inside.has(in("mscale_all_dim"))) {
      double const above = yarn_magnitude(factor, number("mscale"));
      scaling.magnitude = above / yarn_magnitude(factor, number("mscale_all_dim"));
    }
    scaling.original_positions = original();
    scaling.beta_fast = either("beta_fast", 32.0);
    scaling.beta_slow = either("beta_slow", 1.0);
    scaling.rounded = !inside.has(in("truncate")) || inside.boolean(in("truncate"));
    if (flag_of(family, "latent") && inside.has(in("mscale_all_dim"))) {
      double const one = yarn_magnitude(factor, number("mscale_all_dim"));
      attention.scale = one * one / std::sqrt(static_cast<double>(keys.integer("qk_nope_head_dim")) + head_dim);
    }
  }
  if (kind->kind == longrope) {
    scaling.original_positions = original();
    int const positions = keys.integer("max_position_embeddings"), pairs = turning / 2;
    scaling.factor = either("factor", static_cast<double>(positions) / scaling.original_positions);
    auto const read = [&](std::string const& which, rope_factors& into) {
      auto const& given = inside[in(which + "_factor")];
      bool fits = given.is_array() && given.size() == static_cast<std::size_t>(pairs) && pairs <= rope_factors::most;
      if (fits)
        for (auto const& f : given) fits = fits && f.is_number() && f.get<double>() > 0 && f.get<double>() < 1e300;
      if (!fits)
        refuse_key(in(which + "_factor"), given,
                   "which should be a list of " + std::to_string(pairs) + " numbers above 0, and at most " +
                       std::to_string(rope_factors::most));
      for (auto const& f : given) into.value[into.count++] = f.get<double>();
      return either(which + "_mscale", either("attention_factor", scaling.factor > 1 ? 0.0 : 1.0));
    };
    scaling.magnitude = read("short", scaling.factors);
    if (positions > scaling.original_positions) scaling.long_magnitude = read("long", scaling.long_factors);
  }
}

/// For each layer, whether queries and keys turn.
inline std::vector<bool> rotary_layers(huggingface_keys const& keys, int layers) {
  std::vector<bool> turns(static_cast<std::size_t>(layers));
  if (!keys.integers("no_rope_layers").empty()) {
    auto const given = keys.integers("no_rope_layers", layers);
    for (std::size_t i = 0; i < given.size(); ++i) turns[i] = given[i] != 0;
    return turns;
  }
  int const interval = keys.has("no_rope_layer_interval") ? keys.integer("no_rope_layer_interval") : 0;
  for (int i = 0; i < layers; ++i) turns[static_cast<std::size_t>(i)] = interval == 0 || (i + 1) % interval != 0;
  return turns;
}

/// For each layer the window or the chunk in which it attends.
struct attention_span {
  int window = 0, chunk = 0;
};
inline std::vector<attention_span> read_spans(huggingface_keys const& keys, nlohmann::json const& family, int layers) {
  auto types = keys["layer_types"];
  int window = 0;
  if (keys.has("sliding_window") && (!keys.has("use_sliding_window") || keys.boolean("use_sliding_window"))) {
    window = keys.integer("sliding_window");
    if (keys.has("max_position_embeddings") && window >= keys.integer("max_position_embeddings")) window = 0;
  }
  if (types.is_null()) {
    types = nlohmann::json::array();
    auto const made = [&](const char* kind, auto limited) {
      for (int i = 0; i < layers; ++i) types.push_back(limited(i) ? kind : "full_attention");
    };
    auto const pattern = said_of(family, "window");
    if (keys.has("attention_chunk_size")) {
      auto const turns = rotary_layers(keys, layers);
      made("chunked_attention", [&](int i) { return static_cast<bool>(turns[static_cast<std::size_t>(i)]); });
    } else if (window == 0) {
      made("", [](int) { return false; });
    } else if (pattern == "all") {
      made("sliding_attention", [](int) { return true; });
    } else if (pattern == "alternate") {
      made("sliding_attention", [](int i) { return i % 2 == 0; });
    } else if (pattern == "later") {
      int const first = keys.integer("max_window_layers", 0);
      made("sliding_attention", [&](int i) { return i >= first; });
    } else {
      keys.refuse("sliding_window", "but which layers have it is not known");
    }
  }
  if (!types.is_array() || types.size() != static_cast<std::size_t>(layers))
    refuse_key("layer_types", types, "which should be a list of " + std::to_string(layers) + " names");
  huggingface_keys::words<attention_span> known;
  if (keys.has("attention_chunk_size")) known.push_back({"chunked_attention", {0, keys.integer("attention_chunk_size")}});
  known.push_back({"full_attention", {}});
  if (keys.has("sliding_window")) known.push_back({"sliding_attention", {window, 0}});
  std::vector<attention_span> spans;
  for (auto const& type : types) spans.push_back(huggingface_keys(nlohmann::json{{"layer_types", type}}).word("layer_types", known));
  return spans;
}

/// Number of routed experts: 0 where there are none.
inline int expert_count(huggingface_keys const& keys, nlohmann::json const& family, nlohmann::json const& config) {
  std::string given, fallback;
  for (auto const& entry : family.value("experts", nlohmann::json::array())) {
    auto const key = entry.get<std::string>();
    if (config.contains(key) && !config[key].is_null()) {
      if (!given.empty() && config[key] != config[given]) refuse_key(key, config[key], "but " + given + " says otherwise");
      if (given.empty()) given = key;
    }
    if (fallback.empty() && keys.has(key)) fallback = key;
  }
  auto const& key = !given.empty() ? given : fallback;
  return key.empty() ? 0 : keys.integer(key, 0);
}

/// For each layer, whether it is dense though the model has experts.
inline std::vector<bool> dense_layers(huggingface_keys const& keys, int layers) {
  int const first = keys.has("first_k_dense_replace") ? keys.integer("first_k_dense_replace", 0) : 0;
  int const last = keys.has("moe_layer_end_index") ? keys.integer("moe_layer_end_index", -1) : -1;
  int const every = keys.has("moe_layer_freq") ? keys.integer("moe_layer_freq") : 1;
  int const step = keys.has("decoder_sparse_step") ? keys.integer("decoder_sparse_step") : 1;
  auto const only = keys.integers("mlp_only_layers"), sparse = keys.integers("moe_layers");
  auto const in = [](std::vector<std::int64_t> const& list, int i) { return std::find(list.begin(), list.end(), i) != list.end(); };
  std::vector<bool> dense(static_cast<std::size_t>(layers));
  for (int i = 0; i < layers; ++i)
    dense[static_cast<std::size_t>(i)] =
        keys.has("moe_layers") ? !in(sparse, i)
                               : i < first || (0 <= last && last < i) || i % every != 0 || (i + 1) % step != 0 || in(only, i);
  return dense;
}

inline shared_config read_shared(huggingface_keys const& keys, nlohmann::json const& family) {
  if (keys.has("shared_expert_intermediate_size") && keys.integer("shared_expert_intermediate_size", 0) > 0)
    return {keys.integer("shared_expert_intermediate_size"), true};
  if (keys.has("n_shared_experts") && keys.integer("n_shared_experts", 0) > 0) {
    auto const width = std::int64_t{keys.integer("n_shared_experts")} * keys.integer("moe_intermediate_size");
    if (width > huggingface_keys::largest) keys.refuse("n_shared_experts", "and their summed width is beyond every limit");
    return {static_cast<int>(width), false};
  }
  if (family.contains("shared_width")) return {keys.integer(said_of(family, "shared_width")), false};
  return {};
}

/// Refuses what `quantization_config` says beside `known` keys and modules that it leaves as they are: but for those that are never coded here.
inline void refuse_other_quantization(nlohmann::json const& told, std::vector<std::string_view> const& known, bool attention_stays) {
  std::vector<std::string> stays{"e_score_correction_bias", "embed_tokens", "gate", "input_layernorm", "k_norm", "lm_head", "norm", "post_attention_layernorm",
                                 "q_norm", "router", "shared_expert_gate"};
  if (attention_stays) stays.emplace_back("self_attn");
  auto const has = [](auto const& list, auto const& name) { return std::find(list.begin(), list.end(), name) != list.end(); };
  for (auto const& [key, value] : told.items()) {
    if (value.is_null() || key == "quant_method" || has(known, key)) continue;
    auto const within = "quantization_config." + key;
    if (key != "modules_to_not_convert") refuse_key(within, value, "and what it means is not known");
    if (!value.is_array()) refuse_key(within, value, "which should be a list of names");
    for (auto const& module : value) {
      auto const name = module.is_string() ? module.get<std::string>() : "";
      if (has(stays, name.substr(name.rfind('.') + 1))) continue;
      std::string list;
      for (auto const& one : stays) list += (list.empty() ? "" : ", ") + one;
      refuse_key(within, module, "and its last word is not one of " + list);
    }
  }
}

/// In which formats the files have the weights; answers that of the embedding.
inline format read_storage(huggingface_keys const& keys, storage_config& storage) {
  format stored = dtype::fp32;           // as the classes load a file that names no type
  for (auto const key : {"torch_dtype", "dtype"})
    if (keys.has(key)) stored = keys.word<dtype>(key, {{"float32", dtype::fp32}, {"bfloat16", dtype::bf16}, {"float16", dtype::fp16}});
  if (keys.has("torch_dtype") && keys.has("dtype") && keys["torch_dtype"] != keys["dtype"])
    keys.refuse("torch_dtype", "but dtype says otherwise");
  storage.weights = stored;
  if (!keys.has("quantization_config")) return stored;
  auto const& told = keys["quantization_config"];
  auto const of = [&](const char* key, nlohmann::json const& otherwise) {
    return told.is_object() ? told.value(key, otherwise) : otherwise;
  };
  if (of("quant_method", {}) == "mxfp4") {
    storage.ffn = dtype::mxfp4;
    refuse_other_quantization(told, {}, true);
  } else if (of("quant_method", {}) == "fp8" && (of("fmt", "e4m3") == "e4m3" || of("fmt", {}) == "float8_e4m3fn") && of("weight_block_size", {}) == nlohmann::json{128, 128}) {
    storage.weights = dtype::e4m3;
    auto const scale = of("scale_fmt", {});
    if (of("activation_scheme", "dynamic") != "dynamic" || !(scale.is_null() || scale == "ue8m0"))
      keys.refuse("quantization_config", "but read are inputs whose scales are found as they come, as floats or ue8m0");
    storage.inputs = scale.is_null() ? input_codes::e4m3 : input_codes::e4m3_power_of_two;
    refuse_other_quantization(told, {"activation_scheme", "fmt", "scale_fmt", "weight_block_size"}, false);
  } else keys.refuse("quantization_config", "but read are mxfp4, and fp8 in blocks of 128 times 128");
  return stored;
}

inline std::vector<attention_config> read_attention(huggingface_keys const& keys, nlohmann::json const& family, int hidden, int layers) {
  attention_config a;
  if (flag_of(family, "attention_experts")) {              // of each that a token chooses as many heads as keys have
    auto& r = a.router;
    r.experts = keys.integer(family["experts"][0].get<std::string>());
    r.top_k = keys.integer("num_experts_per_tok");
    r.position = word_of<score_position>(family, "position", {{"after_top_k", score_position::after_top_k}});
    auto const heads = std::int64_t{keys.integer("num_key_value_heads")} * r.top_k;
    if (heads > huggingface_keys::largest || (keys.has("num_attention_heads") && keys.integer("num_attention_heads") != heads))
      keys.refuse("num_attention_heads", "but num_key_value_heads times num_experts_per_tok says otherwise");
    a.heads = static_cast<int>(heads);
    a.tiled_kv = true;
  } else {
    a.heads = keys.integer("num_attention_heads");
  }
  a.kv_heads = keys.has("num_key_value_heads") ? keys.integer("num_key_value_heads") : a.heads;
  int turning = 0;
  if (flag_of(family, "latent")) {
    auto& l = a.latent;
    l.kv_rank = keys.integer("kv_lora_rank");
    l.q_rank = keys.has("q_lora_rank") ? keys.integer("q_lora_rank") : 0;
    l.rope_dim = turning = keys.integer("qk_rope_head_dim");
    if (flag_of(family, "latent_scales")) {
      l.q_scale = l.q_rank != 0 ? std::sqrt(static_cast<double>(hidden) / l.q_rank) : 1.0;
      l.kv_scale = std::sqrt(static_cast<double>(hidden) / l.kv_rank);
    }
    a.head_dim = keys.integer("qk_nope_head_dim");
    a.value_dim = keys.integer("v_head_dim");
  } else {
    a.head_dim = turning = keys.has("head_dim") ? keys.integer("head_dim") : hidden / a.heads;
  }
  read_rope(keys, family, turning, a);
  a.layout = keys.trait(family, "interleaved") ? rope_layout::interleaved : rope_layout::half_split;
  a.qkv_bias = keys.trait(family, "qkv_bias");
  a.out_bias = keys.trait(family, "out_bias");
  a.sinks = keys.trait(family, "sinks");
  if (keys.has("clip_qkv")) {
    if (family.contains("qk_norm")) keys.refuse("clip_qkv", "but queries and keys are normalised here after they are clipped");
    a.qkv_clip = keys.number("clip_qkv");
  }
  if (keys.has("attention_multiplier")) a.scale = keys.number("attention_multiplier");
  if (keys.has("max_attn_value")) a.softcap = keys.number("max_attn_value");

  auto const norm = word_of<qk_norm>(
      family, "qk_norm", {{"per_head", qk_norm::per_head}, {"full_width", qk_norm::full_width}, {"weightless", qk_norm::weightless}});
  bool const normed = norm != qk_norm::none && (!keys.has("use_qk_norm") || keys.boolean("use_qk_norm"));
  auto const& tuning = keys["attn_temperature_tuning"];
  if (!tuning.is_null() && !tuning.is_boolean()) {
    auto const is_small = tuning.is_number_unsigned() && std::cmp_less_equal(tuning.get<std::uint64_t>(), huggingface_keys::largest);
    if (!is_small) keys.refuse("attn_temperature_tuning", "which should be true or false");
  }
  query_temperature longer;
  if (!tuning.is_null() && tuning != false && tuning != 0) longer = {keys.number("attn_scale"), keys.integer("floor_scale")};
  auto const spans = read_spans(keys, family, layers);
  auto const turns = rotary_layers(keys, layers);
  std::vector<attention_config> all(static_cast<std::size_t>(layers), a);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].window = spans[i].window, all[i].chunk = spans[i].chunk;
    if (normed && (turns[i] || norm != qk_norm::weightless))         // weightless: of those layers alone that turn
      all[i].qk_norm = norm, all[i].qk_norm_after_rope = flag_of(family, "qk_norm_after_rope");
    if (!turns[i]) all[i].rotary = false, all[i].rotary_dim = 0, all[i].scaling = {}, all[i].temperature = longer;
  }
  return all;
}

inline router_config read_router(huggingface_keys const& keys, nlohmann::json const& family, int experts, int copies) {
  router_config r;
  r.experts = experts + copies;
  r.top_k = keys.integer("num_experts_per_tok");
  r.score = word_of<score>(family, "score", {{"sigmoid", score::sigmoid}});
  r.position = word_of<score_position>(family, "position", {{"after_top_k", score_position::after_top_k}});
  r.renormalize = keys.trait(family, "renormalize");
  r.bias = keys.trait(family, "router_bias");
  r.score_bias = keys.trait(family, "score_bias");
  r.weights = word_of<combine_weight>(family, "weights", {{"on_input", combine_weight::on_input}});
  if (family.value("names", nlohmann::json::object()).contains("weight_norm")) {
    if (keys.has("weight_norm") && keys["weight_norm"] != 1)
      keys.refuse("weight_norm", "but weights are divided by their sum, or not at all");
    r.renormalize = keys.has("weight_norm");
  }
  if (keys.has("routed_scaling_factor")) r.routed_scale = keys.number("routed_scaling_factor");
  if (keys.has("moe_norm_min")) r.sum_floor = keys.number("moe_norm_min");
  r.sum_epsilon = family.value("sum_epsilon", r.sum_epsilon);
  bool const limited = !family["keys"].contains("topk_method") ||
                       keys.word<bool>("topk_method", {{"greedy", false}, {"group_limited_greedy", true}});
  if (limited && keys.has("n_group") && keys.integer("n_group") > 1) {
    r.groups = keys.integer("n_group");
    r.top_groups = keys.integer("topk_group");
    r.group_worth = said_of(family, "group_worth") == "max" ? group_worth::max : group_worth::top2_sum;
  }
  return r;
}

}  // namespace detail

inline decoder_description describe_huggingface(nlohmann::json const& given) {
  auto const [family, config, keys] = detail::known_keys(given);
  constexpr int most_layers = 1000;
  int const layers = keys.integer("num_hidden_layers");
  if (layers > most_layers) keys.refuse("num_hidden_layers", "more than the " + std::to_string(most_layers) + " that are read");

  block_config dense;
  dense.hidden = keys.integer("hidden_size");
  auto const attention = detail::read_attention(keys, family, dense.hidden, layers);
  dense.norm.kind = detail::said_of(family, "norm") == "layer" ? norm_kind::layer : norm_kind::rms;
  dense.norm.epsilon = keys.number("rms_norm_eps");
  dense.norm.bias = keys.trait(family, "norm_bias");
  dense.norm.cast = detail::said_of(family, "cast") == "after_weight" ? norm_cast::after_weight : norm_cast::before_weight;
  auto const embedding = detail::read_storage(keys, dense.storage);
  auto const number = [&, &read = keys](const char* key, double otherwise) { return read.has(key) ? read.number(key) : otherwise; };
  int const width = keys.integer("intermediate_size");
  dense.expert.activation = keys.word<activation>("hidden_act", {{"silu", activation::swiglu},
                                                                 {"swish", activation::swiglu},
                                                                 {"gelu", activation::geglu_erf},
                                                                 {"gelu_new", activation::geglu_tanh},
                                                                 {"gelu_pytorch_tanh", activation::geglu_tanh}});
  dense.expert.limit = number("swiglu_limit", 0.0);
  dense.expert.alpha = number("swiglu_alpha", 1.0);
  dense.expert.up_offset = family.value("up_offset", 0.0);
  dense.expert.bias = keys.trait(family, "ffn_bias");
  auto const norm = dense.norm;
  dense.norm.epsilon = family.value("layer_epsilon", norm.epsilon);
  dense.norms = detail::said_of(family, "norms") == "sandwich" ? norm_placement::sandwich : norm_placement::pre;
  dense.residual_scale = number("residual_multiplier", 1.0);
  dense.expert.intermediate = keys.integer(detail::said_of(family, "dense_width", "intermediate_size"));

  auto made = decoder_description{};
  auto moe = dense;
  if (int const experts = detail::expert_count(keys, family, config); experts > 0) {
    moe.expert.copy = family.contains("copies") ? keys.integer(detail::said_of(family, "copies"), 0) : 0;
    moe.expert.mixture_bias = detail::flag_of(family, "mixture_bias");
    moe.router = detail::read_router(keys, family, experts, moe.expert.copy);
    moe.shared = detail::read_shared(keys, family);
    moe.expert.intermediate = keys.integer(detail::said_of(family, "expert_width", "intermediate_size"));
    if (family.contains("sparse_mixer")) made.mixer_epsilon = keys.number(detail::said_of(family, "sparse_mixer"));
  }
  bool const halves = detail::flag_of(family, "shortcut");   // two of our layers: the mixture joins the stream at the end of the second
  auto const is_dense = halves ? std::vector<bool>(attention.size()) : detail::dense_layers(keys, layers);
  for (std::size_t i = 0; i < attention.size(); ++i) {
    made.layers.push_back(is_dense[i] ? dense : moe);
    made.layers.back().attention = attention[i];
    if (!halves) continue;
    made.layers.back().shared = {width, false};
    made.layers.back().shortcut = shortcut::opens;
    made.layers.push_back(dense);
    made.layers.back().attention = attention[i];
    made.layers.back().shortcut = shortcut::closes;
  }
  made.decoder.vocabulary = keys.integer("vocab_size");
  made.decoder.norm = norm;
  made.decoder.tied_head = keys.boolean("tie_word_embeddings");
  made.decoder.head_bias = keys.trait(family, "head_bias");
  made.decoder.embedding_scale = number("embedding_multiplier", 1.0);
  made.decoder.logit_scale = keys.has("logits_scaling") ? 1.0 / keys.number("logits_scaling") : number("output_multiplier_scale", 1.0);
  made.decoder.embedding = embedding;
  return made;
}

inline tensor_names tensor_names_of(std::string_view model_type) {
  tensor_names n;
  auto const is = [&](std::string_view name) { return model_type == name; };
  if (is("dbrx")) {
    n.layer = {{"transformer.blocks.{}."}}, n.embedding = {{"transformer.wte.weight"}}, n.final_norm = {{"transformer.norm_f.weight"}};
    n.attention_norm = {{"norm_attn_norm.norm_1.weight"}}, n.ffn_norm = {{"norm_attn_norm.norm_2.weight"}};
    n.qkv = {{"norm_attn_norm.attn.Wqkv"}}, n.out = {{"norm_attn_norm.attn.out_proj"}};
    n.router = {{"ffn.router.layer.weight"}};
    n.stacked_gate_up = {}, n.stacked_gate = {{"ffn.experts.mlp.w1"}}, n.stacked_up = {{"ffn.experts.mlp.v1"}};
    n.stacked_down = {{"ffn.experts.mlp.w2"}};
    n.stacked = {.down_transposed = true, .flat = true};
  } else if (is("ernie4_5_moe")) {
    n.score_bias = {{"mlp.moe_statics.e_score_correction_bias", "mlp.gate.moe_statics.e_score_correction_bias"}};
  } else if (is("gpt_oss")) {
    n.router = {{"mlp.router.weight"}}, n.router_bias = {{"mlp.router.bias"}};
    n.stacked = {.interleaved = true, .transposed = true, .down_transposed = true};
  } else if (is("granitemoe")) {
    n.router = {{"block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"}};
    n.stacked_gate_up = {{"block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"}};
    n.stacked_down = {{"block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj"}};
  } else if (is("grok-1")) {
    n.final_norm = {{"model.norm.scale", "norm.weight"}}, n.embedding = {{"model.embed_tokens.weight", "embed.weight"}};
    n.attention_norm = {{"pre_attn_norm.scale", "attn_norm.weight"}};
    n.attention_post_norm = {{"post_attn_norm.scale", "attn_post_norm.weight"}};
    n.ffn_norm = {{"pre_moe_norm.scale", "ffn_norm.weight"}}, n.ffn_post_norm = {{"post_moe_norm.scale", "ffn_post_norm.weight"}};
    n.q = {{"attn.q_proj", "attn.query"}}, n.k = {{"attn.k_proj", "attn.key"}}, n.v = {{"attn.v_proj", "attn.value"}};
    n.out = {{"attn.o_proj", "attn.linear"}};
    n.router = {{"moe_block.gate.weight", "moe.router.weight"}};
    n.expert_gate = {{"moe_block.experts.{}.linear"}}, n.expert_up = {{"moe_block.experts.{}.linear_v"}};
    n.expert_down = {{"moe_block.experts.{}.linear_1"}};
    n.stacked_gate = {{"moe.linear.weight"}}, n.stacked_up = {{"moe.linear_v.weight"}}, n.stacked_down = {{"moe.linear_1.weight"}};
  } else if (is("hunyuan_v1_moe")) {
    n.q_norm = {{"self_attn.query_layernorm.weight"}}, n.k_norm = {{"self_attn.key_layernorm.weight"}};
    n.router = {{"mlp.gate.wg.weight"}};
    n.shared_gate_proj = {{"mlp.shared_mlp.gate_proj"}}, n.shared_up_proj = {{"mlp.shared_mlp.up_proj"}};
    n.shared_down_proj = {{"mlp.shared_mlp.down_proj"}};
  } else if (is("jetmoe")) {
    n.router = {{"mlp.router.layer.weight"}};
    n.stacked_gate_up = {{"mlp.input_linear.weight"}}, n.stacked_down = {{"mlp.output_linear.weight"}};
  } else if (is("llama4_text") || is("llama4")) {
    n.gate = {{"feed_forward.gate_proj"}}, n.up = {{"feed_forward.up_proj"}}, n.down = {{"feed_forward.down_proj"}};
    n.router = {{"feed_forward.router.weight"}};
    n.stacked_gate_up = {{"feed_forward.experts.gate_up_proj"}}, n.stacked_down = {{"feed_forward.experts.down_proj"}};
    n.stacked = {.transposed = true, .down_transposed = true};
    n.shared_gate_proj = {{"feed_forward.shared_expert.gate_proj"}}, n.shared_up_proj = {{"feed_forward.shared_expert.up_proj"}};
    n.shared_down_proj = {{"feed_forward.shared_expert.down_proj"}};
    if (is("llama4")) {
      n.layer = {{"language_model.model.layers.{}."}}, n.embedding = {{"language_model.model.embed_tokens.weight"}};
      n.final_norm = {{"language_model.model.norm.weight"}}, n.head = {{"language_model.lm_head.weight"}};
    }
  } else if (is("longcat_flash")) {
    n.router = {{"mlp.router.classifier.weight"}}, n.router_bias = {{"mlp.router.classifier.bias"}};
    n.score_bias = {{"mlp.router.e_score_correction_bias"}};
    n.sublayers = 2;
    n.attention_norm = {{"input_layernorm.{sublayer}.weight"}}, n.ffn_norm = {{"post_attention_layernorm.{sublayer}.weight"}};
    n.q_down = {{"self_attn.{sublayer}.q_a_proj"}}, n.q_down_norm = {{"self_attn.{sublayer}.q_a_layernorm.weight"}};
    n.q_up = {{"self_attn.{sublayer}.q_b_proj"}}, n.kv_down = {{"self_attn.{sublayer}.kv_a_proj_with_mqa"}};
    n.kv_down_norm = {{"self_attn.{sublayer}.kv_a_layernorm.weight"}}, n.kv_up = {{"self_attn.{sublayer}.kv_b_proj"}};
    n.out = {{"self_attn.{sublayer}.o_proj"}};
    n.gate = n.shared_gate_proj = {{"mlps.{sublayer}.gate_proj"}}, n.up = n.shared_up_proj = {{"mlps.{sublayer}.up_proj"}};
    n.down = n.shared_down_proj = {{"mlps.{sublayer}.down_proj"}};
  } else if (is("minimax_m2")) {
    n.score_bias = {{"block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias"}};
  } else if (is("phimoe")) {
    n.router = {{"block_sparse_moe.gate.weight", "mlp.router.weight"}};
  }
  return n;
}

inline nlohmann::json read_huggingface_json(std::string const& path) {
  auto const file = mapped_file(path);
  auto const* const text = reinterpret_cast<const char*>(file.bytes().data);
  if (std::find(text, text + file.bytes().size, '\0') != text + file.bytes().size)
    throw error(path + ": expected JSON, found a zero byte, which the parser would take for its end");
  // Copying and printing a value recurse: no configuration is nested as deep as a file could be.
  constexpr int deepest = 32;
  auto const shallow = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > deepest) throw error(path + ": expected a configuration, found values nested " + std::to_string(deepest) + " deep");
    return true;
  };
  try {
    return nlohmann::json::parse(text, text + file.bytes().size, shallow);
  } catch (nlohmann::json::exception const& problem) {
    throw error(path + ": expected JSON, found an error: " + problem.what());
  }
}

namespace detail {

inline std::string text_of(int value) { return std::to_string(value); }
inline std::string text_of(bool value) { return value ? "true" : "false"; }
inline std::string text_of(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}
// 24, or of several widths: 4 of 24, 2 of 40.
inline std::string text_of(width_runs const& widths) {
  std::string text;
  for (auto const& run : widths) {
    if (widths.count > 1) text += (text.empty() ? "" : ", ") + std::to_string(run.experts) + " of ";
    text += std::to_string(run.intermediate);
  }
  return text;
}
template <class Enum>
  requires std::is_enum_v<Enum>
std::string text_of(Enum value) {
  return name(value);
}

using field_list = std::vector<std::pair<const char*, std::string>>;

/// What a configuration means, field by field.
inline field_list fields_of(block_config const& c) {
  auto const s = shapes(c);
  auto const& a = c.attention;
  auto const& r = c.router;
  auto const& scaling = a.scaling;
  auto const& e = c.expert;
  using enum rope_scaling_kind;
  bool const turns = a.rotary, scaled = turns && scaling.kind != none, bands = turns && scaling.kind == llama3;
  bool const ramp = turns && scaling.kind == yarn, latent = a.latent.kv_rank != 0, grouped = r.groups != 1;
  auto const only = [](bool when, auto value) { return when ? text_of(value) : std::string(); };
  // Twelve digits of what follows from logarithms and roots.
  auto const nearly = [](double value) {
    char digits[32];
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, value, std::chars_format::general, 12).ptr);
  };
  auto const list_of = [&](rope_factors const& factors) {
    std::string text;
    for (int i = 0; turns && i < std::min(factors.count, rope_factors::most); ++i) text += (i == 0 ? "" : ", ") + text_of(factors.value[i]);
    return text;
  };
  return {{"hidden", text_of(c.hidden)},
          {"attention.heads", text_of(s.heads)},
          {"attention.kv_heads", text_of(s.kv_heads)},
          {"attention.head_dim", text_of(s.head_dim)},
          {"attention.value_dim", text_of(s.value_dim)},
          {"attention.tiled_kv", text_of(a.tiled_kv)},
          {"attention.rotary", text_of(a.rotary)},
          {"attention.rotary_dim", text_of(s.rotary_dim)},
          {"attention.rope_theta", only(turns, a.rope_theta)},
          {"attention.layout", only(turns, a.layout)},
          {"attention.scaling.kind", only(turns, scaling.kind)},
          {"attention.scaling.factor", only(scaled, scaling.factor)},
          {"attention.scaling.low_freq_factor", only(bands, scaling.low_freq_factor)},
          {"attention.scaling.high_freq_factor", only(bands, scaling.high_freq_factor)},
          {"attention.scaling.original_positions", only(bands || ramp || (turns && scaling.kind == longrope), scaling.original_positions)},
          {"attention.scaling.beta_fast", only(ramp, scaling.beta_fast)},
          {"attention.scaling.beta_slow", only(ramp, scaling.beta_slow)},
          {"attention.scaling.rounded", only(ramp, scaling.rounded)},
          {"attention.scaling.magnitude", scaled ? nearly(scaling.magnitude) : ""},
          {"attention.scaling.factors", list_of(scaling.factors)},
          {"attention.scaling.long_factors", list_of(scaling.long_factors)},
          {"attention.scaling.long_magnitude", scaling.long_factors.empty() ? "" : nearly(scaling.long_magnitude)},
          {"attention.qk_norm", text_of(a.qk_norm)},
          {"attention.qk_norm_after_rope", only(a.qk_norm != qk_norm::none, a.qk_norm_after_rope)},
          {"attention.qkv_bias", text_of(a.qkv_bias)},
          {"attention.out_bias", text_of(a.out_bias)},
          {"attention.qkv_clip", text_of(a.qkv_clip)},
          {"attention.scale", nearly(a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(s.key_dim)))},
          {"attention.softcap", text_of(a.softcap)},
          {"attention.window", text_of(a.window)},
          {"attention.chunk", text_of(a.chunk)},
          {"attention.sinks", text_of(a.sinks)},
          {"attention.output_gate", text_of(a.output_gate)},
          {"attention.temperature.scale", text_of(a.temperature.scale)},
          {"attention.temperature.floor", only(a.temperature.scale != 0, a.temperature.floor)},
          {"attention.latent.kv_rank", text_of(a.latent.kv_rank)},
          {"attention.latent.q_rank", only(latent, a.latent.q_rank)},
          {"attention.latent.rope_dim", only(latent, a.latent.rope_dim)},
          {"attention.latent.epsilon", only(latent, a.latent.epsilon)},
          {"attention.latent.q_scale", latent ? nearly(a.latent.q_scale) : ""},
          {"attention.latent.kv_scale", latent ? nearly(a.latent.kv_scale) : ""},
          {"attention.router.experts", text_of(a.router.experts)},
          {"attention.router.top_k", text_of(a.router.top_k)},
          {"attention.router.score", text_of(a.router.score)},
          {"attention.router.position", text_of(a.router.position)},
          {"attention.router.renormalize", text_of(a.router.renormalize)},
          {"attention.router.bias", text_of(a.router.bias)},
          {"router.experts", text_of(r.experts)},
          {"router.top_k", text_of(r.top_k)},
          {"router.score", text_of(r.score)},
          {"router.position", text_of(r.position)},
          {"router.logit_softcap", text_of(r.logit_softcap)},
          {"router.groups", text_of(r.groups)},
          {"router.top_groups", only(grouped, r.top_groups)},
          {"router.group_worth", only(grouped, r.group_worth)},
          {"router.group_mask", only(grouped, r.group_mask)},
          {"router.renormalize", text_of(r.renormalize)},
          {"router.sum_epsilon", only(r.renormalize, r.sum_epsilon)},
          {"router.sum_floor", only(r.renormalize, r.sum_floor)},
          {"router.routed_scale", text_of(r.routed_scale)},
          {"router.bias", text_of(r.bias)},
          {"router.cosine", text_of(r.cosine)},
          {"router.group_gate", text_of(r.group_gate)},
          {"router.score_bias", text_of(r.score_bias)},
          {"router.weights", text_of(r.weights)},
          {"expert.intermediate", text_of(s.widths)},
          {"expert.activation", text_of(e.activation)},
          {"expert.limit", text_of(e.limit)},
          {"expert.alpha", text_of(e.alpha)},
          {"expert.up_offset", text_of(e.up_offset)},
          {"expert.bias", text_of(e.bias)},
          {"expert.mixture_bias", text_of(e.mixture_bias)},
          {"expert.latent", text_of(e.latent)},
          {"expert.zero", text_of(e.zero)},
          {"expert.copy", text_of(e.copy)},
          {"expert.constant", text_of(e.constant)},
          {"shared.intermediate", text_of(c.shared.intermediate)},
          {"shared.sigmoid_gate", text_of(c.shared.sigmoid_gate)},
          {"norm.kind", text_of(c.norm.kind)},
          {"norm.epsilon", text_of(c.norm.epsilon)},
          {"norm.bias", text_of(c.norm.bias)},
          {"norm.cast", text_of(c.norm.cast)},
          {"norm.weight_offset", text_of(c.norm.weight_offset)},
          {"norms", text_of(c.norms)},
          {"residual_scale", text_of(c.residual_scale)},
          {"shortcut", text_of(c.shortcut)}};
}

inline field_list fields_of(decoder_config const& c) {
  return {{"vocabulary", text_of(c.vocabulary)},
          {"norm.kind", text_of(c.norm.kind)},
          {"norm.epsilon", text_of(c.norm.epsilon)},
          {"norm.bias", text_of(c.norm.bias)},
          {"norm.cast", text_of(c.norm.cast)},
          {"norm.weight_offset", text_of(c.norm.weight_offset)},
          {"tied_head", text_of(c.tied_head)},
          {"head_bias", text_of(c.head_bias)},
          {"embedding_scale", text_of(c.embedding_scale)},
          {"logit_scale", text_of(c.logit_scale)},
          {"logit_softcap", text_of(c.logit_softcap)}};
}

inline void refuse_difference(field_list const& header, field_list const& folder, std::string const& where) {
  for (std::size_t i = 0; i < header.size(); ++i)
    if (header[i].second != folder[i].second)
      throw error(where + header[i].first + " is " + header[i].second + " in the header, but " + folder[i].second + " in the folder");
}

}  // namespace detail

inline void check_configuration(decoder_description const& header, decoder_description const& folder, std::string const& where) {
  auto const count = [](decoder_description const& d) {
    return detail::field_list{{"number of layers", std::to_string(d.layers.size())},
                              {"routing policy", d.mixer_epsilon != 0 ? "sparse_mixer" : "top-k"},
                              {"epsilon of a new routing state", std::to_string(static_cast<float>(d.mixer_epsilon))}};
  };
  detail::refuse_difference(count(header), count(folder), where + ": ");
  for (std::size_t i = 0; i < header.layers.size(); ++i)
    if (header.layers[i] != folder.layers[i]) {
      auto const of_layer = where + ": layer " + std::to_string(i) + ": ";
      detail::refuse_difference(detail::fields_of(header.layers[i]), detail::fields_of(folder.layers[i]), of_layer);
      auto const ours = header.layers[i].storage.inputs, theirs = folder.layers[i].storage.inputs;
      if (ours != input_codes::none && theirs != input_codes::none)
        detail::refuse_difference({{"storage.inputs", name(ours)}}, {{"storage.inputs", name(theirs)}}, of_layer);
    }
  detail::refuse_difference(detail::fields_of(header.decoder), detail::fields_of(folder.decoder), where + ": decoder: ");
}

namespace detail {

/// Ids out of config.json, or out of generation_config.json where there is one and it names them.
inline void read_generation(nlohmann::json const& config, std::string const& path, checkpoint::generation_ids& ids) {
  auto const id = [&](const char* key, nlohmann::json const& value) {
    if (!value.is_number_unsigned())
      throw error(path + ": expected a token id as \"" + key + "\", found " + std::string(value.type_name()));
    return value.get<std::int64_t>();
  };
  auto const given = [&](const char* key) { return config.is_object() && config.contains(key) && !config[key].is_null(); };
  if (given("bos_token_id")) ids.bos = id("bos_token_id", config["bos_token_id"]);
  if (!given("eos_token_id")) return;
  auto const& eos = config["eos_token_id"];
  ids.eos.clear();
  for (auto const& one : eos.is_array() ? eos : nlohmann::json::array({eos})) ids.eos.push_back(id("eos_token_id", one));
}

}  // namespace detail

namespace detail {

/// How names begin of tensors that predict further tokens: layers after the `layers` numbered ones, or what the family calls them.
inline std::vector<std::string> predicting(nlohmann::json const& config, int layers, tensor_names const& n) {
  auto const& families = huggingface_families();
  auto const type = config["model_type"].get<std::string>();
  auto const family = families.find(type);
  auto prefixes = family != families.end() ? family->value("predicts", std::vector<std::string>()) : std::vector<std::string>();
  constexpr int most = 64;
  int const further = config.contains("num_nextn_predict_layers") && config["num_nextn_predict_layers"].is_number_unsigned()
                          ? static_cast<int>(std::min<std::uint64_t>(most, config["num_nextn_predict_layers"].get<std::uint64_t>())) : 0;
  for (int i = 0; i < further; ++i) {
    std::string prefix = n.layer.options[0];
    prefixes.push_back(prefix.replace(prefix.find("{}"), 2, std::to_string(layers + i)));
  }
  return prefixes;
}

}  // namespace detail

inline checkpoint::checkpoint(std::string const& folder, std::string const& config_file)
    : path_(folder), config_path_((std::filesystem::path(folder) / config_file).string()), tensors_(folder) {
  auto const config = read_huggingface_json(config_path_);
  try {
    description_ = describe_huggingface(config);
    names_ = tensor_names_of(config["model_type"].get<std::string>());
    predicting_ = detail::predicting(config, static_cast<int>(description_.layers.size()) / names_.sublayers, names_);
  } catch (error const& sentence) {
    throw error(config_path_ + ": " + sentence.what());
  }
  refuse_unknown_tensors();
  detail::read_generation(config, config_path_, generation_);
  auto const more = (std::filesystem::path(folder) / "generation_config.json").string();
  if (std::error_code ignored; std::filesystem::exists(more, ignored))
    detail::read_generation(read_huggingface_json(more), more, generation_);
}

namespace detail {

/// The tensors of a source that loading such a model reads, sorted. Of several spellings of a name the first there is, as for the loader.
inline std::vector<tensor const*> tensors_read(decoder_description const& model, tensor_names const& n, safetensors const& from) {
  std::vector<tensor const*> read;
  std::string prefix, sublayer;
  auto const take = [&](spellings const& name, const char* suffix = "", int number = 0) {
    for (auto const* option : name.options) {
      if (option == nullptr) return false;
      auto const whole = prefix + option;
      bool found = false;
      // A quantised matrix is two tensors: its codes, and a scale for each of their blocks.
      for (auto const* form : {"", "_scale_inv", "_blocks", "_scales"}) {
        auto full = whole + suffix + form;
        if (auto const hole = full.find("{}"); hole != std::string::npos) full.replace(hole, 2, std::to_string(number));
        constexpr std::string_view part = "{sublayer}";
        if (auto const hole = full.find(part); hole != std::string::npos) full.replace(hole, part.size(), sublayer);
        if (auto const* one = from.find(full)) read.push_back(one), found = true;
      }
      if (found) return true;
    }
    return false;
  };
  auto const matrix = [&](spellings const& name, bool bias, int number = 0) {
    bool const found = take(name, ".weight", number);
    if (bias) take(name, ".bias", number);
    return found;
  };
  auto const feed_forward = [&](expert_config const& c, spellings const& gate, spellings const& up, spellings const& down, int number = 0) {
    if (gated(c.activation)) matrix(gate, c.bias, number);
    matrix(up, c.bias, number), matrix(down, c.bias, number);
  };
  auto const norm_of = [&](norm_config const& c, spellings const& weight, spellings const& bias) {
    take(weight);
    if (c.bias) take(bias);
  };
  auto const attention = [&](attention_config const& a) {
    if (a.sinks) take(n.sinks);
    if (a.qk_norm != qk_norm::none && a.qk_norm != qk_norm::weightless) take(n.q_norm), take(n.k_norm);
    if (a.router.experts != 0) {
      take(n.attention_router), take(n.stacked_q), take(n.stacked_out);
      if (a.router.bias) take(n.attention_router_bias);
      if (a.out_bias) take(n.stacked_out_bias);
      if (!matrix(n.kv, false)) matrix(n.k, false), matrix(n.v, false);
      return;
    }
    matrix(n.out, a.out_bias);
    if (a.latent.kv_rank != 0) {
      matrix(n.kv_down, false), take(n.kv_down_norm), matrix(n.kv_up, false);
      if (a.latent.q_rank == 0) matrix(n.q, false);
      else matrix(n.q_down, false), take(n.q_down_norm), matrix(n.q_up, false);
      return;
    }
    if (a.output_gate || !matrix(n.qkv, a.qkv_bias))
      for (auto const* projection : {&n.q, &n.k, &n.v}) matrix(*projection, a.qkv_bias);
  };
  auto const stacked = [&](expert_config const& c) {
    bool const together = take(n.stacked_gate_up);
    if (!together && !take(n.stacked_up)) return false;
    if (!together && gated(c.activation)) take(n.stacked_gate);
    take(n.stacked_down);
    if (c.bias) take(n.stacked_gate_up_bias), take(n.stacked_down_bias);
    return true;
  };

  take(n.embedding);
  norm_of(model.decoder.norm, n.final_norm, n.final_norm_bias);
  if (!model.decoder.tied_head) take(n.head);
  if (model.decoder.head_bias) take(n.head_bias);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    auto const& c = model.layers[i];
    prefix = n.layer.options[0];
    auto const shared = static_cast<std::size_t>(n.sublayers);
    prefix.replace(prefix.find("{}"), 2, std::to_string(i / shared)), sublayer = std::to_string(i % shared);
    bool const before = c.norms != norm_placement::post, after = c.norms != norm_placement::pre;
    if (before) {
      norm_of(c.norm, n.attention_norm, n.attention_norm_bias);
      if (!after || !take(n.ffn_pre_norm)) norm_of(c.norm, n.ffn_norm, n.ffn_norm_bias);
    }
    if (after) norm_of(c.norm, n.attention_post_norm, n.attention_post_norm_bias), norm_of(c.norm, n.ffn_post_norm, n.ffn_post_norm_bias);
    attention(c.attention);
    if (c.router.experts == 0) {
      feed_forward(c.expert, n.gate, n.up, n.down);
      continue;
    }
    take(n.router);
    if (c.router.bias) take(n.router_bias);
    if (c.router.score_bias) take(n.score_bias);
    if (!stacked(c.expert))
      for (int e = 0; e < shapes(c).feed_forwards; ++e) feed_forward(c.expert, n.expert_gate, n.expert_up, n.expert_down, e);
    if (c.expert.mixture_bias) take(n.mixture_bias);
    if (c.expert.latent != 0) take(n.latent_down), take(n.latent_up);
    if (c.shared.intermediate != 0) feed_forward(c.expert, n.shared_gate_proj, n.shared_up_proj, n.shared_down_proj);
    if (c.shared.sigmoid_gate) take(n.shared_gate);
  }
  std::sort(read.begin(), read.end());
  return read;
}

/// Tensors that files carry and nobody needs: rotary frequencies, which the configuration gives, a tied head, which is the embedding,
/// layers that predict further tokens, and what is not of the language model.
inline bool needless(std::string_view name, decoder_description const& model, tensor_names const& n, std::vector<std::string> const& predicting) {
  for (auto const& prefix : predicting)
    if (name.starts_with(prefix)) return true;
  constexpr std::string_view part = "language_model.";
  if (std::string_view(n.layer.options[0]).starts_with(part) && !name.starts_with(part)) return true;
  return name.ends_with(".rotary_emb.inv_freq") || (model.decoder.tied_head && name == n.head.options[0]);
}

}  // namespace detail

// A tensor that nobody reads would be left out of the sum. (Loading finds what is missing.)
inline void checkpoint::refuse_unknown_tensors() const {
  auto const read = detail::tensors_read(description_, names_, tensors_);
  for (auto const& entry : tensors_)
    if (!std::binary_search(read.begin(), read.end(), &entry.value) &&
        !detail::needless(entry.name, description_, names_, predicting_))
      throw error(where(entry.name) + ": tensor " + detail::in_quotes(entry.name) + ": " + config_path_ + " knows nothing of it");
}

}  // namespace moesaic
