// Presets are what HuggingFace's configurations of the models say: the keys that differ from the defaults of their class.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

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
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/longcat.hpp>
#include <moesaic/config/presets/minimax.hpp>
#include <moesaic/config/presets/phi.hpp>
#include <moesaic/io/huggingface.hpp>

using namespace moesaic;
using namespace moesaic::presets;

// What a preset leaves to the layer that is derived from it: a policy.
template <class Model>
void same(char const* text) {
  auto const config = nlohmann::json::parse(text);
  CAPTURE(config["model_type"]);
  auto said = describe_huggingface(config);
  said.mixer_epsilon = 0;
  for (auto const& layer : said.layers) CHECK(explain(layer) == nullptr);
  CHECK_NOTHROW(check_configuration(description_of<Model>(), said, "preset"));
  if (config.contains("quantization_config"))
    for (std::size_t i = 0; i < said.layers.size(); ++i) {
      auto const &published = said.layers[i].storage, &ours = layer_configs<Model>[i].storage;
      CHECK((published.weights == ours.weights && published.inputs == ours.inputs));
    }
}

TEST_CASE("presets are what their configurations say") {
  same<deepseek_v2_lite>(R"(
    {"model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 102400, "n_routed_experts": 64,
    "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "q_lora_rank": null, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 10000, "rope_scaling": {"type": "yarn",
    "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096}, "routed_scaling_factor": 1.0, "topk_method": "greedy", "n_group": 1,
    "topk_group": 1, "rms_norm_eps": 1e-06})");
  same<deepseek_v2>(R"(
    {"model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 102400,
    "n_routed_experts": 160, "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096}, "routed_scaling_factor": 16.0, "topk_method": "group_limited_greedy",
    "n_group": 8, "topk_group": 3, "rms_norm_eps": 1e-06})");
  same<deepseek_v3>(R"(
    {"model_type": "deepseek_v3", "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}})");
  same<deepseek_v3_1>(R"(
    {"model_type": "deepseek_v3", "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128]}})");
  same<kimi_k2>(R"(
    {"model_type": "kimi_k2", "vocab_size": 163840, "num_attention_heads": 64, "num_key_value_heads": 64,
    "n_routed_experts": 384, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827,
    "rope_theta": 50000.0, "rope_scaling": {"type": "yarn", "factor": 64.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}})");
  same<grok_1>(R"(
    {"model_type": "grok-1"})");
  same<gpt_oss_20b>(R"(
    {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32})");
  same<gpt_oss_120b>(R"(
    {"model_type": "gpt_oss"})");
  same<phi_3_5_moe>(R"(
    {"model_type": "phimoe", "attention_bias": true, "lm_head_bias": true, "rope_theta": 10000.0})");
  same<glm_4_5>(R"(
    {"model_type": "glm4_moe", "hidden_size": 5120, "intermediate_size": 12288, "num_hidden_layers": 92,
    "moe_intermediate_size": 1536, "n_routed_experts": 160, "attention_bias": true, "use_qk_norm": true,
    "first_k_dense_replace": 3, "routed_scaling_factor": 2.5, "rope_theta": 1000000.0})");
  same<glm_4_5_air>(R"(
    {"model_type": "glm4_moe", "attention_bias": true, "rope_theta": 1000000.0})");
  same<minimax_m2>(R"(
    {"model_type": "minimax_m2", "rotary_dim": 64, "quantization_config": {"activation_scheme": "dynamic", "fmt": "float8_e4m3fn",
    "quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}})");
  same<longcat_flash>(R"(
    {"model_type": "longcat_flash"})");
  same<llama_4_scout>(R"(
    {"model_type": "llama4_text", "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"}})");
  same<llama_4_maverick>(R"(
    {"model_type": "llama4_text", "num_local_experts": 128, "interleave_moe_layer_step": 2, "use_qk_norm": false})");
  same<ernie_4_5_21b_a3b>(R"(
    {"model_type": "ernie4_5_moe", "rope_theta": 500000.0})");
  same<granite_3_0_3b_a800m>(R"(
    {"model_type": "granitemoe", "vocab_size": 49155, "hidden_size": 1536, "intermediate_size": 512, "num_attention_heads": 24,
    "num_key_value_heads": 8, "num_local_experts": 40, "num_experts_per_tok": 8, "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 6.0, "tie_word_embeddings": true})");
  same<jetmoe_8b>(R"(
    {"model_type": "jetmoe", "num_hidden_layers": 24})");
  same<dbrx>(R"(
    {"model_type": "dbrx", "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}, "d_model": 6144, "n_heads": 48,
    "n_layers": 40, "vocab_size": 100352})");
  same<hunyuan_a13b>(R"(
    {"model_type": "hunyuan_v1_moe", "vocab_size": 128167, "intermediate_size": 3072, "num_key_value_heads": 8, "head_dim": 128,
    "num_experts": 64, "moe_topk": 8, "num_shared_expert": 1, "tie_word_embeddings": true, "rope_theta": 10000.0,
    "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"}})");
}
