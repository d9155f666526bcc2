"""Turns a HuggingFace config.json into a moesaic configuration: a C++ header, or one sentence about the first field it cannot express.

    python3 cmake/config_from_hf.py FOLDER_or_config.json [--name NAME] [--namespace NS]
                                    [--activations TYPE] [--weights FORMAT] [--ffn FORMAT] [--embedding FORMAT]

FORMAT is a number format, with its group where it has one: bf16, int4:32, int4:32:zero, int8:128, e4m3, mxfp4.
As a module: describe(config) gives a neutral structure with the field names of config/block_config.hpp, emit(description) the header.
include/moesaic/io/huggingface.hpp does the same at run time; both hold the same table, and a test compares them.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import functools
import json
import math
import pathlib
import re
import struct
import sys
import textwrap


class Inexpressible(ValueError):
    """The configuration says something that block_config cannot; the text is one sentence."""


# --- what the classes of each model_type mean by the keys they have, and by those that a file leaves out ------------------------------

# "as": as that model_type. "keys": the class's defaults; a key that is neither here nor harmless nor neutral is not known.
# "names": what this family calls the keys that describe() reads. "nested": objects whose keys are read as object.key; "lists": numbers that
# may be given as a list of equal ones. "neutral", "harmless": as in COMMON. "agree": keys that must equal another, where they are given.
# "qkv_bias", "out_bias", "ffn_bias", "router_bias", "score_bias", "norm_bias", "head_bias", "sinks", "renormalize", "interleaved": true, or
# the key that says so. "experts": the keys that give their number, "copies": how many more only copy. "expert_width", "dense_width",
# "shared_width": keys of widths that are not intermediate_size. "window": which layers have one. "partial": part of a head may turn;
# "alpha": rotary frequencies of type dynamic by alpha. "attention_experts": attention chooses among as many as the feed-forward, by a router
# of its own. "mixture_bias": true. "layer_epsilon": of the layers' norms, whatever rms_norm_eps says. "sum_epsilon": where it is not that of
# block_config. "predicts": how names of tensors begin that predict further tokens, where they are not layers after the model's own. "latent",
# "latent_scales", "shortcut", "sparse_mixer": as their names say.
FAMILIES = json.loads(r"""
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
""")

# "keys": what every family reads. "neutral": legal as long as they have this value. "harmless": they change no result of a forward pass.
# "wrapped": model_types that say in which of their objects the language model is.
COMMON = json.loads(r"""
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
""")

ACTIVATIONS = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu_erf", "gelu_new": "geglu_tanh", "gelu_pytorch_tanh": "geglu_tanh"}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
ROPE_KEYS = {"default": (),
             "dynamic": ("alpha", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim"),
             "linear": ("factor",),
             "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
             "longrope": ("attention_factor", "factor", "long_factor", "long_mscale", "original_max_position_embeddings", "short_factor",
                          "short_mscale"),
             "yarn": ("attention_factor", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim", "original_max_position_embeddings",
                      "truncate")}
LARGEST = 2**31 - 1
MOST_LAYERS = 1000
MOST_PAIRS = 128


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def equal(a, b):
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def fail(key, value, why):
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))
    raise Inexpressible(f'"{key}" is {shown if len(shown) <= 60 else shown[:60] + "..."}, {why}.')


class Keys:
    """Typed reading of the configuration's keys, each with the class's default."""

    def __init__(self, values, names=None):
        self.values, self.names = values, names or {}

    def __contains__(self, key):
        return self[key] is not None

    def __getitem__(self, key):
        return self.values.get(self.own(key))

    def own(self, key):
        """What the family calls a key."""
        return self.names.get(key, key)

    def fail(self, key, why):
        fail(self.own(key), self[key], why)

    def integer(self, key, least=1):
        value = self[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
            self.fail(key, f"which should be an integer from {least} to {LARGEST}")
        return value

    def number(self, key):
        value = self[key]
        if not is_number(value) or not 0 < value < 1e300:
            self.fail(key, "which should be a number above 0")
        return float(value)

    def boolean(self, key):
        if not isinstance(self[key], bool):
            self.fail(key, "which should be true or false")
        return self[key]

    def word(self, key, words):
        if not isinstance(self[key], str) or self[key] not in words:
            self.fail(key, "which is not one of " + ", ".join(words))
        return words[self[key]]

    def integers(self, key, count=None):
        """A list of integers; None where there is none."""
        value = self[key]
        whole = isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
        if value is not None and not (whole and count in (None, len(value))):
            self.fail(key, "which should be a list of " + (f"{count} " if count is not None else "") + "integers")
        return value

    def trait(self, family, name):
        said = family.get(name, False)
        return self.boolean(said) if isinstance(said, str) else said


def flat(config, family):
    """The configuration with its nested objects' keys as object.key, and lists of equal numbers as that number."""
    config = dict(config)
    for key in family.get("nested", []):
        inner = config.pop(key, None)
        if inner is not None and not isinstance(inner, dict):
            fail(key, inner, "which should be an object")
        config |= {f"{key}.{name}": value for name, value in (inner or {}).items()}
    for key in family.get("lists", []):
        value = config.get(key)
        if isinstance(value, list) and value and all(equal(other, value[0]) for other in value):
            config[key] = value[0]
    return config


def known_keys(config):
    """The family of the configuration, its keys over the class's defaults, and those that it says itself."""
    if not isinstance(config, dict):
        raise Inexpressible("The configuration is not a JSON object.")
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in COMMON["wrapped"]:
        name = COMMON["wrapped"][model_type]
        if not isinstance(config.get(name), dict):
            fail(name, config.get(name), "which should be an object")
        config = {key: config[key] for key in ("dtype", "quantization_config", "torch_dtype") if key in config} | config[name]
        model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        fail("model_type", model_type, "which is not one of " + ", ".join(sorted({*FAMILIES, *COMMON["wrapped"]})))
    family = FAMILIES[model_type]
    family = FAMILIES[family["as"]] if "as" in family else family
    config = flat(config, family)
    defaults = {**COMMON["keys"], **family["keys"]}
    neutral = {**COMMON["neutral"], **family.get("neutral", {})}
    harmless = {*COMMON["harmless"], *family.get("harmless", [])}
    for key in sorted(config):
        if key in defaults or config[key] is None or key in harmless or key.rpartition(".")[2] in harmless:
            continue
        same = neutral.get(key, neutral.get(key.rpartition(".")[2]))
        if same is None:
            fail(key, config[key], f"and what it means for a {model_type} model is not known")
        if not equal(config[key], same):
            fail(key, config[key], "which changes the result, and block_config has no field for it")
    values = {**defaults, **config}
    if values["rope_parameters"] is not None:
        values["rope_scaling"] = config.get("rope_scaling")
    for key, other in sorted(family.get("agree", {}).items()):
        if config.get(key) is not None and not equal(config[key], values[other]):
            fail(key, config[key], f"but {other} says otherwise")
    return family, Keys(values, family.get("names")), config


def rope(keys, head_dim, family):
    """How the elements of a head, or of it those that may, turn: from rope_scaling + rope_theta, or from rope_parameters."""
    old, new = keys["rope_scaling"], keys["rope_parameters"]
    name = "rope_parameters" if new is not None else "rope_scaling"
    values = new if new is not None else old if old is not None else {}
    if not isinstance(values, dict):
        fail(name, values, "which should be an object")
    if old is not None and new is not None and not equal(old, new):
        fail("rope_scaling", old, "but rope_parameters says otherwise")
    inside = Keys({f"{name}.{key}": value for key, value in values.items()})
    kind = values.get("rope_type", values.get("type", "default"))
    kinds = [kind for kind in ROPE_KEYS if kind != "dynamic" or family.get("alpha")]
    if not isinstance(kind, str) or kind not in kinds:
        fail(f"{name}.rope_type", kind, "which is not one of " + ", ".join(kinds))
    for key in sorted(values):
        if key == "partial_rotary_factor" and (family.get("partial") or equal(values[key], 1.0)):
            continue
        if key not in ("rope_type", "type", "rope_theta", *ROPE_KEYS[kind]) and values[key] is not None:
            fail(f"{name}.{key}", values[key], f"and what it means for {kind} rotary frequencies is not known")
    said = {"rope_theta": inside.number(f"{name}.rope_theta") if f"{name}.rope_theta" in inside else keys.number("rope_theta")}
    turning = head_dim
    part = f"{name}.partial_rotary_factor"
    if family.get("partial"):
        if part in inside or "partial_rotary_factor" in keys:
            turning = int(head_dim * (inside.number(part) if part in inside else keys.number("partial_rotary_factor")))
        if "rotary_dim" in keys:
            if part in inside and keys.integer("rotary_dim") != turning:
                keys.fail("rotary_dim", f"but {part} says otherwise")
            turning = keys.integer("rotary_dim")
        if turning > head_dim or turning < 2:
            raise Inexpressible(f"Fewer than two elements of a head should turn, or more than the {head_dim} that it has.")
        if turning != head_dim:
            said["rotary_dim"] = turning

    def either(key, other):
        return inside.number(f"{name}.{key}") if f"{name}.{key}" in inside else other

    def original():
        key = f"{name}.original_max_position_embeddings"
        own = "original_max_position_embeddings"
        return inside.integer(key) if key in inside else keys.integer(own if own in keys else "max_position_embeddings")

    if kind == "default":
        return said
    scaling = {"kind": f"rope_scaling_kind::{'ntk' if kind == 'dynamic' else kind}"}
    if kind == "dynamic":
        scaling["factor"] = inside.number(f"{name}.alpha")
    elif kind != "longrope":
        scaling["factor"] = inside.number(f"{name}.factor")
    if kind == "llama3":
        scaling |= {"low_freq_factor": inside.number(f"{name}.low_freq_factor"),
                    "high_freq_factor": inside.number(f"{name}.high_freq_factor"),
                    "original_positions": original()}
    if kind == "yarn":
        factor, all_dim = scaling["factor"], f"{name}.mscale_all_dim"
        magnitude = 0.0 if factor > 1 else 1.0
        if f"{name}.attention_factor" in inside:
            magnitude = inside.number(f"{name}.attention_factor")
        elif f"{name}.mscale" in inside and all_dim in inside:
            magnitude = yarn_magnitude(factor, inside.number(f"{name}.mscale")) / yarn_magnitude(factor, inside.number(all_dim))
        scaling |= {"original_positions": original(), "beta_fast": either("beta_fast", 32.0), "beta_slow": either("beta_slow", 1.0),
                    "rounded": inside.boolean(f"{name}.truncate") if f"{name}.truncate" in inside else True, "magnitude": magnitude}
        if family.get("latent") and all_dim in inside:
            squared = yarn_magnitude(factor, inside.number(all_dim)) ** 2
            said["scale"] = squared / math.sqrt(float(keys.integer("qk_nope_head_dim") + head_dim))
    if kind == "longrope":
        positions, pairs = original(), turning // 2
        longer = keys.integer("max_position_embeddings") > positions
        factor = either("factor", keys.integer("max_position_embeddings") / positions)
        scaling |= {"factor": factor, "original_positions": positions}
        for which, prefix in (("short", ""), ("long", "long_"))[:2 if longer else 1]:
            factors = values.get(f"{which}_factor")
            if (not isinstance(factors, list) or len(factors) != pairs or pairs > MOST_PAIRS or
                    not all(is_number(f) and 0 < f < 1e300 for f in factors)):
                fail(f"{name}.{which}_factor", factors, f"which should be a list of {pairs} numbers above 0, and at most {MOST_PAIRS}")
            scaling |= {f"{prefix}factors": [float(f) for f in factors],
                        f"{prefix}magnitude": either(f"{which}_mscale", either("attention_factor", 0.0 if factor > 1 else 1.0))}
    return said | {"scaling": DEFAULTS["attention"]["scaling"] | scaling}


def yarn_magnitude(factor, scale):
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def spans(keys, family, layers):
    """For each layer the window or the chunk in which it attends, as fields of attention."""
    types, window = keys["layer_types"], 0
    if "sliding_window" in keys and ("use_sliding_window" not in keys or keys.boolean("use_sliding_window")):
        window = keys.integer("sliding_window")
        if "max_position_embeddings" in keys and window >= keys.integer("max_position_embeddings"):
            window = 0
    if types is None:
        if "attention_chunk_size" in keys:
            types = ["chunked_attention" if turns else "full_attention" for turns in rotary_layers(keys, layers)]
        elif window == 0:
            types = ["full_attention"] * layers
        elif family.get("window") == "all":
            types = ["sliding_attention"] * layers
        elif family.get("window") == "alternate":
            types = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
        elif family.get("window") == "later":
            first = keys.integer("max_window_layers", 0)
            types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
        else:
            keys.fail("sliding_window", "but which layers have it is not known")
    if not isinstance(types, list) or len(types) != layers:
        fail("layer_types", types, f"which should be a list of {layers} names")
    known = {"full_attention": {}}
    if "sliding_window" in keys:
        known["sliding_attention"] = {"window": window}
    if "attention_chunk_size" in keys:
        known["chunked_attention"] = {"chunk": keys.integer("attention_chunk_size")}
    for kind in types:
        if not isinstance(kind, str) or kind not in known:
            fail("layer_types", kind, "which is not one of " + ", ".join(sorted(known)))
    return [known[kind] for kind in types]


def rotary_layers(keys, layers):
    """For each layer, whether queries and keys turn."""
    given = keys.integers("no_rope_layers")
    if given:
        given = keys.integers("no_rope_layers", layers)
        return [turns != 0 for turns in given]
    interval = keys.integer("no_rope_layer_interval") if "no_rope_layer_interval" in keys else 0
    return [interval == 0 or (i + 1) % interval != 0 for i in range(layers)]


def expert_count(keys, family, config):
    """Number of routed experts: 0 where there are none."""
    given = [key for key in family.get("experts", []) if config.get(key) is not None]
    if len(given) > 1 and not equal(config[given[0]], config[given[1]]):
        fail(given[1], config[given[1]], f"but {given[0]} says otherwise")
    key = given[0] if given else next((key for key in family.get("experts", []) if key in keys), None)
    return keys.integer(key, 0) if key else 0


def dense_layers(keys, layers):
    """For each layer, whether it is dense though the model has experts."""
    first = keys.integer("first_k_dense_replace", 0) if "first_k_dense_replace" in keys else 0
    last = keys.integer("moe_layer_end_index", -1) if "moe_layer_end_index" in keys else -1
    every = keys.integer("moe_layer_freq") if "moe_layer_freq" in keys else 1
    step = keys.integer("decoder_sparse_step") if "decoder_sparse_step" in keys else 1
    only = keys.integers("mlp_only_layers") or []
    sparse = keys.integers("moe_layers")
    if sparse is not None:
        return [i not in sparse for i in range(layers)]
    return [i < first or 0 <= last < i or i % every != 0 or (i + 1) % step != 0 or i in only for i in range(layers)]


def shared_expert(keys, family):
    if "shared_expert_intermediate_size" in keys and keys.integer("shared_expert_intermediate_size", 0) > 0:
        return {"intermediate": keys["shared_expert_intermediate_size"], "sigmoid_gate": True}
    if "n_shared_experts" in keys and keys.integer("n_shared_experts", 0) > 0:
        width = keys.integer("n_shared_experts") * keys.integer("moe_intermediate_size")
        if width > LARGEST:
            keys.fail("n_shared_experts", "and their summed width is beyond every limit")
        return {"intermediate": width, "sigmoid_gate": False}
    if "shared_width" in family:
        return {"intermediate": keys.integer(family["shared_width"]), "sigmoid_gate": False}
    return DEFAULTS["shared"]


def refuse_other_quantization(told, known, attention_stays):
    """Refuses what `quantization_config` says beside `known` keys and modules that it leaves as they are: but for those that are never coded here."""
    stays = ["e_score_correction_bias", "embed_tokens", "gate", "input_layernorm", "k_norm", "lm_head", "norm", "post_attention_layernorm",
             "q_norm", "router", "shared_expert_gate"] + ["self_attn"] * attention_stays
    for key, value in sorted(told.items()):
        if value is None or key == "quant_method" or key in known:
            continue
        within = f"quantization_config.{key}"
        if key != "modules_to_not_convert":
            fail(within, value, "and what it means is not known")
        if not isinstance(value, list):
            fail(within, value, "which should be a list of names")
        for module in value:
            if not isinstance(module, str) or module.split(".")[-1] not in stays:
                fail(within, module, f"and its last word is not one of {', '.join(stays)}")


def storage(keys):
    """In which formats the files have the weights."""
    stored = weight_format("fp32")     # as the classes load a file that names no type
    for key in ("torch_dtype", "dtype"):
        if key in keys:
            stored = weight_format(keys.word(key, DTYPES))
    if "torch_dtype" in keys and "dtype" in keys and keys["torch_dtype"] != keys["dtype"]:
        fail("torch_dtype", keys["torch_dtype"], "but dtype says otherwise")
    said = {"weights": stored}
    if "quantization_config" in keys:
        told = keys["quantization_config"]
        method = told.get("quant_method") if isinstance(told, dict) else None
        if method == "mxfp4":
            said["ffn"] = weight_format("mxfp4")
            refuse_other_quantization(told, (), True)
        elif method == "fp8" and told.get("fmt", "e4m3") in ("e4m3", "float8_e4m3fn") and equal(told.get("weight_block_size"), [128, 128]):
            said["weights"] = weight_format("e4m3")
            if told.get("activation_scheme", "dynamic") != "dynamic" or told.get("scale_fmt") not in (None, "ue8m0"):
                keys.fail("quantization_config", "but read are inputs whose scales are found as they come, as floats or ue8m0")
            said["inputs"] = "input_codes::e4m3_power_of_two" if told.get("scale_fmt") else "input_codes::e4m3"
            refuse_other_quantization(told, ("activation_scheme", "fmt", "scale_fmt", "weight_block_size"), False)
        else:
            keys.fail("quantization_config", "but read are mxfp4, and fp8 in blocks of 128 times 128")
    return stored, said


def latent_attention(keys, family, hidden):
    """Fields of attention, and how many elements of a head turn."""
    latent = {"kv_rank": keys.integer("kv_lora_rank"), "q_rank": keys.integer("q_lora_rank") if "q_lora_rank" in keys else 0,
              "rope_dim": keys.integer("qk_rope_head_dim")}
    if family.get("latent_scales"):
        latent["q_scale"] = math.sqrt(hidden / latent["q_rank"]) if latent["q_rank"] else 1.0
        latent["kv_scale"] = math.sqrt(hidden / latent["kv_rank"])
    return {"head_dim": keys.integer("qk_nope_head_dim"), "value_dim": keys.integer("v_head_dim"),
            "latent": DEFAULTS["attention"]["latent"] | latent}, latent["rope_dim"]


def attention_of_layers(keys, family, hidden, layers):
    if family.get("attention_experts"):                    # of each that a token chooses as many heads as keys have
        heads = keys.integer("num_key_value_heads") * keys.integer("num_experts_per_tok")
        if heads > LARGEST or ("num_attention_heads" in keys and keys.integer("num_attention_heads") != heads):
            keys.fail("num_attention_heads", "but num_key_value_heads times num_experts_per_tok says otherwise")
    else:
        heads = keys.integer("num_attention_heads")
    said = {"heads": heads, "kv_heads": keys.integer("num_key_value_heads") if "num_key_value_heads" in keys else heads}
    if family.get("latent"):
        more, turning = latent_attention(keys, family, hidden)
    else:
        turning = keys.integer("head_dim") if "head_dim" in keys else hidden // heads
        more = {"head_dim": turning}
    if family.get("attention_experts"):
        more |= {"tiled_kv": True, "router": DEFAULTS["router"] | {
            "experts": keys.integer(family["experts"][0]), "top_k": keys.integer("num_experts_per_tok"),
            "position": "score_position::" + family.get("position", "before_top_k")}}
    said |= more | rope(keys, turning, family)
    said |= {"layout": "rope_layout::" + ("interleaved" if keys.trait(family, "interleaved") else "half_split"),
             "qkv_bias": keys.trait(family, "qkv_bias"), "out_bias": keys.trait(family, "out_bias"), "sinks": keys.trait(family, "sinks")}
    if "clip_qkv" in keys:
        if family.get("qk_norm"):
            keys.fail("clip_qkv", "but queries and keys are normalised here after they are clipped")
        said["qkv_clip"] = keys.number("clip_qkv")
    if "attention_multiplier" in keys:
        said["scale"] = keys.number("attention_multiplier")
    if "max_attn_value" in keys:
        said["softcap"] = keys.number("max_attn_value")

    norm = {}
    if family.get("qk_norm") and ("use_qk_norm" not in keys or keys.boolean("use_qk_norm")):
        norm = {"qk_norm": "qk_norm::" + family["qk_norm"], "qk_norm_after_rope": family.get("qk_norm_after_rope", False)}
    tuning, longer = keys["attn_temperature_tuning"], {}
    if tuning is not None and not isinstance(tuning, bool) and not (isinstance(tuning, int) and 0 <= tuning <= LARGEST):
        fail("attn_temperature_tuning", tuning, "which should be true or false")
    if tuning:
        longer = {"temperature": {"scale": keys.number("attn_scale"), "floor": keys.integer("floor_scale")}}
    weightless = family.get("qk_norm") == "weightless"     # of those layers alone that turn
    still = {"rotary": False, "rotary_dim": 0, "scaling": DEFAULTS["attention"]["scaling"]} | longer
    return [DEFAULTS["attention"] | said | span | (norm if turns or not weightless else {}) | ({} if turns else still)
            for span, turns in zip(spans(keys, family, layers), rotary_layers(keys, layers))]


def router_of(keys, family, experts):
    said = {"experts": experts + (keys.integer(family["copies"], 0) if "copies" in family else 0),
            "top_k": keys.integer("num_experts_per_tok"), "score": "score::" + family.get("score", "softmax"),
            "position": "score_position::" + family.get("position", "before_top_k"),
            "renormalize": keys.trait(family, "renormalize"),
            "bias": keys.trait(family, "router_bias"), "score_bias": keys.trait(family, "score_bias"),
            "weights": "combine_weight::" + family.get("weights", "scores")}
    if "weight_norm" in family.get("names", {}):
        if keys["weight_norm"] is not None and not equal(keys["weight_norm"], 1):
            keys.fail("weight_norm", "but weights are divided by their sum, or not at all")
        said["renormalize"] = "weight_norm" in keys
    if "routed_scaling_factor" in keys:
        said["routed_scale"] = keys.number("routed_scaling_factor")
    if "moe_norm_min" in keys:
        said["sum_floor"] = keys.number("moe_norm_min")
    if "sum_epsilon" in family:
        said["sum_epsilon"] = family["sum_epsilon"]
    limited = "topk_method" not in family["keys"] or keys.word("topk_method", {"greedy": False, "group_limited_greedy": True})
    if limited and "n_group" in keys and keys.integer("n_group") > 1:
        said |= {"groups": keys.integer("n_group"), "top_groups": keys.integer("topk_group"),
                 "group_worth": "group_worth::" + family.get("group_worth", "top2_sum")}
    return DEFAULTS["router"] | said


def describe(config, layer_weights=None):
    """The model as {"model_type", "routing", "decoder": {...}, "layers": [{...}, ...]}, with the fields of decoder_config and block_config.

    Enumerators are strings such as "score::softmax"; formats are {"type", "group", "zero_point"}; routing is None, or names a policy of
    route/ and the value of its state's epsilon. Raises Inexpressible.
    layer_weights: names of the stored tensors, of the whole model or of one block; they decide nothing, but must not contradict.
    """
    family, keys, config = known_keys(config)
    layers = keys.integer("num_hidden_layers")
    if layers > MOST_LAYERS:
        keys.fail("num_hidden_layers", f"more than the {MOST_LAYERS} that are read")
    hidden = keys.integer("hidden_size")
    attention = attention_of_layers(keys, family, hidden, layers)
    norm = DEFAULTS["norm"] | {"kind": "norm_kind::" + family.get("norm", "rms"), "epsilon": keys.number("rms_norm_eps"),
                               "bias": keys.trait(family, "norm_bias"), "cast": "norm_cast::" + family.get("cast", "before_weight")}
    stored, formats = storage(keys)

    expert = DEFAULTS["expert"] | {"intermediate": keys.integer("intermediate_size"),
                                   "activation": "activation::" + keys.word("hidden_act", ACTIVATIONS),
                                   "limit": keys.number("swiglu_limit") if "swiglu_limit" in keys else 0.0,
                                   "alpha": keys.number("swiglu_alpha") if "swiglu_alpha" in keys else 1.0,
                                   "up_offset": family.get("up_offset", 0.0), "bias": keys.trait(family, "ffn_bias")}
    epsilon = {"epsilon": family["layer_epsilon"]} if "layer_epsilon" in family else {}
    base = DEFAULTS | {"hidden": hidden, "norm": norm | epsilon, "norms": "norm_placement::" + family.get("norms", "pre"),
                       "residual_scale": keys.number("residual_multiplier") if "residual_multiplier" in keys else 1.0,
                       "storage": DEFAULTS["storage"] | formats}
    dense = {"expert": expert | {"intermediate": keys.integer(family.get("dense_width", "intermediate_size"))}}
    moe, experts, routing = dense, expert_count(keys, family, config), None
    if experts > 0:
        copies = keys.integer(family["copies"], 0) if "copies" in family else 0
        moe = {"router": router_of(keys, family, experts), "shared": shared_expert(keys, family),
               "expert": expert | {"intermediate": keys.integer(family.get("expert_width", "intermediate_size")), "copy": copies,
                                  "mixture_bias": family.get("mixture_bias", False)}}
        if "sparse_mixer" in family:
            routing = {"policy": "sparse_mixer", "epsilon": keys.number(family["sparse_mixer"])}
    if family.get("shortcut"):                             # two of our layers: the mixture joins the stream at the end of the second
        first = moe | {"shared": {"intermediate": expert["intermediate"], "sigmoid_gate": False}, "shortcut": "shortcut::opens"}
        pairs = [(attention[i], half) for i in range(layers) for half in (first, dense | {"shortcut": "shortcut::closes"})]
        blocks = [base | {"attention": attends} | half for attends, half in pairs]
    else:
        blocks = [base | {"attention": attends} | (dense if is_dense else moe)
                  for attends, is_dense in zip(attention, dense_layers(keys, layers))]
    description = {"model_type": config["model_type"], "routing": routing,
                   "decoder": DECODER_DEFAULTS | {
                       "vocabulary": keys.integer("vocab_size"), "norm": norm, "tied_head": keys.boolean("tie_word_embeddings"),
                       "head_bias": keys.trait(family, "head_bias"),
                       "embedding_scale": keys.number("embedding_multiplier") if "embedding_multiplier" in keys else 1.0,
                       "logit_scale": (1.0 / keys.number("logits_scaling") if "logits_scaling" in keys else
                                       keys.number("output_multiplier_scale") if "output_multiplier_scale" in keys else 1.0),
                       "embedding": stored},
                   "layers": blocks}
    if layer_weights is not None:
        compare_names(description, layer_weights)
    return description


def compare_names(description, names):
    """A tensor that the files have and the configuration knows nothing of would be left out of the sum. (Loading finds what is missing.)"""
    names = {name.removeprefix("weight.") for name in names}
    whole = any(name.startswith("model.layers.") for name in names)
    for i, block in enumerate(description["layers"]):
        own = {name.removeprefix(f"model.layers.{i}.") for name in names if name.startswith(f"model.layers.{i}.")} if whole else names
        attention, moe = block["attention"], block["router"]["experts"] > 0
        for tensor, known in (("self_attn.q_proj.bias", attention["qkv_bias"]), ("self_attn.o_proj.bias", attention["out_bias"]),
                              ("self_attn.q_norm.weight", attention["qk_norm"] != "qk_norm::none"),
                              ("self_attn.sinks", attention["sinks"]),
                              ("mlp.gate_proj.weight", not moe), ("mlp.gate_proj.bias", not moe and block["expert"]["bias"]),
                              ("mlp.shared_expert_gate.weight", block["shared"]["sigmoid_gate"])):
            if tensor in own and not known:
                raise Inexpressible(f"Layer {i} has a tensor {tensor}, of which the configuration knows nothing.")


# --- the header -------------------------------------------------------------------------------------------------------------------------

def weight_format(type_, group=None, zero_point=False):
    usual = {"e4m3": 128, "int8": 32, "int4": 32, "mxfp4": 32}.get(type_, 0)
    return {"type": type_, "group": usual if group is None else group, "zero_point": zero_point}


# The initialisers of config/block_config.hpp: what a header need not say.
ROUTER = {"experts": 0, "top_k": 0, "score": "score::softmax", "position": "score_position::before_top_k", "logit_softcap": 0.0,
          "groups": 1, "top_groups": 1, "group_worth": "group_worth::top2_sum", "group_mask": "group_mask::minus_infinity",
          "renormalize": False, "sum_epsilon": 1e-20, "sum_floor": 0.0, "routed_scale": 1.0, "bias": False, "score_bias": False,
          "weights": "combine_weight::scores"}
DEFAULTS = {
    "hidden": 0,
    "attention": {"heads": 0, "kv_heads": 0, "head_dim": 0, "value_dim": 0, "tiled_kv": False, "rotary": True, "rotary_dim": 0,
                  "rope_theta": 1e4, "layout": "rope_layout::half_split",
                  "scaling": {"kind": "rope_scaling_kind::none", "factor": 1.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_positions": 8192, "beta_fast": 32.0, "beta_slow": 1.0, "rounded": True, "magnitude": 0.0,
                              "factors": [], "long_factors": [], "long_magnitude": 0.0},
                  "qk_norm": "qk_norm::none", "qk_norm_after_rope": False, "qkv_bias": False, "out_bias": False, "qkv_clip": 0.0,
                  "scale": 0.0, "softcap": 0.0, "window": 0, "chunk": 0, "sinks": False, "output_gate": False,
                  "temperature": {"scale": 0.0, "floor": 8192},
                  "latent": {"kv_rank": 0, "q_rank": 0, "rope_dim": 0, "epsilon": 1e-6, "q_scale": 1.0, "kv_scale": 1.0},
                  "router": ROUTER},
    "router": ROUTER,
    "expert": {"intermediate": 0, "activation": "activation::swiglu", "limit": 0.0, "alpha": 1.0, "up_offset": 0.0, "bias": False,
               "mixture_bias": False, "latent": 0, "zero": 0, "copy": 0, "constant": 0},
    "shared": {"intermediate": 0, "sigmoid_gate": False},
    "norm": {"kind": "norm_kind::rms", "epsilon": 1e-5, "bias": False, "cast": "norm_cast::before_weight", "weight_offset": 0.0},
    "norms": "norm_placement::pre",
    "residual_scale": 1.0,
    "shortcut": "shortcut::none",
    "storage": {"weights": weight_format("bf16"), "ffn": weight_format("same"), "activations": "dtype::fp32", "inputs": "input_codes::none",
                "cache": "dtype::same"},
}
DECODER_DEFAULTS = {"vocabulary": 0, "norm": DEFAULTS["norm"], "tied_head": False, "head_bias": False, "embedding_scale": 1.0,
                    "logit_scale": 1.0, "logit_softcap": 0.0, "embedding": weight_format("bf16")}
WIDTH = 140
LONGEST_PERIOD = 32


def parse_format(text):
    """int4:32:zero → a weight format."""
    type_, *rest = text.split(":")
    types = ("fp64", "fp32", "bf16", "fp16", "e4m3", "int8", "int4", "mxfp4")
    if type_ not in types or not re.fullmatch(r"(\d+(:zero)?)?", ":".join(rest)) or (rest[1:] and type_ != "int4"):
        raise argparse.ArgumentTypeError(f"{text} is no number format: a name ({', '.join(types)}), then :group, then :zero for int4")
    return weight_format(type_, int(rest[0]) if rest else None, len(rest) > 1)


def literal(value):
    if isinstance(value, list):
        return "{" + ", ".join(map(literal, value)) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        plain = repr(value)
        mantissa, exponent = f"{value:e}".split("e")
        scientific = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return scientific if float(scientific) == value and len(scientific) < len(plain) else plain
    return "moesaic::" + value if isinstance(value, str) else str(value)


def format_literal(value):
    if value == weight_format(value["type"]):
        return f"moesaic::dtype::{value['type']}"
    return f"{{moesaic::dtype::{value['type']}, {value['group']}{', true' if value['zero_point'] else ''}}}"


def fields(value, default):
    """`.a = 1`, `.b = {...}`: what differs from the default."""
    return [f".{key} = " + (format_literal(item) if isinstance(item, dict) and "type" in item else
                            "{" + ", ".join(fields(item, default[key])) + "}" if isinstance(item, dict) else literal(item))
            for key, item in value.items() if item != default[key]]


def wrapped(part, indent):
    """A field on as many lines as it needs, broken before a name and aligned behind the brace."""
    room = WIDTH - indent - 2
    if len(part) <= room:
        return part
    below = " " * (indent + part.index("{") + 1)
    lines = textwrap.wrap(part.replace(" = ", "\1=\1"), room, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\1", " ")


def constant(type_, value, default):
    """A static constexpr member: on one line if it fits, else a line a field."""
    parts = fields(value, default)
    line = f"  static constexpr moesaic::{type_} config{{{', '.join(parts)}}};"
    if len(line) <= WIDTH and len(parts) <= 3:
        return line
    return f"  static constexpr moesaic::{type_} config{{\n      " + ",\n      ".join(wrapped(part, 6) for part in parts) + "};"


def policy_of(block, routing):
    """The member that names a layer's routing policy."""
    if not routing or block["router"]["experts"] == 0:
        return ""
    policy = f"moesaic::routing::{routing['policy']}<>"
    if routing["epsilon"] == 0.01:               # a new state's
        return f"  using routing = {policy};\n"
    return (f"  struct routing : {policy} {{\n"
            f"    struct state : {policy}::state {{ state() {{ epsilon = {float(routing['epsilon'])!r}f; }} }};\n  }};\n")


@functools.lru_cache(maxsize=None)
def compact(names):
    """A list of layer names as few terms: repeat<a, 3>, repeat<pattern<a, b>, 18>. The fewest names and brackets of the ways tried."""
    def repeated(run, count):
        inner = compact(run)
        return f"moesaic::repeat<{inner[0] if len(inner) == 1 else 'moesaic::pattern<' + ', '.join(inner) + '>'}, {count}>"

    def cost(terms):                             # a name 2, a bracket 1
        text = ", ".join(terms)
        return 2 * (1 + text.count(", ") - text.count("moesaic::repeat<")) + text.count("<")

    best = [[]]                                  # best[j]: terms for the first j names
    for j in range(1, len(names) + 1):
        tries, alike = [best[j - 1] + [names[j - 1]]], {}      # alike[p]: how many names at the end equal the one p before
        for period in range(1, min(j // 2, LONGEST_PERIOD) + 1):
            if any(period % p == 0 and alike[p] >= period - p for p in alike):
                continue                         # a period within this one says the same
            alike[period] = next((i for i in range(j - period) if names[j - 1 - i] != names[j - 1 - i - period]), j - period)
            if alike[period] >= period:          # the whole run: a part of it costs as much
                count = 1 + alike[period] // period
                tries.append(best[j - period * count] + [repeated(names[j - period:j], count)])
        best.append(min(tries, key=cost))
    return best[-1]


def emit(description, name=None, namespace=None, activations=None, weights=None, ffn=None, embedding=None, cache=None, inputs=None):
    """The header as text. Formats as describe() gives them; activations and cache are names of number types, inputs one of codes."""
    name = name or description["model_type"]
    chosen = {"weights": weights, "ffn": ffn, "activations": activations and f"dtype::{activations}", "cache": cache and f"dtype::{cache}",
              "inputs": inputs and f"input_codes::{inputs}"}
    chosen = {key: value for key, value in chosen.items() if value}
    blocks = [block | {"storage": block["storage"] | chosen} for block in description["layers"]]
    for storage in (block["storage"] for block in blocks):             # what a file says of inputs is about matrices of e4m3 in its blocks
        used = [f for f in (storage["weights"], storage["ffn"]) if f["type"] == "e4m3"]
        if not inputs and (not used or any(f["group"] != 128 for f in used)):
            storage["inputs"] = "input_codes::none"
    distinct = [block for i, block in enumerate(blocks) if block not in blocks[:i]]
    sparse = [block["router"]["experts"] > 0 for block in distinct]
    kinds = ["_moe" if s else "_dense" for s in sparse] if len(set(sparse)) > 1 else ["_layer"] * len(distinct)
    specs = [name + kind + (str(kinds[:i].count(kind)) if kinds.count(kind) > 1 else "") for i, kind in enumerate(kinds)]
    decoder = description["decoder"] | ({"embedding": embedding} if embedding else {})
    routing = description.get("routing")
    structs = [f"struct {spec} {{\n{constant('block_config', block, DEFAULTS)}\n{policy_of(block, routing)}}};"
               for spec, block in zip(specs, distinct)]
    terms = compact(tuple(specs[distinct.index(block)] for block in blocks))
    structs.append(f"struct {name} {{\n{constant('decoder_config', decoder, DECODER_DEFAULTS)}\n"
                   f"  using layers = moesaic::layers<{', '.join(terms)}>;\n}};")
    return "\n".join([f"// {name}, of type {description['model_type']}: written by config_from_hf.py from its config.json.",
                      "#pragma once", "", "#include <moesaic/config/block_config.hpp>", "#include <moesaic/config/layers.hpp>",
                      *([f"#include <moesaic/route/{routing['policy']}.hpp>"] if routing else []), "",
                      *([f"namespace {namespace} {{", ""] if namespace else []),
                      "\n\n".join(structs), *(["", f"}}  // namespace {namespace}"] if namespace else []), ""])


# --- files ------------------------------------------------------------------------------------------------------------------------------

def read(path):
    """The parsed configuration; raises Inexpressible where it is no JSON."""
    def reject(word):
        raise ValueError(f"{word} is no JSON number")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=reject)
    except (OSError, ValueError, RecursionError) as problem:
        raise Inexpressible(f"It cannot be read: {problem}.") from None


def stored_names(folder):
    """Names of the tensors in a folder's safetensors files; None where it has none, or where they cannot be read (loading says why)."""
    names = set()
    for path in sorted(folder.glob("*.safetensors")):
        if not path.name.startswith("model"):
            continue
        try:
            with path.open("rb") as file:
                names |= set(json.loads(file.read(min(struct.unpack("<Q", file.read(8))[0], 100_000_000)))) - {"__metadata__"}
        except (OSError, ValueError, TypeError, struct.error):
            return None
    return names or None


# Of C++, those that somebody might call a model.
KEYWORDS = {"auto", "bool", "char", "class", "concept", "const", "default", "double", "enum", "export", "float", "int", "long", "namespace", "new", "operator",
            "private", "public", "register", "short", "signed", "static", "struct", "switch", "template", "this", "typename", "union", "unsigned", "using", "void"}


def identifier(text):
    text = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower()
    return text if re.match(r"[a-z_]", text) else "model_" + text


def main():
    parser = argparse.ArgumentParser(description="Prints a C++ header with the moesaic configuration of a HuggingFace model.")
    parser.add_argument("path", type=pathlib.Path, help="a model folder, or its config.json")
    parser.add_argument("--name", help="of the model's struct (default: the folder's name)")
    parser.add_argument("--namespace")
    parser.add_argument("--activations", choices=("fp32", "bf16", "fp64"))
    parser.add_argument("--weights", type=parse_format, help="of the attention, and of what is not named below")
    parser.add_argument("--ffn", type=parse_format, help="of the feed-forward matrices")
    parser.add_argument("--inputs", choices=("none", "e4m3", "e4m3_power_of_two"), help="what matrices of e4m3 multiply (default: as the file says)")
    parser.add_argument("--embedding", type=parse_format, help="of the embedding and the head")
    options = parser.parse_args()
    for name in filter(None, (options.name, options.namespace)):
        if not re.fullmatch(r"[A-Za-z_]\w*(::[A-Za-z_]\w*)*", name, re.ASCII) or name in KEYWORDS:
            parser.error(f"expected a C++ name, found '{name}'")
    path = options.path / "config.json" if options.path.is_dir() else options.path
    try:
        description = describe(read(path), stored_names(path.parent))
    except Inexpressible as sentence:
        print(f"{path}: {sentence}", file=sys.stderr)
        return 1
    print(emit(description, options.name or identifier(path.resolve().parent.name), options.namespace, options.activations, options.weights,
               options.ffn, options.embedding, inputs=options.inputs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
