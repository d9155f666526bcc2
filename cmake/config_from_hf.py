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
import pathlib
import re
import struct
import sys
import textwrap


class Inexpressible(ValueError):
    """The configuration says something that block_config cannot; the text is one sentence."""


# --- what the classes of each model_type mean by the keys they have, and by those that a file leaves out ------------------------------

# "keys": the class's defaults; a key that stands neither here nor among the harmless or neutral ones is not known.
# "qkv_bias", "out_bias", "ffn_bias", "renormalize": true, or the key that says so. "experts": the keys that give their number.
# "expert_width": the key of a routed expert's width where it is not intermediate_size.
FAMILIES = json.loads(r"""
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
""")

# "keys": what every family reads. "neutral": legal as long as they have this value. "harmless": they change no result of a forward pass.
COMMON = json.loads(r"""
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
""")

ACTIVATIONS = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu_erf", "gelu_new": "geglu_tanh", "gelu_pytorch_tanh": "geglu_tanh"}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
ROPE_KEYS = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor",
                                                              "original_max_position_embeddings")}
LARGEST = 2**31 - 1
MOST_LAYERS = 1000


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def equal(a, b):
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def fail(key, value, why):
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"))
    raise Inexpressible(f'"{key}" is {shown if len(shown) <= 60 else shown[:60] + "..."}, {why}.')


class Keys:
    """Typed reading of the configuration's keys, each with the class's default."""

    def __init__(self, values):
        self.values = values

    def __contains__(self, key):
        return self.values.get(key) is not None

    def __getitem__(self, key):
        return self.values.get(key)

    def integer(self, key, least=1):
        value = self[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
            fail(key, value, f"which should be an integer from {least} to {LARGEST}")
        return value

    def number(self, key):
        value = self[key]
        if not is_number(value) or not 0 < value < 1e300:
            fail(key, value, "which should be a number above 0")
        return float(value)

    def boolean(self, key):
        if not isinstance(self[key], bool):
            fail(key, self[key], "which should be true or false")
        return self[key]

    def word(self, key, words):
        if not isinstance(self[key], str) or self[key] not in words:
            fail(key, self[key], "which is not one of " + ", ".join(words))
        return words[self[key]]

    def trait(self, family, name):
        said = family.get(name, False)
        return self.boolean(said) if isinstance(said, str) else said


def known_keys(config):
    """The family of the configuration, and its keys over the class's defaults."""
    if not isinstance(config, dict):
        raise Inexpressible("The configuration is not a JSON object.")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        fail("model_type", model_type, "which is not one of " + ", ".join(sorted(FAMILIES)))
    family = FAMILIES[model_type]
    defaults = {**COMMON["keys"], **family["keys"]}
    for key in sorted(config):
        if key in defaults or key in COMMON["harmless"] or config[key] is None:
            continue
        if key not in COMMON["neutral"]:
            fail(key, config[key], f"and what it means for a {model_type} model is not known")
        if not equal(config[key], COMMON["neutral"][key]):
            fail(key, config[key], "which changes the result, and block_config has no field for it")
    return family, Keys({**defaults, **config})


def rope(keys):
    """rope_theta and the scaling, from rope_scaling + rope_theta, or from rope_parameters."""
    old, new = keys["rope_scaling"], keys["rope_parameters"]
    name = "rope_parameters" if new is not None else "rope_scaling"
    values = new if new is not None else old if old is not None else {}
    if not isinstance(values, dict):
        fail(name, values, "which should be an object")
    if old is not None and new is not None and not equal(old, new):
        fail("rope_scaling", old, "but rope_parameters says otherwise")
    inside = Keys({f"{name}.{key}": value for key, value in values.items()})
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE_KEYS:
        fail(f"{name}.rope_type", kind, "which is not one of default, linear, llama3")
    for key in sorted(values):
        if key == "partial_rotary_factor" and equal(values[key], 1.0):
            continue
        if key not in ("rope_type", "type", "rope_theta", *ROPE_KEYS[kind]) and values[key] is not None:
            fail(f"{name}.{key}", values[key], f"and what it means for {kind} rotary frequencies is not known")
    theta = inside.number(f"{name}.rope_theta") if f"{name}.rope_theta" in inside else keys.number("rope_theta")
    if kind == "default":
        return theta, {}
    scaling = {"kind": f"rope_scaling_kind::{kind}", "factor": inside.number(f"{name}.factor")}
    if kind == "llama3":
        original = f"{name}.original_max_position_embeddings"
        scaling |= {"low_freq_factor": inside.number(f"{name}.low_freq_factor"),
                    "high_freq_factor": inside.number(f"{name}.high_freq_factor"),
                    "original_positions": inside.integer(original) if original in inside else keys.integer("max_position_embeddings")}
    return theta, scaling


def refuse_window(keys, family, layers):
    """Attention reads every earlier key: a window that is on for any layer cannot be expressed."""
    why = "but attention here reads every earlier key"
    types = keys["layer_types"]
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            fail("layer_types", types, f"which should be a list of {layers} names")
        for kind in types:
            if not equal(kind, "full_attention"):
                fail("layer_types", kind, why)
    elif keys["sliding_window"] is not None and ("use_sliding_window" not in keys or keys.boolean("use_sliding_window")):
        if "max_window_layers" not in family["keys"] or keys.integer("max_window_layers", 0) < layers:
            fail("sliding_window", keys["sliding_window"], why)


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
    every = keys.integer("moe_layer_freq") if "moe_layer_freq" in keys else 1
    step = keys.integer("decoder_sparse_step") if "decoder_sparse_step" in keys else 1
    only = keys["mlp_only_layers"] if "mlp_only_layers" in keys else []
    if not isinstance(only, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in only):
        fail("mlp_only_layers", only, "which should be a list of layer numbers")
    return [i < first or i % every != 0 or (i + 1) % step != 0 or i in only for i in range(layers)]


def shared_expert(keys):
    if "shared_expert_intermediate_size" in keys and keys.integer("shared_expert_intermediate_size", 0) > 0:
        return {"intermediate": keys["shared_expert_intermediate_size"], "sigmoid_gate": True}
    if "n_shared_experts" in keys and keys.integer("n_shared_experts", 0) > 0:
        width = keys.integer("n_shared_experts") * keys.integer("moe_intermediate_size")
        if width > LARGEST:
            fail("n_shared_experts", keys["n_shared_experts"], "and their summed width is beyond every limit")
        return {"intermediate": width, "sigmoid_gate": False}
    return DEFAULTS["shared"]


def describe(config, layer_weights=None):
    """The model as {"model_type", "decoder": {...}, "layers": [{...}, ...]} with the field names of decoder_config and block_config.

    Enumerators are strings such as "score::softmax"; formats are {"type", "group", "zero_point"}. Raises Inexpressible.
    layer_weights: names of the stored tensors, of the whole model or of one block; they decide nothing, but must not contradict.
    """
    family, keys = known_keys(config)
    layers = keys.integer("num_hidden_layers")
    if layers > MOST_LAYERS:
        fail("num_hidden_layers", layers, f"more than the {MOST_LAYERS} that are read")
    refuse_window(keys, family, layers)
    if keys["clip_qkv"] is not None:
        fail("clip_qkv", keys["clip_qkv"], "but queries, keys and values are not clipped here")
    if keys["scoring_func"] is not None:
        keys.word("scoring_func", {"softmax": "softmax"})

    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    theta, scaling = rope(keys)
    attention = {"heads": heads,
                 "kv_heads": keys.integer("num_key_value_heads") if "num_key_value_heads" in keys else heads,
                 "head_dim": keys.integer("head_dim") if "head_dim" in keys else hidden // heads,
                 "rope_theta": theta,
                 "layout": "rope_layout::half_split",
                 "scaling": DEFAULTS["attention"]["scaling"] | scaling,
                 "qk_norm": "qk_norm::" + family.get("qk_norm", "none"),
                 "qkv_bias": keys.trait(family, "qkv_bias"),
                 "out_bias": keys.trait(family, "out_bias"),
                 "scale": 0.0}
    norm = {"kind": "norm_kind::rms", "epsilon": keys.number("rms_norm_eps"), "bias": False}
    storage = weight_format("fp32")     # as the classes load a file that names no type
    for key in ("torch_dtype", "dtype"):
        if key in keys:
            storage = weight_format(keys.word(key, DTYPES))
    if "torch_dtype" in keys and "dtype" in keys and keys["torch_dtype"] != keys["dtype"]:
        fail("torch_dtype", keys["torch_dtype"], "but dtype says otherwise")

    dense = {"hidden": hidden, "attention": attention, "router": DEFAULTS["router"],
             "expert": {"intermediate": keys.integer("intermediate_size"),
                        "activation": "activation::" + keys.word("hidden_act", ACTIVATIONS),
                        "bias": keys.trait(family, "ffn_bias")},
             "shared": DEFAULTS["shared"], "norm": norm, "storage": DEFAULTS["storage"] | {"weights": storage}}
    experts = expert_count(keys, family, config)
    blocks = [dense] * layers
    if experts > 0:
        moe = dense | {"router": DEFAULTS["router"] | {"experts": experts, "top_k": keys.integer("num_experts_per_tok"),
                                                       "renormalize": keys.trait(family, "renormalize")},
                       "expert": dense["expert"] | {"intermediate": keys.integer(family.get("expert_width", "intermediate_size"))},
                       "shared": shared_expert(keys)}
        blocks = [dense if is_dense else moe for is_dense in dense_layers(keys, layers)]
    description = {"model_type": config["model_type"],
                   "decoder": {"vocabulary": keys.integer("vocab_size"), "norm": norm, "tied_head": keys.boolean("tie_word_embeddings"),
                               "head_bias": False, "embedding": storage},
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
                                  ("mlp.gate_proj.weight", not moe), ("mlp.gate_proj.bias", not moe and block["expert"]["bias"]),
                                  ("mlp.shared_expert_gate.weight", block["shared"]["sigmoid_gate"])):
            if tensor in own and not known:
                raise Inexpressible(f"Layer {i} has a tensor {tensor}, of which the configuration knows nothing.")


# --- the header -------------------------------------------------------------------------------------------------------------------------

def weight_format(type_, group=None, zero_point=False):
    usual = {"e4m3": 128, "int8": 32, "int4": 32, "mxfp4": 32}.get(type_, 0)
    return {"type": type_, "group": usual if group is None else group, "zero_point": zero_point}


# The initialisers of config/block_config.hpp: what a header need not say.
DEFAULTS = {
    "hidden": 0,
    "attention": {"heads": 0, "kv_heads": 0, "head_dim": 0, "rope_theta": 1e4, "layout": "rope_layout::half_split",
                  "scaling": {"kind": "rope_scaling_kind::none", "factor": 1.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_positions": 8192},
                  "qk_norm": "qk_norm::none", "qkv_bias": False, "out_bias": False, "scale": 0.0},
    "router": {"experts": 0, "top_k": 0, "score": "score::softmax", "position": "score_position::before_top_k", "renormalize": False,
               "routed_scale": 1.0, "bias": False, "score_bias": False, "weights": "combine_weight::scores"},
    "expert": {"intermediate": 0, "activation": "activation::swiglu", "bias": False},
    "shared": {"intermediate": 0, "sigmoid_gate": False},
    "norm": {"kind": "norm_kind::rms", "epsilon": 1e-5, "bias": False},
    "storage": {"weights": weight_format("bf16"), "ffn": weight_format("same"), "activations": "dtype::fp32", "cache": "dtype::same"},
}
DECODER_DEFAULTS = {"vocabulary": 0, "norm": DEFAULTS["norm"], "tied_head": False, "head_bias": False, "embedding": weight_format("bf16")}
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


def emit(description, name=None, namespace=None, activations=None, weights=None, ffn=None, embedding=None, cache=None):
    """The header as text. Formats as describe() gives them; activations and cache are names of number types."""
    name = name or description["model_type"]
    chosen = {"weights": weights, "ffn": ffn, "activations": activations and f"dtype::{activations}", "cache": cache and f"dtype::{cache}"}
    chosen = {key: value for key, value in chosen.items() if value}
    blocks = [block | {"storage": block["storage"] | chosen} for block in description["layers"]]
    distinct = [block for i, block in enumerate(blocks) if block not in blocks[:i]]
    sparse = [block["router"]["experts"] > 0 for block in distinct]
    kinds = ["_moe" if s else "_dense" for s in sparse] if len(set(sparse)) > 1 else ["_layer"] * len(distinct)
    specs = [name + kind + (str(kinds[:i].count(kind)) if kinds.count(kind) > 1 else "") for i, kind in enumerate(kinds)]
    decoder = description["decoder"] | ({"embedding": embedding} if embedding else {})
    structs = [f"struct {spec} {{\n{constant('block_config', block, DEFAULTS)}\n}};" for spec, block in zip(specs, distinct)]
    terms = compact(tuple(specs[distinct.index(block)] for block in blocks))
    structs.append(f"struct {name} {{\n{constant('decoder_config', decoder, DECODER_DEFAULTS)}\n"
                   f"  using layers = moesaic::layers<{', '.join(terms)}>;\n}};")
    return "\n".join([f"// {name}, of type {description['model_type']}: written by config_from_hf.py from its config.json.",
                      "#pragma once", "", "#include <moesaic/config/block_config.hpp>", "#include <moesaic/config/layers.hpp>", "",
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
               options.ffn, options.embedding), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
