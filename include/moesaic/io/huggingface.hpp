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

namespace moesaic {

/// A whole model at run time: what a Model says at compile time.
struct decoder_description {
  decoder_config decoder;
  std::vector<block_config> layers;

  friend bool operator==(decoder_description const&, decoder_description const&) = default;
};

/// What a parsed config.json describes, in either form (`rope_scaling` and `torch_dtype`, or `rope_parameters` and `dtype`). A key that is
/// absent has the default of the class that `model_type` names. Throws `error`, one sentence about the first key that block_config cannot
/// express or that is not known; no key that could change the result is passed over. `cmake/config_from_hf.py` follows the same rules.
decoder_description describe_huggingface(nlohmann::json const& config);

/// Reads a JSON file; throws `error` with the path.
nlohmann::json read_huggingface_json(std::string const& path);

/// The description of a model type.
template <class Model>
decoder_description description_of() {
  auto made = decoder_description{Model::config, {}};
  for_each_layer<typename Model::layers>([&]<class Spec>(int) { made.layers.push_back(Spec::config); });
  return made;
}

/// Throws `error` that names the first difference between two descriptions: layer, field, and both values. Defaults are compared by what
/// they mean (kv_heads 0 as heads), storage not at all: in which formats to hold weights is the user's choice.
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
  generation_ids const& generation() const { return generation_; }
  safetensors const& tensors() const { return tensors_; }

 private:
  void refuse_unknown_tensors() const;

  std::string path_, config_path_;
  decoder_description description_;
  generation_ids generation_;
  safetensors tensors_;
};

/// The packed weights of a Model, once its configuration is that of the folder: see decoder<Model>::load. Throws `error`.
/// `loaded_layer(int)` is called after each layer.
template <class Model, class Where, class Progress>
auto load(Where& where, checkpoint const& folder, Progress&& loaded_layer) {
  check_configuration<Model>(folder.description(), folder.config_path());
  return decoder<Model>::load(where, folder, tensor_names{}, std::forward<Progress>(loaded_layer));
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
  "deepseek": {
    "keys": {"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30, "num_attention_heads": 32,
             "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "attention_bias": false, "moe_intermediate_size": 1407,
             "n_routed_experts": null, "n_shared_experts": null, "num_experts_per_tok": null, "norm_topk_prob": false,
             "scoring_func": "softmax", "first_k_dense_replace": 0, "moe_layer_freq": 1},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "renormalize": "norm_topk_prob",
    "experts": ["n_routed_experts"], "expert_width": "moe_intermediate_size"},
  "llama": {
    "keys": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": null, "rms_norm_eps": 1e-6, "attention_bias": false, "mlp_bias": false},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "ffn_bias": "mlp_bias"},
  "mixtral": {
    "keys": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": null,
             "num_local_experts": 8, "num_experts": null, "num_experts_per_tok": 2},
    "renormalize": true, "experts": ["num_local_experts", "num_experts"]},
  "olmoe": {
    "keys": {"vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16,
             "num_key_value_heads": null, "rms_norm_eps": 1e-5, "attention_bias": false, "clip_qkv": null,
             "num_experts": 64, "num_local_experts": null, "num_experts_per_tok": 8, "norm_topk_prob": false},
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "renormalize": "norm_topk_prob", "qk_norm": "full_width",
    "experts": ["num_experts", "num_local_experts"]},
  "qwen2": {
    "keys": {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 32, "rms_norm_eps": 1e-6,
             "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28, "layer_types": null},
    "qkv_bias": true},
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
    "qkv_bias": "attention_bias", "out_bias": "attention_bias", "qk_norm": "per_head"},
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
           "rope_theta": 10000.0, "rope_scaling": null, "rope_parameters": null, "max_position_embeddings": null},
  "neutral": {"add_cross_attention": false, "chunk_size_feed_forward": 0, "is_encoder_decoder": false, "partial_rotary_factor": 1.0,
              "pruned_heads": {}, "rope_interleaved": false, "tie_encoder_decoder": false},
  "harmless": ["_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map",
               "aux_loss_alpha", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "diversity_penalty",
               "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
               "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range", "is_decoder",
               "is_llama_config", "label2id", "length_penalty", "max_length", "max_window_layers", "min_length", "no_repeat_ngram_size",
               "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
               "output_router_logits", "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
               "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "router_aux_loss_coef",
               "router_jitter_noise", "sep_token_id", "seq_aux", "suppress_tokens", "task_specific_params", "temperature",
               "tokenizer_class", "top_k", "top_p", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
               "use_cache"]
}
)json");
  return table;
}

[[noreturn]] inline void refuse_key(std::string const& key, nlohmann::json const& value, std::string const& why) {
  constexpr std::size_t longest = 60;
  auto const shown = value.dump(-1, ' ', true);
  throw error("\"" + key + "\" is " + (shown.size() <= longest ? shown : shown.substr(0, longest) + "...") + ", " + why + ".");
}

/// Typed reading of the keys, each with the class's default.
class huggingface_keys {
 public:
  static constexpr int largest = 2147483647;
  template <class T>
  using words = std::vector<std::pair<const char*, T>>;

  explicit huggingface_keys(nlohmann::json values) : values_(std::move(values)) {}

  nlohmann::json const& operator[](std::string const& key) const {
    static nlohmann::json const absent;
    auto const at = values_.find(key);
    return at != values_.end() ? *at : absent;
  }
  bool has(std::string const& key) const { return !(*this)[key].is_null(); }

  int integer(std::string const& key, int least = 1) const {
    auto const& value = (*this)[key];
    auto const fits = [&](auto number) { return std::cmp_greater_equal(number, least) && std::cmp_less_equal(number, largest); };
    if (!(value.is_number_unsigned() ? fits(value.get<std::uint64_t>()) : value.is_number_integer() && fits(value.get<std::int64_t>())))
      refuse_key(key, value, "which should be an integer from " + std::to_string(least) + " to " + std::to_string(largest));
    return value.get<int>();
  }
  double number(std::string const& key) const {
    auto const& value = (*this)[key];
    if (!value.is_number() || !(value.get<double>() > 0) || !(value.get<double>() < 1e300))
      refuse_key(key, value, "which should be a number above 0");
    return value.get<double>();
  }
  bool boolean(std::string const& key) const {
    auto const& value = (*this)[key];
    if (!value.is_boolean()) refuse_key(key, value, "which should be true or false");
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
    refuse_key(key, value, "which is not one of " + list);
  }
  /// What the family says: true, or the key that says it, or nothing (false).
  bool trait(nlohmann::json const& family, const char* name) const {
    auto const said = family.find(name);
    if (said == family.end()) return false;
    return said->is_string() ? boolean(said->get<std::string>()) : said->get<bool>();
  }

 private:
  nlohmann::json values_;
};

/// The family's keys under those of the file; refuses a key that is not known, or that must be neutral and is not.
inline huggingface_keys known_keys(nlohmann::json const& config, nlohmann::json const& family) {
  auto const& common = huggingface_common();
  auto values = common["keys"];
  values.update(family["keys"]);
  auto const harmless = [&](std::string const& key) {
    for (auto const& known : common["harmless"])
      if (known == key) return true;
    return false;
  };
  for (auto const& [key, value] : config.items()) {
    if (values.contains(key) || harmless(key) || value.is_null()) continue;
    auto const neutral = common["neutral"].find(key);
    if (neutral == common["neutral"].end())
      refuse_key(key, value, "and what it means for a " + config["model_type"].get<std::string>() + " model is not known");
    if (value != *neutral) refuse_key(key, value, "which changes the result, and block_config has no field for it");
  }
  values.update(config);
  return huggingface_keys(std::move(values));
}

/// Fills rope_theta and scaling, from rope_scaling + rope_theta, or from rope_parameters.
inline void read_rope(huggingface_keys const& keys, attention_config& attention) {
  auto const &old = keys["rope_scaling"], &now = keys["rope_parameters"];
  auto const name = std::string(now.is_null() ? "rope_scaling" : "rope_parameters");
  auto const values = !now.is_null() ? now : !old.is_null() ? old : nlohmann::json::object();
  if (!values.is_object()) refuse_key(name, values, "which should be an object");
  if (!old.is_null() && !now.is_null() && old != now) refuse_key("rope_scaling", old, "but rope_parameters says otherwise");

  auto const in = [&](std::string const& key) { return name + "." + key; };
  auto prefixed = nlohmann::json::object();
  for (auto const& [key, value] : values.items()) prefixed[in(key)] = value;
  auto const inside = huggingface_keys(std::move(prefixed));

  auto const kind = values.value(values.contains("rope_type") ? "rope_type" : "type", nlohmann::json("default"));
  bool const linear = kind == "linear", llama3 = kind == "llama3";
  if (kind != "default" && !linear && !llama3) refuse_key(in("rope_type"), kind, "which is not one of default, linear, llama3");
  for (auto const& [key, value] : values.items()) {
    bool const known = key == "rope_type" || key == "type" || key == "rope_theta" || (key == "factor" && kind != "default") ||
                       (llama3 && (key == "low_freq_factor" || key == "high_freq_factor" || key == "original_max_position_embeddings"));
    if (!known && !value.is_null() && !(key == "partial_rotary_factor" && value == 1.0))
      refuse_key(in(key), value, "and what it means for " + kind.get<std::string>() + " rotary frequencies is not known");
  }
  attention.rope_theta = inside.has(in("rope_theta")) ? inside.number(in("rope_theta")) : keys.number("rope_theta");
  auto& scaling = attention.scaling;
  if (kind == "default") return;
  scaling.kind = llama3 ? rope_scaling_kind::llama3 : rope_scaling_kind::linear;
  scaling.factor = inside.number(in("factor"));
  if (!llama3) return;
  scaling.low_freq_factor = inside.number(in("low_freq_factor"));
  scaling.high_freq_factor = inside.number(in("high_freq_factor"));
  auto const original = in("original_max_position_embeddings");
  scaling.original_positions = inside.has(original) ? inside.integer(original) : keys.integer("max_position_embeddings");
}

/// Attention reads every earlier key: a window that is on for any layer cannot be expressed.
inline void refuse_window(huggingface_keys const& keys, nlohmann::json const& family, int layers) {
  constexpr auto why = "but attention here reads every earlier key";
  auto const& types = keys["layer_types"];
  if (!types.is_null()) {
    if (!types.is_array() || types.size() != static_cast<std::size_t>(layers))
      refuse_key("layer_types", types, "which should be a list of " + std::to_string(layers) + " names");
    for (auto const& kind : types)
      if (kind != "full_attention") refuse_key("layer_types", kind, why);
  } else if (keys.has("sliding_window") && (!keys.has("use_sliding_window") || keys.boolean("use_sliding_window"))) {
    if (!family["keys"].contains("max_window_layers") || keys.integer("max_window_layers", 0) < layers)
      refuse_key("sliding_window", keys["sliding_window"], why);
  }
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
  int const every = keys.has("moe_layer_freq") ? keys.integer("moe_layer_freq") : 1;
  int const step = keys.has("decoder_sparse_step") ? keys.integer("decoder_sparse_step") : 1;
  auto const only = keys.has("mlp_only_layers") ? keys["mlp_only_layers"] : nlohmann::json::array();
  bool numbers = only.is_array();
  if (numbers)
    for (auto const& layer : only) numbers = numbers && layer.is_number_integer();
  if (!numbers) refuse_key("mlp_only_layers", only, "which should be a list of layer numbers");

  std::vector<bool> dense(static_cast<std::size_t>(layers));
  for (int i = 0; i < layers; ++i) dense[static_cast<std::size_t>(i)] = i < first || i % every != 0 || (i + 1) % step != 0;
  for (auto const& layer : only)
    for (int i = 0; i < layers; ++i)
      if (layer == i) dense[static_cast<std::size_t>(i)] = true;
  return dense;
}

inline shared_config read_shared(huggingface_keys const& keys) {
  if (keys.has("shared_expert_intermediate_size") && keys.integer("shared_expert_intermediate_size", 0) > 0)
    return {keys.integer("shared_expert_intermediate_size"), true};
  if (keys.has("n_shared_experts") && keys.integer("n_shared_experts", 0) > 0) {
    auto const width = std::int64_t{keys.integer("n_shared_experts")} * keys.integer("moe_intermediate_size");
    if (width > huggingface_keys::largest)
      refuse_key("n_shared_experts", keys["n_shared_experts"], "and their summed width is beyond every limit");
    return {static_cast<int>(width), false};
  }
  return {};
}

}  // namespace detail

inline decoder_description describe_huggingface(nlohmann::json const& config) {
  using detail::refuse_key;
  if (!config.is_object()) throw error("The configuration is not a JSON object.");
  auto const& families = detail::huggingface_families();
  auto const model_type = config.contains("model_type") ? config["model_type"] : nlohmann::json();
  if (!model_type.is_string() || !families.contains(model_type.get<std::string>())) {
    std::string known;
    for (auto const& [name, family] : families.items()) known += (known.empty() ? "" : ", ") + name;
    refuse_key("model_type", model_type, "which is not one of " + known);
  }
  auto const& family = families[model_type.get<std::string>()];
  auto const keys = detail::known_keys(config, family);

  constexpr int most_layers = 1000;
  int const layers = keys.integer("num_hidden_layers");
  if (layers > most_layers) refuse_key("num_hidden_layers", layers, "more than the " + std::to_string(most_layers) + " that are read");
  detail::refuse_window(keys, family, layers);
  if (keys.has("clip_qkv")) refuse_key("clip_qkv", keys["clip_qkv"], "but queries, keys and values are not clipped here");
  if (keys.has("scoring_func")) keys.word<score>("scoring_func", {{"softmax", score::softmax}});

  block_config dense;
  dense.hidden = keys.integer("hidden_size");
  auto& attention = dense.attention;
  attention.heads = keys.integer("num_attention_heads");
  detail::read_rope(keys, attention);
  attention.kv_heads = keys.has("num_key_value_heads") ? keys.integer("num_key_value_heads") : attention.heads;
  attention.head_dim = keys.has("head_dim") ? keys.integer("head_dim") : dense.hidden / attention.heads;
  auto const norm = family.value("qk_norm", "none");
  attention.qk_norm = norm == "per_head" ? qk_norm::per_head : norm == "full_width" ? qk_norm::full_width : qk_norm::none;
  attention.qkv_bias = keys.trait(family, "qkv_bias");
  attention.out_bias = keys.trait(family, "out_bias");
  dense.norm.epsilon = keys.number("rms_norm_eps");
  dense.storage.weights = dtype::fp32;   // as the classes load a file that names no type
  for (auto const key : {"torch_dtype", "dtype"})
    if (keys.has(key))
      dense.storage.weights = keys.word<dtype>(key, {{"float32", dtype::fp32}, {"bfloat16", dtype::bf16}, {"float16", dtype::fp16}});
  if (keys.has("torch_dtype") && keys.has("dtype") && keys["torch_dtype"] != keys["dtype"])
    refuse_key("torch_dtype", keys["torch_dtype"], "but dtype says otherwise");
  dense.expert.intermediate = keys.integer("intermediate_size");
  dense.expert.activation = keys.word<activation>("hidden_act", {{"silu", activation::swiglu},
                                                                 {"swish", activation::swiglu},
                                                                 {"gelu", activation::geglu_erf},
                                                                 {"gelu_new", activation::geglu_tanh},
                                                                 {"gelu_pytorch_tanh", activation::geglu_tanh}});
  dense.expert.bias = keys.trait(family, "ffn_bias");

  auto made = decoder_description{{}, std::vector<block_config>(static_cast<std::size_t>(layers), dense)};
  if (int const experts = detail::expert_count(keys, family, config); experts > 0) {
    auto moe = dense;
    moe.router.experts = experts;
    moe.router.top_k = keys.integer("num_experts_per_tok");
    moe.router.renormalize = keys.trait(family, "renormalize");
    moe.expert.intermediate = keys.integer(family.value("expert_width", "intermediate_size"));
    moe.shared = detail::read_shared(keys);
    auto const is_dense = detail::dense_layers(keys, layers);
    for (std::size_t i = 0; i < made.layers.size(); ++i)
      if (!is_dense[i]) made.layers[i] = moe;
  }
  made.decoder.vocabulary = keys.integer("vocab_size");
  made.decoder.norm = dense.norm;
  made.decoder.tied_head = keys.boolean("tie_word_embeddings");
  made.decoder.embedding = dense.storage.weights;
  return made;
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
  bool const scaled = scaling.kind != rope_scaling_kind::none, llama3 = scaling.kind == rope_scaling_kind::llama3;
  auto const only = [](bool when, auto value) { return when ? text_of(value) : std::string(); };
  return {{"hidden", text_of(c.hidden)},
          {"attention.heads", text_of(s.heads)},
          {"attention.kv_heads", text_of(s.kv_heads)},
          {"attention.head_dim", text_of(s.head_dim)},
          {"attention.rope_theta", text_of(a.rope_theta)},
          {"attention.layout", text_of(a.layout)},
          {"attention.scaling.kind", text_of(scaling.kind)},
          {"attention.scaling.factor", only(scaled, scaling.factor)},
          {"attention.scaling.low_freq_factor", only(llama3, scaling.low_freq_factor)},
          {"attention.scaling.high_freq_factor", only(llama3, scaling.high_freq_factor)},
          {"attention.scaling.original_positions", only(llama3, scaling.original_positions)},
          {"attention.qk_norm", text_of(a.qk_norm)},
          {"attention.qkv_bias", text_of(a.qkv_bias)},
          {"attention.out_bias", text_of(a.out_bias)},
          {"attention.scale", text_of(a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(s.head_dim)))},
          {"router.experts", text_of(r.experts)},
          {"router.top_k", text_of(r.top_k)},
          {"router.score", text_of(r.score)},
          {"router.position", text_of(r.position)},
          {"router.renormalize", text_of(r.renormalize)},
          {"router.routed_scale", text_of(r.routed_scale)},
          {"router.bias", text_of(r.bias)},
          {"router.score_bias", text_of(r.score_bias)},
          {"router.weights", text_of(r.weights)},
          {"expert.intermediate", text_of(s.widths)},
          {"expert.activation", text_of(c.expert.activation)},
          {"expert.bias", text_of(c.expert.bias)},
          {"expert.zero", text_of(c.expert.zero)},
          {"expert.copy", text_of(c.expert.copy)},
          {"expert.constant", text_of(c.expert.constant)},
          {"shared.intermediate", text_of(c.shared.intermediate)},
          {"shared.sigmoid_gate", text_of(c.shared.sigmoid_gate)},
          {"norm.kind", text_of(c.norm.kind)},
          {"norm.epsilon", text_of(c.norm.epsilon)},
          {"norm.bias", text_of(c.norm.bias)}};
}

inline field_list fields_of(decoder_config const& c) {
  return {{"vocabulary", text_of(c.vocabulary)},
          {"norm.kind", text_of(c.norm.kind)},
          {"norm.epsilon", text_of(c.norm.epsilon)},
          {"norm.bias", text_of(c.norm.bias)},
          {"tied_head", text_of(c.tied_head)},
          {"head_bias", text_of(c.head_bias)}};
}

inline void refuse_difference(field_list const& header, field_list const& folder, std::string const& where) {
  for (std::size_t i = 0; i < header.size(); ++i)
    if (header[i].second != folder[i].second)
      throw error(where + header[i].first + " is " + header[i].second + " in the header, but " + folder[i].second + " in the folder");
}

}  // namespace detail

inline void check_configuration(decoder_description const& header, decoder_description const& folder, std::string const& where) {
  auto const count = [](decoder_description const& d) { return detail::field_list{{"number of layers", std::to_string(d.layers.size())}}; };
  detail::refuse_difference(count(header), count(folder), where + ": ");
  for (std::size_t i = 0; i < header.layers.size(); ++i)
    if (header.layers[i] != folder.layers[i])
      detail::refuse_difference(detail::fields_of(header.layers[i]), detail::fields_of(folder.layers[i]),
                                where + ": layer " + std::to_string(i) + ": ");
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

inline checkpoint::checkpoint(std::string const& folder, std::string const& config_file)
    : path_(folder), config_path_((std::filesystem::path(folder) / config_file).string()), tensors_(folder) {
  auto const config = read_huggingface_json(config_path_);
  try {
    description_ = describe_huggingface(config);
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
inline std::vector<tensor const*> tensors_read(decoder_description const& model, safetensors const& from) {
  auto const n = tensor_names{};
  std::vector<tensor const*> read;
  std::string prefix;
  auto const take = [&](spellings const& name, const char* suffix = "", int number = 0) {
    for (auto const* option : name.options) {
      if (option == nullptr) return false;
      auto full = prefix + option + suffix;
      if (auto const hole = full.find("{}"); hole != std::string::npos) full.replace(hole, 2, std::to_string(number));
      if (auto const* found = from.find(full)) return read.push_back(found), true;
    }
    return false;
  };
  auto const matrix = [&](spellings const& name, bool bias, int number = 0) {
    take(name, ".weight", number);
    if (bias) take(name, ".bias", number);
  };
  auto const feed_forward = [&](expert_config const& c, spellings const& gate, spellings const& up, spellings const& down, int number = 0) {
    if (gated(c.activation)) matrix(gate, c.bias, number);
    matrix(up, c.bias, number), matrix(down, c.bias, number);
  };

  take(n.embedding), take(n.final_norm);
  if (model.decoder.norm.bias) take(n.final_norm_bias);
  if (!model.decoder.tied_head) take(n.head);
  if (model.decoder.head_bias) take(n.head_bias);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    auto const& c = model.layers[i];
    prefix = n.layer.options[0];
    prefix.replace(prefix.find("{}"), 2, std::to_string(i));
    take(n.attention_norm), take(n.ffn_norm);
    if (c.norm.bias) take(n.attention_norm_bias), take(n.ffn_norm_bias);
    for (auto const* projection : {&n.q, &n.k, &n.v}) matrix(*projection, c.attention.qkv_bias);
    matrix(n.out, c.attention.out_bias);
    if (c.attention.qk_norm != qk_norm::none) take(n.q_norm), take(n.k_norm);
    if (c.router.experts == 0) {
      feed_forward(c.expert, n.gate, n.up, n.down);
      continue;
    }
    take(n.router);
    if (c.router.bias) take(n.router_bias);
    if (c.router.score_bias) take(n.score_bias);
    if (!c.expert.bias && take(n.stacked_gate_up)) take(n.stacked_down);
    else
      for (int e = 0; e < shapes(c).feed_forwards; ++e) feed_forward(c.expert, n.expert_gate, n.expert_up, n.expert_down, e);
    if (c.shared.intermediate != 0) feed_forward(c.expert, n.shared_gate_proj, n.shared_up_proj, n.shared_down_proj);
    if (c.shared.sigmoid_gate) take(n.shared_gate);
  }
  std::sort(read.begin(), read.end());
  return read;
}

/// Tensors that files carry and nobody needs: rotary frequencies, which the configuration gives, and a tied head, which is the embedding.
inline bool needless(std::string_view name, decoder_description const& model) {
  return name.ends_with(".rotary_emb.inv_freq") || (model.decoder.tied_head && name == tensor_names{}.head.options[0]);
}

}  // namespace detail

// A tensor that nobody reads would be left out of the sum. (Loading finds what is missing.)
inline void checkpoint::refuse_unknown_tensors() const {
  auto const read = detail::tensors_read(description_, tensors_);
  for (auto const& entry : tensors_)
    if (!std::binary_search(read.begin(), read.end(), &entry.value) && !detail::needless(entry.name, description_))
      throw error(where(entry.name) + ": tensor " + detail::in_quotes(entry.name) + ": " + config_path_ + " knows nothing of it");
}

}  // namespace moesaic
