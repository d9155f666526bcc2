// HuggingFace folders: both forms of config.json mean the same, a compiled model is compared with it, what cannot be said is named.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include <doctest/doctest.h>

#include <moesaic/config/presets/deepseek.hpp>
#include <moesaic/config/presets/llama.hpp>
#include <moesaic/config/presets/mixtral.hpp>
#include <moesaic/config/presets/olmoe.hpp>
#include <moesaic/config/presets/qwen.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/io/huggingface.hpp>

#include "support/compare.hpp"
#include "support/temporary_folder.hpp"
#include "support/tolerance.hpp"
#include "unit/described.hpp"

namespace {

using namespace moesaic;
using nlohmann::json;
using namespace nlohmann::literals;

std::string const source_dir = MOESAIC_SOURCE_DIR;
std::string const checkpoints = source_dir + "/tests/oracle/data/checkpoints/";

// The folder qwen3_moe by hand: layer 1 is dense.
constexpr attention_config small_attention{.heads = 4, .kv_heads = 2, .head_dim = 16, .rope_theta = 1e6, .qk_norm = qk_norm::per_head};
struct sparse {
  static constexpr block_config config{.hidden = 36,
                                       .attention = small_attention,
                                       .router = {.experts = 12, .top_k = 3, .renormalize = true},
                                       .expert = {.intermediate = 18},
                                       .norm = {.epsilon = 1e-6},
                                       .storage = {.weights = dtype::fp32}};
};
struct plain {
  static constexpr block_config config{.hidden = 36,
                                       .attention = small_attention,
                                       .expert = {.intermediate = 56},
                                       .norm = {.epsilon = 1e-6}};
};
struct small_qwen3_moe {
  static constexpr decoder_config config{.vocabulary = 59, .norm = {.epsilon = 1e-6}};
  using layers = moesaic::layers<sparse, plain, sparse>;
};

// The folder llama, whose head_dim is hidden / heads.
struct scaled {
  static constexpr block_config config{
      .hidden = 48,
      .attention = {.heads = 4, .kv_heads = 2, .rope_theta = 5e5, .scaling = {rope_scaling_kind::llama3, 8.0, 1.0, 4.0, 64}},
      .expert = {.intermediate = 76}};
};
struct small_llama {
  static constexpr decoder_config config{.vocabulary = 71};
  using layers = moesaic::layers<repeat<scaled, 2>>;
};

template <class F>
std::string sentence_of(F&& f) {
  try {
    f();
  } catch (error const& thrown) {
    return thrown.what();
  }
  return "nothing was thrown";
}

json with(json config, json const& patch) {
  config.update(patch);
  return config;
}

json const llama =
    R"({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 100})"_json;

}  // namespace

TEST_CASE("both forms of config.json describe the same model") {
  for (auto const folder : {"llama", "llama_old", "qwen2", "mixtral", "qwen3_moe", "qwen2_moe", "olmoe"}) {
    CAPTURE(folder);
    auto const old = checkpoint(checkpoints + folder), now = checkpoint(checkpoints + folder, "config.v5.json");
    CHECK(old.description() == now.description());
    CHECK(old.find("model.norm.weight") != nullptr);
    CHECK(old.find("model.nothing") == nullptr);
    CHECK(old.generation().eos == std::vector<std::int64_t>{2});
    CHECK(old.generation().bos == (folder == std::string("olmoe") ? -1 : 1));
  }
}

TEST_CASE("what a key leaves to the class") {
  auto const old = checkpoint(checkpoints + "llama_old").description().layers[0];
  CHECK(old.attention.kv_heads == 4);
  CHECK(old.attention.head_dim == 10);
  CHECK(old.attention.rope_theta == 1e4);
  CHECK(old.storage.weights == format(dtype::fp16));

  auto const coded = checkpoint(checkpoints + "deepseek_v3_fp8").description().layers[0].storage;
  CHECK(coded.weights == format(dtype::e4m3));
  CHECK(coded.inputs == input_codes::e4m3);
  CHECK(old.storage.inputs == input_codes::none);

  auto const qwen2 = checkpoint(checkpoints + "qwen2").description();
  CHECK(qwen2.layers[0].attention.qkv_bias);
  CHECK_FALSE(qwen2.layers[0].attention.out_bias);
  CHECK(qwen2.decoder.tied_head);

  auto const qwen2_moe = checkpoint(checkpoints + "qwen2_moe").description().layers[0];
  CHECK(qwen2_moe.shared == shared_config{52, true});
  CHECK(qwen2_moe.attention.qkv_bias);
  CHECK_FALSE(qwen2_moe.router.renormalize);

  CHECK(checkpoint(checkpoints + "mixtral").description().layers[0].router.renormalize);
  CHECK(checkpoint(checkpoints + "olmoe").description().layers[0].norm.epsilon == 1e-5);
  CHECK(checkpoint(checkpoints + "olmoe").description().layers[0].attention.qk_norm == qk_norm::full_width);

  CHECK(describe_huggingface(llama).layers[0].norm.epsilon == 1e-6);
  CHECK(describe_huggingface(llama).layers[0].storage.weights == format(dtype::fp32));
  CHECK(describe_huggingface(R"({"model_type": "mixtral"})"_json).layers[0].attention.rope_theta == 1e6);
  CHECK(describe_huggingface(R"({"model_type": "qwen3"})"_json).layers[0].attention.head_dim == 128);
}

TEST_CASE("a compiled model is what its folder holds, and the first difference is named") {
  auto const folder = checkpoint(checkpoints + "qwen3_moe");
  CHECK_NOTHROW(check_configuration<small_qwen3_moe>(folder.description()));
  CHECK_NOTHROW(check_configuration<small_llama>(checkpoint(checkpoints + "llama").description()));
  CHECK(description_of<small_qwen3_moe>().layers.size() == 3);

  struct mutation {
    const char *patch, *sentence;
  };
  auto const config = read_huggingface_json(checkpoints + "qwen3_moe/config.json");
  for (auto const& [patch, sentence] : std::initializer_list<mutation>{
           {R"({"num_hidden_layers": 4})", "here: number of layers is 3 in the header, but 4 in the folder"},
           {R"({"hidden_size": 40})", "here: layer 0: hidden is 36 in the header, but 40 in the folder"},
           {R"({"num_attention_heads": 8})", "here: layer 0: attention.heads is 4 in the header, but 8 in the folder"},
           {R"({"num_key_value_heads": 4})", "here: layer 0: attention.kv_heads is 2 in the header, but 4 in the folder"},
           {R"({"head_dim": 8})", "here: layer 0: attention.head_dim is 16 in the header, but 8 in the folder"},
           {R"({"rope_theta": 10000})", "here: layer 0: attention.rope_theta is 1e+06 in the header, but 10000 in the folder"},
           {R"({"rope_scaling": {"type": "linear", "factor": 2}})",
            "here: layer 0: attention.scaling.kind is none in the header, but linear in the folder"},
           {R"({"attention_bias": true})", "here: layer 0: attention.qkv_bias is false in the header, but true in the folder"},
           {R"({"num_experts": 16})", "here: layer 0: router.experts is 12 in the header, but 16 in the folder"},
           {R"({"num_experts_per_tok": 4})", "here: layer 0: router.top_k is 3 in the header, but 4 in the folder"},
           {R"({"norm_topk_prob": false})", "here: layer 0: router.renormalize is true in the header, but false in the folder"},
           {R"({"moe_intermediate_size": 20})", "here: layer 0: expert.intermediate is 18 in the header, but 20 in the folder"},
           {R"({"intermediate_size": 64})", "here: layer 1: expert.intermediate is 56 in the header, but 64 in the folder"},
           {R"({"hidden_act": "gelu"})", "here: layer 0: expert.activation is swiglu in the header, but geglu_erf in the folder"},
           {R"({"mlp_only_layers": []})", "here: layer 1: router.experts is 0 in the header, but 12 in the folder"},
           {R"({"mlp_only_layers": [1, 2]})", "here: layer 2: router.experts is 12 in the header, but 0 in the folder"},
           {R"({"decoder_sparse_step": 2})", "here: layer 0: router.experts is 12 in the header, but 0 in the folder"},
           {R"({"rms_norm_eps": 1e-5})", "here: layer 0: norm.epsilon is 1e-06 in the header, but 1e-05 in the folder"},
           {R"({"vocab_size": 60})", "here: decoder: vocabulary is 59 in the header, but 60 in the folder"},
           {R"({"tie_word_embeddings": true})", "here: decoder: tied_head is false in the header, but true in the folder"}}) {
    auto const changed = describe_huggingface(with(config, json::parse(patch)));
    CHECK(sentence_of([&] { check_configuration<small_qwen3_moe>(changed, "here"); }) == sentence);
  }

  auto const scaling = read_huggingface_json(checkpoints + "llama/config.json");
  for (auto const& [key, field] : std::initializer_list<std::pair<const char*, const char*>>{
           {"factor", "factor"},
           {"low_freq_factor", "low_freq_factor"},
           {"high_freq_factor", "high_freq_factor"},
           {"original_max_position_embeddings", "original_positions"}}) {
    auto changed = scaling;
    changed["rope_scaling"][key] = 3;
    auto const sentence = sentence_of([&] { check_configuration<small_llama>(describe_huggingface(changed)); });
    CHECK(sentence.find(std::string("layer 0: attention.scaling.") + field + " is ") != std::string::npos);
  }
}

TEST_CASE("every field of a description is compared") {
  auto const base = description_of<small_qwen3_moe>();
  using change = void (*)(decoder_description&);
  using layer_change = void (*)(block_config&);
  struct group {
    layer_change common;                     // to both
    std::vector<std::pair<std::string, layer_change>> changes;
  };
  std::vector<group> const groups{
      {[](auto&) {},
       {{"hidden", [](auto& c) { c.hidden = 40; }},
       {"attention.heads", [](auto& c) { c.attention.heads = 8; }},
       {"attention.kv_heads", [](auto& c) { c.attention.kv_heads = 1; }},
       {"attention.head_dim", [](auto& c) { c.attention.head_dim = 20, c.attention.value_dim = 16; }},
       {"attention.value_dim", [](auto& c) { c.attention.value_dim = 8; }},
       {"attention.tiled_kv", [](auto& c) { c.attention.tiled_kv = true; }},
       {"attention.rotary", [](auto& c) { c.attention.rotary = false; }},
       {"attention.rotary_dim", [](auto& c) { c.attention.rotary_dim = 8; }},
       {"attention.rope_theta", [](auto& c) { c.attention.rope_theta = 1e5; }},
       {"attention.layout", [](auto& c) { c.attention.layout = rope_layout::interleaved; }},
       {"attention.scaling.kind", [](auto& c) { c.attention.scaling.kind = rope_scaling_kind::linear; }},
       {"attention.qk_norm", [](auto& c) { c.attention.qk_norm = qk_norm::full_width; }},
       {"attention.qk_norm_after_rope", [](auto& c) { c.attention.qk_norm_after_rope = true; }},
       {"attention.qkv_bias", [](auto& c) { c.attention.qkv_bias = true; }},
       {"attention.out_bias", [](auto& c) { c.attention.out_bias = true; }},
       {"attention.qkv_clip", [](auto& c) { c.attention.qkv_clip = 8; }},
       {"attention.scale", [](auto& c) { c.attention.scale = 0.5; }},
       {"attention.softcap", [](auto& c) { c.attention.softcap = 30; }},
       {"attention.window", [](auto& c) { c.attention.window = 8; }},
       {"attention.chunk", [](auto& c) { c.attention.chunk = 8; }},
       {"attention.router.experts", [](auto& c) { c.attention.router.experts = 4; }},
       {"attention.router.top_k", [](auto& c) { c.attention.router.top_k = 2; }},
       {"attention.router.score", [](auto& c) { c.attention.router.score = score::sigmoid; }},
       {"attention.router.position", [](auto& c) { c.attention.router.position = score_position::after_top_k; }},
       {"attention.router.renormalize", [](auto& c) { c.attention.router.renormalize = true; }},
       {"attention.router.bias", [](auto& c) { c.attention.router.bias = true; }},
       {"attention.sinks", [](auto& c) { c.attention.sinks = true; }},
       {"attention.output_gate", [](auto& c) { c.attention.output_gate = true; }},
       {"attention.temperature.scale", [](auto& c) { c.attention.temperature.scale = 0.1; }},
       {"router.experts", [](auto& c) { c.router.experts = 13; }},
       {"router.top_k", [](auto& c) { c.router.top_k = 2; }},
       {"router.score", [](auto& c) { c.router.score = score::sigmoid; }},
       {"router.position", [](auto& c) { c.router.position = score_position::after_top_k; }},
       {"router.logit_softcap", [](auto& c) { c.router.logit_softcap = 30; }},
       {"router.groups", [](auto& c) { c.router.groups = 4; }},
       {"router.renormalize", [](auto& c) { c.router.renormalize = false; }},
       {"router.sum_epsilon", [](auto& c) { c.router.sum_epsilon = 0; }},
       {"router.sum_floor", [](auto& c) { c.router.sum_floor = 1e-12; }},
       {"router.routed_scale", [](auto& c) { c.router.routed_scale = 2.5; }},
       {"router.bias", [](auto& c) { c.router.bias = true; }},
       {"router.cosine", [](auto& c) { c.router.cosine = 8; }},
       {"router.group_gate", [](auto& c) { c.router.group_gate = true; }},
       {"router.score_bias", [](auto& c) { c.router.score_bias = true; }},
       {"router.weights", [](auto& c) { c.router.weights = combine_weight::ones; }},
       {"expert.intermediate", [](auto& c) { c.expert.intermediate = 20; }},
       {"expert.activation", [](auto& c) { c.expert.activation = activation::relu; }},
       {"expert.limit", [](auto& c) { c.expert.limit = 7; }},
       {"expert.alpha", [](auto& c) { c.expert.alpha = 1.702; }},
       {"expert.up_offset", [](auto& c) { c.expert.up_offset = 1; }},
       {"expert.bias", [](auto& c) { c.expert.bias = true; }},
       {"expert.mixture_bias", [](auto& c) { c.expert.mixture_bias = true; }},
       {"expert.latent", [](auto& c) { c.expert.latent = 8; }},
       {"expert.zero", [](auto& c) { c.expert.zero = 1; }},
       {"expert.copy", [](auto& c) { c.expert.copy = 1; }},
       {"expert.constant", [](auto& c) { c.expert.constant = 1; }},
       {"shared.intermediate", [](auto& c) { c.shared.intermediate = 8; }},
       {"shared.sigmoid_gate", [](auto& c) { c.shared.sigmoid_gate = true; }},
       {"norm.kind", [](auto& c) { c.norm.kind = norm_kind::layer; }},
       {"norm.epsilon", [](auto& c) { c.norm.epsilon = 1e-4; }},
       {"norm.bias", [](auto& c) { c.norm.bias = true; }},
       {"norm.cast", [](auto& c) { c.norm.cast = norm_cast::after_weight; }},
       {"norm.weight_offset", [](auto& c) { c.norm.weight_offset = 1; }},
       {"norms", [](auto& c) { c.norms = norm_placement::post; }},
       {"residual_scale", [](auto& c) { c.residual_scale = 0.5; }},
       {"shortcut", [](auto& c) { c.shortcut = shortcut::opens; }}}},
      {[](auto& c) {
         c.router.groups = 4, c.attention.temperature.scale = 0.1;
         c.attention.scaling = {.kind = rope_scaling_kind::yarn, .factor = 4};
       },
       {{"router.top_groups", [](auto& c) { c.router.top_groups = 2; }},
       {"router.group_worth", [](auto& c) { c.router.group_worth = group_worth::max; }},
       {"router.group_mask", [](auto& c) { c.router.group_mask = group_mask::zero; }},
       {"attention.temperature.floor", [](auto& c) { c.attention.temperature.floor = 16; }},
       {"attention.scaling.factor", [](auto& c) { c.attention.scaling.factor = 3; }},
       {"attention.scaling.original_positions", [](auto& c) { c.attention.scaling.original_positions = 3; }},
       {"attention.scaling.beta_fast", [](auto& c) { c.attention.scaling.beta_fast = 3; }},
       {"attention.scaling.beta_slow", [](auto& c) { c.attention.scaling.beta_slow = 3; }},
       {"attention.scaling.rounded", [](auto& c) { c.attention.scaling.rounded = false; }},
       {"attention.scaling.magnitude", [](auto& c) { c.attention.scaling.magnitude = 3; }}}},
      {[](auto& c) {
         c.attention.kv_heads = 4, c.attention.latent = {.kv_rank = 32, .rope_dim = 8};
         c.attention.scaling.kind = rope_scaling_kind::llama3;
       },
       {{"attention.latent.kv_rank", [](auto& c) { c.attention.latent.kv_rank = 16; }},
       {"attention.latent.q_rank", [](auto& c) { c.attention.latent.q_rank = 8; }},
       {"attention.rotary_dim", [](auto& c) { c.attention.latent.rope_dim = 6; }},
       {"attention.latent.epsilon", [](auto& c) { c.attention.latent.epsilon = 1e-5; }},
       {"attention.latent.q_scale", [](auto& c) { c.attention.latent.q_scale = 2; }},
       {"attention.latent.kv_scale", [](auto& c) { c.attention.latent.kv_scale = 2; }},
       {"attention.scaling.low_freq_factor", [](auto& c) { c.attention.scaling.low_freq_factor = 2; }},
       {"attention.scaling.high_freq_factor", [](auto& c) { c.attention.scaling.high_freq_factor = 3; }}}},
      {[](auto& c) { c.attention.scaling = {.kind = rope_scaling_kind::longrope, .factors = {1, 2}, .long_factors = {1, 2}}; },
       {{"attention.scaling.factors", [](auto& c) { c.attention.scaling.factors = {1, 3}; }},
       {"attention.scaling.long_factors", [](auto& c) { c.attention.scaling.long_factors = {1, 3}; }},
       {"attention.scaling.long_magnitude", [](auto& c) { c.attention.scaling.long_magnitude = 3; }}}},
      {[](auto& c) { c.storage.weights = dtype::e4m3, c.storage.inputs = input_codes::e4m3; },
       {{"storage.inputs", [](auto& c) { c.storage.inputs = input_codes::e4m3_power_of_two; }}}}};
  auto untold = moesaic::detail::fields_of(base.layers[2]);
  for (auto const& [common, changes] : groups)
    for (auto const& [field, make] : changes) {
      auto header = base;
      common(header.layers[2]);
      auto changed = header;
      make(changed.layers[2]);
      auto const sentence = sentence_of([&] { check_configuration(header, changed, "x"); });
      std::string const named = field;
      CAPTURE(named);
      CHECK(sentence.substr(0, sentence.find(" is ")) == "x: layer 2: " + named);
      std::erase_if(untold, [&](auto const& one) { return one.first == named || one.first == "attention.latent.rope_dim"; });   // told as rotary_dim
    }
  for (auto const& [field, ignored] : untold) FAIL_CHECK(field << " is compared, but no change of it here");
  auto sparse_mixed = base, changed_epsilon = base;
  sparse_mixed.mixer_epsilon = 0.01f, changed_epsilon.mixer_epsilon = 0.3;
  CHECK(sentence_of([&] { check_configuration(sparse_mixed, changed_epsilon, "x"); }) ==
        "x: epsilon of a new routing state is 0.010000 in the header, but 0.300000 in the folder");
  CHECK(sentence_of([&] { check_configuration(base, changed_epsilon, "x"); }) == "x: routing policy is top-k in the header, but sparse_mixer in the folder");
  changed_epsilon.mixer_epsilon = 0.01;      // as a file has what the state keeps as a float
  CHECK_NOTHROW(check_configuration(sparse_mixed, changed_epsilon));
  for (auto const& [field, make] : std::initializer_list<std::pair<const char*, change>>{
           {"norm.kind", [](auto& d) { d.decoder.norm.kind = norm_kind::layer; }},
           {"norm.epsilon", [](auto& d) { d.decoder.norm.epsilon = 1e-3; }},
           {"norm.bias", [](auto& d) { d.decoder.norm.bias = true; }},
           {"norm.cast", [](auto& d) { d.decoder.norm.cast = norm_cast::after_weight; }},
           {"norm.weight_offset", [](auto& d) { d.decoder.norm.weight_offset = 1; }},
           {"embedding_scale", [](auto& d) { d.decoder.embedding_scale = 2; }},
           {"logit_scale", [](auto& d) { d.decoder.logit_scale = 2; }},
           {"logit_softcap", [](auto& d) { d.decoder.logit_softcap = 30; }},
           {"head_bias", [](auto& d) { d.decoder.head_bias = true; }}}) {
    auto changed = base;
    make(changed);
    CHECK(sentence_of([&] { check_configuration(base, changed, "x"); }).find(std::string("x: decoder: ") + field + " is ") == 0);
  }
  // The user chooses how weights are stored; 1 / sqrt(16) is what a scale of 0 means.
  auto same = base;
  same.layers[0].storage = {.weights = {dtype::int4, 64, true}, .ffn = dtype::mxfp4, .activations = dtype::bf16};
  same.layers[0].attention.scale = 0.25;
  same.decoder.embedding = dtype::int8;
  CHECK_NOTHROW(check_configuration(base, same));
  // And whether e4m3 multiplies activations as they are.
  auto coded = base;
  for (auto& layer : coded.layers) layer.storage.weights = dtype::e4m3, layer.storage.inputs = input_codes::e4m3;
  auto const coded_in_powers = with(read_huggingface_json(checkpoints + "qwen3_moe/config.json"),
                                    R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}})"_json);
  CHECK_NOTHROW(check_configuration(base, coded));
  CHECK_NOTHROW(check_configuration(coded, base));
  CHECK(sentence_of([&] { check_configuration(coded, describe_huggingface(coded_in_powers), "x"); }) ==
        "x: layer 0: storage.inputs is e4m3 in the header, but e4m3_power_of_two in the folder");
}

TEST_CASE("published configurations are the presets") {
  auto const published = read_huggingface_json(source_dir + "/tests/unit/published_configs.json");
  auto const check = [&]<class Model>(const char* name) {
    CAPTURE(name);
    CHECK(sentence_of([&] { check_configuration<Model>(describe_huggingface(published[name])); }) == "nothing was thrown");
  };
  check.operator()<presets::llama2_7b>("Llama-2-7B");
  check.operator()<presets::llama3_8b>("Llama-3-8B");
  check.operator()<presets::smollm2_135m>("SmolLM2-135M");
  check.operator()<presets::mixtral_8x7b>("Mixtral-8x7B");
  check.operator()<presets::mixtral_8x22b>("Mixtral-8x22B");
  check.operator()<presets::qwen3_30b_a3b>("Qwen3-30B-A3B");
  check.operator()<presets::qwen3_235b_a22b>("Qwen3-235B-A22B");
  check.operator()<presets::olmoe_1b_7b>("OLMoE-1B-7B");
  check.operator()<presets::qwen1_5_moe_a2_7b>("Qwen1.5-MoE-A2.7B");
  check.operator()<presets::deepseek_moe_16b>("DeepSeekMoE-16B");
  CHECK(published.size() == 10);
}

#define MODEL_TYPES                                                                                                                         \
  "dbrx, deepseek, deepseek_v2, deepseek_v3, ernie4_5_moe, glm4_moe, gpt_oss, granitemoe, grok-1, hunyuan_v1_moe, jetmoe, kimi_k2, llama, llama4, " \
  "llama4_text, longcat_flash, minimax_m2, mixtral, olmoe, phimoe, qwen2, qwen2_moe, qwen3, qwen3_moe."
TEST_CASE("what cannot be expressed is answered by one sentence") {
  struct refusal {
    const char *patch, *sentence;
  };
  for (auto const& [patch, sentence] : std::initializer_list<refusal>{
           {R"({"model_type": "bert"})", R"("model_type" is "bert", which is not one of )" MODEL_TYPES},
           {R"({"model_type": null})", R"("model_type" is null, which is not one of )" MODEL_TYPES},
           {R"({"model_type": "jetmoe", "num_key_value_heads": 2, "num_attention_heads": 2})",
            R"("num_attention_heads" is 2, but num_key_value_heads times num_experts_per_tok says otherwise.)"},
           {R"({"model_type": "llama4", "text_config": 7})", R"("text_config" is 7, which should be an object.)"},
           {R"({"model_type": "qwen2_moe", "use_sliding_window": true})",
            R"("sliding_window" is 4096, but which layers have it is not known.)"},
           {R"({"model_type": "qwen3", "layer_types": ["full_attention", "full_attention", "linear_attention"]})",
            R"("layer_types" is "linear_attention", which is not one of full_attention, sliding_attention.)"},
           {R"({"model_type": "olmoe", "clip_qkv": 8.0})",
            R"("clip_qkv" is 8.0, but queries and keys are normalised here after they are clipped.)"},
           {R"({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}})",
            R"("rope_scaling.rope_type" is "dynamic", which is not one of default, linear, llama3, longrope, yarn.)"},
           {R"({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "original_max_position_embeddings": 4096}, "max_position_embeddings": 64})",
            R"("rope_scaling.short_factor" is [1.0], which should be a list of 8 numbers above 0, and at most 128.)"},
           {R"({"rope_scaling": {"rope_type": "linear"}})", R"("rope_scaling.factor" is null, which should be a number above 0.)"},
           {R"({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}})",
            R"("rope_parameters.partial_rotary_factor" is 0.5, and what it means for default rotary frequencies is not known.)"},
           {R"({"hidden_act": "relu"})", R"("hidden_act" is "relu", which is not one of silu, swish, gelu, gelu_new, gelu_pytorch_tanh.)"},
           {R"({"final_logit_softcapping": 30.0})",
            R"("final_logit_softcapping" is 30.0, and what it means for a llama model is not known.)"},
           {R"({"attention_sinks": true})", R"("attention_sinks" is true, and what it means for a llama model is not known.)"},
           {R"({"quantization_config": {"quant_method": "awq"}})",
            R"("quantization_config" is {"quant_method":"awq"}, but read are mxfp4, and fp8 in blocks of 128 times 128.)"},
           {R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static"}})",
            R"("quantization_config" is {"activation_scheme":"static","quant_method":"fp8","weight_b..., but read are inputs whose scales are found as they come, as floats or ue8m0.)"},
           {R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["mlp.gate", "self_attn"]}})",
            R"("quantization_config.modules_to_not_convert" is "self_attn", and its last word is not one of e_score_correction_bias, embed_tokens, gate, )"
            R"(input_layernorm, k_norm, lm_head, norm, post_attention_layernorm, q_norm, router, shared_expert_gate.)"},
           {R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": []}})",
            R"("quantization_config.ignored_layers" is [], and what it means is not known.)"},
           {R"({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": "lm_head"}})",
            R"("quantization_config.modules_to_not_convert" is "lm_head", which should be a list of names.)"},
           {R"({"rope_interleaved": true})",
            R"("rope_interleaved" is true, which changes the result, and block_config has no field for it.)"},
           {R"({"torch_dtype": "int8"})", R"("torch_dtype" is "int8", which is not one of float32, bfloat16, float16.)"},
           {R"({"hidden_size": "64"})", R"("hidden_size" is "64", which should be an integer from 1 to 2147483647.)"},
           {R"({"hidden_size": -64})", R"("hidden_size" is -64, which should be an integer from 1 to 2147483647.)"},
           {R"({"vocab_size": 4294967296})", R"("vocab_size" is 4294967296, which should be an integer from 1 to 2147483647.)"},
           {R"({"num_hidden_layers": 1000000})", R"("num_hidden_layers" is 1000000, more than the 1000 that are read.)"},
           {R"({"model_type": "qwen3_moe", "num_experts": 8, "num_local_experts": 16})",
            R"("num_local_experts" is 16, but num_experts says otherwise.)"},
           {R"({"model_type": "deepseek", "scoring_func": "sigmoid"})", 
            R"("scoring_func" is "sigmoid", which changes the result, and block_config has no field for it.)"}}) {
    auto const config = with(llama, json::parse(patch));
    CHECK(sentence_of([&] { describe_huggingface(config); }) == sentence);
  }

  // Windows that are off, and keys that say nothing.
  for (auto const patch : {R"({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": false})",
                           R"({"model_type": "qwen2", "use_sliding_window": true})",
                           R"({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}})",
                           R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": null,
                              "modules_to_not_convert": ["model.layers.0.mlp.gate", "e_score_correction_bias", "lm_head"]}})",
                           R"({"attention_sinks": null, "partial_rotary_factor": 1.0, "pretraining_tp": 2})"})
    CHECK(sentence_of([&] { describe_huggingface(with(llama, json::parse(patch))); }) == "nothing was thrown");
  CHECK(sentence_of([] { describe_huggingface(json::array()); }) == "The configuration is not a JSON object.");
}

TEST_CASE("loading compares first, then gives the folder's logits") {
  auto const folder = checkpoint(checkpoints + "llama");
  auto cpu = host::pool(1);
  CHECK(sentence_of([&] { load<small_qwen3_moe>(cpu, folder); }) ==
        folder.config_path() + ": number of layers is 3 in the header, but 2 in the folder");

  using model = decoder<small_llama>;
  int loaded_layers = 0;
  auto const weights = load<small_llama>(cpu, folder, [&](int layer) { loaded_layers += layer == loaded_layers; });
  CHECK(loaded_layers == 2);

  auto const expected = safetensors(checkpoints + "llama/expect.safetensors");
  auto const copied = [&](const char* name, auto& out) {
    auto const* const found = expected.find(name);
    REQUIRE(found->bytes == static_cast<std::int64_t>(out.size() * sizeof(out[0])));
    std::memcpy(out.data(), found->data, static_cast<std::size_t>(found->bytes));
  };
  constexpr std::int64_t tokens = 19, vocabulary = small_llama::config.vocabulary;
  std::vector<std::int64_t> stored(tokens);
  copied("input.ids", stored);
  std::vector<std::int32_t> const ids(stored.begin(), stored.end()), sequence(tokens, 0);
  std::vector<std::int32_t> position;
  for (std::int32_t t = 0; t < tokens; ++t) position.push_back(t);
  std::vector<double> want(tokens * vocabulary);
  copied("expect.logits", want);

  auto const cache = model::make_cache(cpu, 1, tokens);
  auto workspace = host::buffer(model::workspace_bytes(tokens, tokens));
  std::vector<float> got(want.size());
  REQUIRE(model::forward(cpu, weights, {ids, sequence, position}, cache, every_token, {got.data(), tokens, vocabulary}, workspace));
  auto const found = test::compare(view<const float>(got.data(), tokens, vocabulary), view<const double>(want.data(), tokens, vocabulary));
  CHECK_MESSAGE(found.worst <= test::stage_tolerance<float>, to_string(found));
}

TEST_CASE("a tensor that nobody would read is refused, whatever it is") {
  temporary_folder const folder;
  auto const path = folder.path.string(), shards = path + "/model.safetensors";
  auto const qwen3_moe = R"({"model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 4, "mlp_only_layers": [1]})"_json;
  auto const mixtral = R"({"model_type": "mixtral", "num_hidden_layers": 2})"_json;
  auto const qwen2_moe = R"({"model_type": "qwen2_moe", "num_hidden_layers": 2})"_json;
  auto const jetmoe = R"({"model_type": "jetmoe", "num_hidden_layers": 2})"_json;
  auto const tied = with(llama, {{"tie_word_embeddings", true}});
  std::vector<float> const number(1);
  auto const open = [&](json const& config, std::vector<std::string> const& names) {
    std::vector<named_tensor> tensors;
    for (auto const& name : names) tensors.push_back({name, dtype::fp32, {1}, {reinterpret_cast<const std::byte*>(number.data()), 4}});
    write_safetensors(shards, tensors);
    folder.write("config.json", config.dump());
    return sentence_of([&] { checkpoint{path}; });
  };
  struct planted {
    json const& config;
    const char* name;
  };
  for (auto const& one : std::initializer_list<planted>{
           {llama, "model.layers.3.input_layernorm.weight"},
           {llama, "model.layers.2.self_attn.k_proj.bias"},
           {llama, "model.layers.0.self_attn.sinks"},
           {llama, "model.layers.0.input_layernorm.bias"},
           {llama, "model.layers.0.mlp.gate_proj.bias"},
           {llama, "model.layers.0.mlp.gate.weight"},
           {llama, "model.layers.0.self_attn.q_norm.weight"},
           {llama, "model.norm.bias"},
           {llama, "lm_head.bias"},
           {llama, "model.layers.00.input_layernorm.weight"},
           {llama, "embed_tokens.weight"},
           {qwen3_moe, "model.layers.0.mlp.gate.e_score_correction_bias"},
           {qwen3_moe, "model.layers.0.mlp.gate.bias"},
           {qwen3_moe, "model.layers.0.mlp.gate_proj.weight"},
           {qwen3_moe, "model.layers.0.mlp.shared_expert.gate_proj.weight"},
           {qwen3_moe, "model.layers.0.mlp.shared_expert_gate.weight"},
           {qwen3_moe, "model.layers.0.mlp.experts.4.up_proj.weight"},
           {qwen3_moe, "model.layers.1.mlp.experts.0.up_proj.weight"},
           {qwen3_moe, "model.layers.0.mlp.experts.0.up_proj.bias"},
           {qwen2_moe, "model.layers.0.self_attn.o_proj.bias"},
           {mixtral, "model.layers.0.block_sparse_moe.experts.8.w1.weight"},
           {mixtral, "model.layers.0.self_attention.experts.bias"},
           {jetmoe, "model.layers.0.self_attn.o_proj.weight"},
           {jetmoe, "model.layers.0.self_attention.experts.router.layer.bias"}}) {
    CAPTURE(one.name);
    CHECK(open(one.config, {"model.norm.weight", one.name}) ==
          shards + ": tensor '" + one.name + "': " + path + "/config.json knows nothing of it");
  }
  // Of two spellings one is read, and so of experts by themselves and stacked.
  CHECK(open(mixtral, {"model.layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight"}) != "nothing was thrown");
  CHECK(open(qwen3_moe, {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.0.up_proj.weight"}) !=
        "nothing was thrown");

  CHECK(open(qwen3_moe, {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"}) == "nothing was thrown");
  CHECK(open(qwen2_moe, {"model.layers.0.mlp.shared_expert.up_proj.weight", "model.layers.0.mlp.shared_expert_gate.weight",
                         "model.layers.1.self_attn.k_proj.bias", "model.layers.1.mlp.experts.59.down_proj.weight"}) ==
        "nothing was thrown");
  CHECK(open(jetmoe, {"model.layers.0.self_attention.experts.bias", "model.layers.0.self_attention.experts.input_linear.weight",
                      "model.layers.0.self_attention.experts.output_linear.weight", "model.layers.0.self_attention.experts.router.layer.weight",
                      "model.layers.1.self_attention.kv_proj.weight", "model.layers.1.mlp.bias", "model.layers.1.mlp.input_linear.weight",
                      "model.layers.1.mlp.output_linear.weight", "model.layers.1.mlp.router.layer.weight"}) == "nothing was thrown");
  // What predicts further tokens is left out: numbered after the model's own layers, of which LongCat-Flash's are two of ours each, or by a name of its own.
  for (auto const& [type, layers, own] : std::initializer_list<std::tuple<const char*, const char*, std::vector<std::string>>>{
           {"deepseek_v3", "num_hidden_layers", {}},
           {"glm4_moe", "num_hidden_layers", {}},
           {"ernie4_5_moe", "num_hidden_layers",
            {"model.mtp_block.0.mlp.up_proj.weight", "model.mtp_emb_norm.0.weight", "model.mtp_hidden_norm.0.weight", "model.mtp_linear_proj.0.weight"}},
           {"longcat_flash", "num_layers", {"model.mtp.embed_tokens.weight", "model.mtp.layers.0.transformer_layer.mlp.up_proj.weight", "model.mtp.norm.weight"}}}) {
    std::string const of = type;
    CAPTURE(of);
    json const config{{"model_type", type}, {layers, 3}, {"num_nextn_predict_layers", 2}};
    CHECK(open(config, {"model.layers.3.eh_proj.weight", "model.layers.4.mlp.up_proj.weight"}) == "nothing was thrown");
    CHECK(open(config, own) == "nothing was thrown");
    for (std::string const beyond : {"model.layers.5.mlp.up_proj.weight", "model.mtpx.weight"})
      CHECK(open(config, {beyond}) == shards + ": tensor '" + beyond + "': " + path + "/config.json knows nothing of it");
  }
  CHECK(open(llama, {"model.mtp.norm.weight"}).find("knows nothing of it") != std::string::npos);
  CHECK(open(tied, {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}) == "nothing was thrown");
  CHECK(open(llama, {"lm_head.weight", "model.embed_tokens.weight", "model.layers.2.mlp.gate_proj.weight"}) == "nothing was thrown");
}

TEST_CASE("a folder that lies is refused where it lies") {
  temporary_folder const folder;
  auto const path = folder.path.string(), file = folder / "config.json";
  auto const open = [&] { return sentence_of([&] { checkpoint{path}; }); };
  std::vector<float> const bias(64, 1.0f);
  auto const bytes = list<const std::byte>{reinterpret_cast<const std::byte*>(bias.data()), 256};
  write_safetensors(folder / "model.safetensors", {{"model.layers.1.self_attn.q_proj.bias", dtype::fp32, {64}, bytes}});

  CHECK(open().find(file) == 0);
  folder.write("config.json", "{\"model_type\": ");
  CHECK(open().find(file + ": expected JSON, found an error") == 0);
  folder.write("config.json", std::string("{}\0{}", 5));
  CHECK(open().find(file + ": expected JSON, found a zero byte") == 0);
  folder.write("config.json", "{\"a\":" + std::string(1000000, '[') + std::string(1000000, ']') + "}");
  CHECK(open() == file + ": expected a configuration, found values nested 32 deep");
  folder.write("config.json", R"({"model_type": "bert"})");
  CHECK(open().find(file + ": \"model_type\" is \"bert\"") == 0);
  folder.write("config.json", llama.dump());
  CHECK(open() == path + "/model.safetensors: tensor 'model.layers.1.self_attn.q_proj.bias': " + file + " knows nothing of it");

  folder.write("config.json", with(llama, {{"attention_bias", true}}).dump());
  CHECK(open() == "nothing was thrown");
  folder.write("generation_config.json", R"({"bos_token_id": 7, "eos_token_id": [8, 9]})");
  CHECK(checkpoint(path).generation().bos == 7);
  CHECK(checkpoint(path).generation().eos == std::vector<std::int64_t>{8, 9});
  folder.write("generation_config.json", R"({"eos_token_id": "end"})");
  CHECK(open() == path + "/generation_config.json: expected a token id as \"eos_token_id\", found string");
}

// For config_from_hf.py: the tables, then for each line of a file what describe_huggingface says of it.
TEST_CASE("a file of configurations is answered" * doctest::skip(std::getenv("MOESAIC_CONFIGURATIONS") == nullptr)) {
  std::ifstream asked(std::getenv("MOESAIC_CONFIGURATIONS"));
  std::ofstream answered(std::getenv("MOESAIC_ANSWERS"));
  answered << json{{"families", moesaic::detail::huggingface_families()}, {"common", moesaic::detail::huggingface_common()}}.dump() << '\n';
  for (std::string line; std::getline(asked, line);) {
    try {
      auto const made = describe_huggingface(json::parse(line));
      answered << moesaic::test::json_text(made.decoder, made.layers, made.mixer_epsilon) << '\n';
    } catch (error const& sentence) {
      answered << json{{"error", sentence.what()}}.dump() << '\n';
    }
  }
  answered.close();
  CHECK(answered.good());
}
