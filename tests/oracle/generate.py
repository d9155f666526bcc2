#!/usr/bin/env python3
"""Reads a folder of oracle files and writes the C++ tests that run them: shapes, configuration and stages all come from the files.

    python3 tests/oracle/generate.py FOLDER OUT

Writes OUT/*.cpp, prints their names, and leaves in OUT/skipped.txt the families that this version does not have: of those in ROUTED it runs
the router by itself, on the file's own input of it. A file that cannot be read, or a configuration of a supported family or a routing rule
of ROUTED that cannot be expressed, becomes a test that fails with the reason.
"""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cmake"))
import config_from_hf  # noqa: E402

SUPPORTED = ("llama", "llama3", "qwen2", "mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "llama4", "glm4_moe", "minimax_m2", "hunyuan_v1_moe",
             "ernie4_5_moe", "granitemoe", "dbrx", "phimoe", "gpt_oss", "grok1", "deepseek_v2", "deepseek_v3", "longcat_flash",
             "jetmoe")                                # never skipped
ROUTED = ("deepseek_v3", "switch")          # by files or pieces of them, never without their router
LARGEST_HEADER = 100_000_000
CASES_A_FILE = 14             # a translation unit's fixed cost is that of about ten layers


class Unreadable(ValueError):
    """Says why, in one sentence."""


def header_of(path):
    """Tensors and metadata of a safetensors file."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= LARGEST_HEADER:
            raise Unreadable(f"a safetensors file begins with the length of its header, this one with {start.hex() or 'nothing'}")
        text = file.read(length)
    try:
        tensors = json.loads(text.decode())
        metadata = tensors.pop("__metadata__", {})
        assert all(isinstance(value, str) for value in metadata.values())
        return tensors, metadata
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError) as problem:
        raise Unreadable(f"its header is damaged: {problem or 'metadata that is no text'}") from None


def json_of(metadata, key):
    try:
        return json.loads(metadata[key])
    except KeyError:
        raise Unreadable(f"its metadata has no {key}") from None
    except (ValueError, RecursionError):
        raise Unreadable(f"its metadata has a {key} that is no JSON") from None


def quoted(text):
    """A C++ string literal."""
    characters = str(text).encode("utf-8", "surrogateescape")
    return '"' + "".join(chr(c) if 32 <= c < 127 and chr(c) not in '"\\?' else f"\\{c:03o}" for c in characters) + '"'


class Output:
    """Headers with configurations and files with test cases."""

    def __init__(self, folder):
        self.folder = folder
        self.cases = {}           # kind of file -> [(includes, text)]
        self.skipped = set()
        self.routed = set()       # families whose router has a test
        self.written = set()

    def case(self, kind, name, body, includes=()):
        self.cases.setdefault(kind, []).append((includes, f"TEST_CASE({quoted(name)}) {{\n{body}\n}}"))

    def models(self, kind, name, description, types, call, **formats):
        """A test case of one model in several activation types; call(model's namespace) -> statement. Products read activations as they are: files
        are computed so, whatever their models' configurations say of inputs."""
        identifier = f"{config_from_hf.identifier(name)}_{sum(map(len, self.cases.values()))}"
        headers, statements = [], []
        for type_ in types:
            chosen = {key: config_from_hf.weight_format("bf16" if type_ == "bf16" else value) for key, value in formats.items()}
            namespace = f"{identifier}_{type_}"
            self.write(f"{namespace}.hpp", config_from_hf.emit(description, "oracle", namespace, activations=type_, inputs="none", **chosen))
            headers.append(f"{namespace}.hpp")
            statements.append(f"  {call(namespace)}")
        self.case(kind, name, "\n".join(statements), headers)

    def routers(self, name, block, policy, call):
        """A test case of a router, or of a feed-forward, by itself; call(spec) -> statement."""
        identifier = f"{config_from_hf.identifier(name)}_{sum(map(len, self.cases.values()))}"
        headers, statements = [], []
        for type_ in ("fp64", "fp32"):
            namespace = f"{identifier}_{type_}"
            storage = BLOCK_DEFAULTS["storage"] | {"weights": config_from_hf.weight_format("fp32"), "activations": f"dtype::{type_}"}
            self.write(f"{namespace}.hpp", "\n".join([
                f"// A piece of {name}: written by generate.py from the file's rule.", "#pragma once", "",
                "#include <moesaic/config/block_config.hpp>", f"#include <moesaic/route/{policy}.hpp>", "",
                f"namespace {namespace} {{", "", "struct oracle_layer {",
                config_from_hf.constant("block_config", block | {"storage": storage}, BLOCK_DEFAULTS),
                *([] if policy == "policy" else [f"  using routing = moesaic::routing::{policy}<>;"]), "};", "",
                f"}}  // namespace {namespace}", ""]))
            headers.append(f"{namespace}.hpp")
            statements.append(f"  {call(f'{namespace}::oracle_layer')}")
        self.case("routers", name, "\n".join(statements), headers)

    def skip(self, family, name, *paths):
        """A family that this version does not have; its files must be whole all the same."""
        self.skipped.add(family)
        self.case("files", name, "\n".join(f"  moesaic::safetensors({quoted(path)});" for path in paths))

    def write(self, name, text):
        path = self.folder / name
        self.written.add(name)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)

    def finish(self):
        """The .cpp files, a few test cases each; what an earlier run left goes."""
        sources = []
        for kind, cases in sorted(self.cases.items()):
            step = {"layers": CASES_A_FILE, "folders": CASES_A_FILE, "routers": 2 * CASES_A_FILE}.get(kind, len(cases))
            for first in range(0, len(cases), step):
                some = cases[first:first + step]
                name = f"{kind}_{first // step + 1}.cpp"
                harness = {"layers": "run", "folders": "run", "files": "stages"}.get(kind, kind)
                count = f"test cases {first + 1} to {first + len(some)}"
                self.write(name, "\n".join([f"// The {kind} of an oracle folder, {count}; written by tests/oracle/generate.py.",
                                            f"#include <oracle/{harness}.hpp>", "#include <doctest/doctest.h>",
                                            *(f'#include "{header}"' for headers, _ in some for header in headers), "",
                                            "using namespace moesaic::test;", "", "\n\n".join(text for _, text in some), ""]))
                sources.append(name)
        skipped = [family + " (whole layer)" * (family in self.routed) for family in sorted(self.skipped)]
        self.write("skipped.txt", f"skipped: {len(skipped)} ({', '.join(skipped)})\n")
        for old in self.folder.iterdir():
            if old.name not in self.written and old.suffix in (".cpp", ".hpp"):
                old.unlink()
        return sources


def model_of(metadata, config, names):
    """describe() of a file's configuration, or None where the family is not of this version."""
    family = metadata.get("family")
    if not family:
        raise Unreadable("its metadata names no family")
    if family not in SUPPORTED:
        try:
            return config_from_hf.describe(config, names)
        except config_from_hf.Inexpressible:
            return None
    if family == "grok1":                          # the file's own words for what published copies call so
        scale = config.get("attention_multiplier", 1 / config["head_dim"] ** 0.5)
        config = {"model_type": "grok-1", "hidden_size": config["hidden"], "num_hidden_layers": int(metadata.get("layers", "1")),
                  "num_attention_heads": config["heads"], "num_key_value_heads": config["kv_heads"], "head_dim": config["head_dim"],
                  "intermediate_size": config["inter"], "num_experts": config["experts"], "num_experts_per_tok": config["top_k"],
                  "vocab_size": config["vocab"], "attn_output_multiplier": scale, "max_attn_value": config["attn_softcap"],
                  "embedding_multiplier_scale": config["embed_scale"], "output_multiplier_scale": config["logit_scale"],
                  "rms_norm_eps": config["rms_norm_eps"], "rope_theta": config["rope_theta"]}
    if family == "deepseek_v2" and any("q_proj" in name for name in names) and not any("q_a_proj" in name for name in names):
        config = config | {"q_lora_rank": None}    # the files leave out what is null
    return config_from_hf.describe(config, names)


def told_of(metadata, description):
    """What a test is told besides the configuration: names of tensors, and what only this family's files show otherwise."""
    family = metadata["family"]
    fields = [f".names = names_of({quoted(description['model_type'])}{', ' + quoted('layers.{}.') if family == 'grok1' else ''})"]
    if family in ("deepseek_v3", "longcat_flash"):
        fields.append(".pairs = pairs_shown::apart")
    if description["routing"]:
        fields.append(f".epsilon = {description['routing']['epsilon']!r}")
    return "{" + ", ".join(fields) + "}"


def one_file(out, path, name):
    tensors, metadata = header_of(path)
    kind = metadata.get("kind")
    if kind == "function":
        return functions(out, path, name, tensors, metadata)
    if not metadata.get("family"):
        raise Unreadable("its metadata names no family")
    names = [tensor.removeprefix("weight.") for tensor in tensors if tensor.startswith("weight.")]
    description = model_of(metadata, json_of(metadata, "config"), names) if kind != "router" else None
    if description is None:
        return one_piece(out, path, name, tensors, metadata)
    told = told_of(metadata, description)
    types = ["fp64", "fp32"] + ["bf16"] * any(tensor.startswith("expect.bf16.") for tensor in tensors)
    if kind in ("block", "gradient"):            # of a gradient file the forward stages
        layer = int(metadata.get("layer", "0"))
        if not 0 <= layer < json_of(metadata, "config").get("num_layers", len(description["layers"])):
            raise Unreadable(f"its metadata names layer {layer} of {len(description['layers'])}")
        if description["layers"][0]["shortcut"] == "shortcut::opens":        # a layer of the file is two of ours
            first, second = description["layers"][2 * layer:2 * layer + 2]
            return out.models("layers", name, description | {"layers": [first, second]}, types,
                              lambda of: f"check_halves<{of}::oracle_moe, {of}::oracle_dense>({quoted(path)}, {told});",
                              weights="fp32", ffn="fp32")
        description = description | {"layers": [description["layers"][layer]]}
        out.models("layers", name, description, types, lambda of: f"check_block<{of}::oracle_layer>({quoted(path)}, {told});",
                   weights="fp32", ffn="fp32")
    elif kind == "decoder":
        out.models("layers", name, description, types, lambda of: f"check_decoder<{of}::oracle>({quoted(path)}, {told});",
                   weights="fp32", ffn="fp32", embedding="fp32")
    else:
        raise Unreadable(f"its metadata says it is a {kind}, which is no kind of oracle known here")


# --- routers by themselves --------------------------------------------------------------------------------------------------------------

ROUTER_DEFAULTS = config_from_hf.DEFAULTS["router"]
BLOCK_DEFAULTS = config_from_hf.DEFAULTS

# What a rule may say: how scores and weights are taken, and what else there is.
SCORES = {("softmax", "scores"): {}, ("sigmoid", "scores"): {"score": "score::sigmoid"},
          ("logit", "softmax_of_selected"): {"position": "score_position::after_top_k"},
          ("logit", "sigmoid_of_selected"): {"score": "score::sigmoid", "position": "score_position::after_top_k"},
          ("logit", "sparsemixer"): {}}
RULE = {"experts", "k", "router", "score", "weights", "renorm", "renorm_eps", "renorm_min", "scale", "groups", "bias", "router_bias",
        "jitter", "capacity"}
NOT_OF_ROUTERS = {"apply", "expert", "shared", "identity_from", "residual_multiplier"}
WORTH = {"max": "group_worth::max", "top2sum": "group_worth::top2_sum"}
VARIANTS = {"": {}, ".reference": {}, ".hf": {}, ".zero_mask": {"group_mask": "group_mask::zero"}}       # a choice by several rules


def router_of(rule):
    """The router_config of a file's routing rule."""
    unknown = sorted(rule.keys() - RULE - NOT_OF_ROUTERS)
    if unknown:
        raise Unreadable(f"its rule has {unknown[0]}, which is not known here")
    how = rule["score"], rule["weights"]
    if how not in SCORES or rule["renorm"] not in ("none", "sum"):
        raise Unreadable(f"its rule has weights that are not known here: {', '.join(how)}, renormalised by {rule['renorm']}")
    said = config_from_hf.Keys(rule | dict(zip(("groups", "top_groups"), rule.get("groups", (1, 1)))))
    router = SCORES[how] | {"experts": said.integer("experts"), "top_k": said.integer("k"), "routed_scale": said.number("scale"),
                            "bias": "router_bias" in rule, "score_bias": "bias" in rule}
    if rule["renorm"] == "sum":
        router |= {"renormalize": True, "sum_epsilon": said.number("renorm_eps") if "renorm_eps" in said else 0.0,
                   "sum_floor": said.number("renorm_min") if "renorm_min" in said else 0.0}
    if said.integer("groups") > 1:
        router |= {"groups": said.integer("groups"), "top_groups": said.integer("top_groups"), "group_worth": WORTH[rule["groups"][2]]}
    if router["top_k"] > router["experts"] or router["experts"] % said.integer("groups") != 0:
        raise Unreadable(f"its rule chooses {router['top_k']} of {router['experts']} experts in {said.integer('groups')} groups")
    return ROUTER_DEFAULTS | router


def one_piece(out, path, name, tensors, metadata):
    """A file of a family that this version does not have whole: its router, or Switch's feed-forward sublayer, which is all there is."""
    family, kind = metadata["family"], metadata.get("kind")
    pieces = []
    if family in ROUTED and kind in ("block", "gradient", "router"):
        pieces = (switch_sublayer if family == "switch" else routers)(path, json_of(metadata, "rule"), tensors, metadata)
        out.routed.add(family)
    for piece, block, policy, call in pieces:
        out.routers(f"{name}, {piece}", block, policy, call)
    if kind != "router" and not (family == "switch" and pieces):
        out.skip(family, name, path)


def small_block(hidden, router, **more):
    """A layer of which only a piece is used."""
    return BLOCK_DEFAULTS | {"hidden": hidden, "attention": BLOCK_DEFAULTS["attention"] | {"heads": 1, "head_dim": 2}, "router": router,
                             "expert": BLOCK_DEFAULTS["expert"] | {"intermediate": 1}} | more


def routers(path, rule, tensors, metadata):
    """[(piece, block, policy, call)]: the router of the feed-forward, by each rule that the file has results of."""
    router, pieces = router_of(rule), []
    sparse = rule["weights"] == "sparsemixer"
    policy, state = ("sparse_mixer", f", sparse_mixer_state({float(rule['jitter'])!r})") if sparse else ("policy", "")
    weight, source, stage = rule["router"], "input.ffn_norm" if "input.ffn_norm" in tensors else "expect.ffn_norm", "expect.topk_index"
    for suffix in sorted(tensor.removeprefix(stage) for tensor in tensors if tensor.startswith(stage)):
        if suffix not in VARIANTS:
            raise Unreadable(f"it has {stage}{suffix}, by a rule that is not known here")
        names = {"input": source, "weight": weight, "bias": rule.get("router_bias"), "score_bias": rule.get("bias"), "suffix": suffix}
        given = ", ".join(f".{key} = {quoted(value)}" for key, value in names.items() if value)
        hidden = tensors[f"weight.{weight}"]["shape"][1]
        pieces.append((f"router{suffix}", small_block(hidden, router | VARIANTS[suffix]), policy,
                       lambda spec, given=given: f"check_router<{spec}>({quoted(path)}, {{{given}}}{state});"))
    if not pieces:
        raise Unreadable("it has no topk_index")
    if metadata.get("kind") == "router":             # of which these pieces are all there is
        known = {f"expect.{stage}" for stage in ("ffn_norm", "router_logits", "router_scores", "router_choice")}
        known |= {f"expect.{stage}{suffix}" for stage in ("topk_index", "topk_weight") for suffix in VARIANTS}
        for name in sorted(tensors):
            if name.startswith("expect.") and name not in known:
                raise Unreadable(f"it has {name}, which nothing here compares")
    return pieces


def switch_sublayer(path, rule, _, metadata):
    """The same of the feed-forward sublayer of Switch, whole."""
    said, expert = config_from_hf.Keys(json_of(metadata, "config")), rule["expert"]
    if (expert["kind"], expert["act"], expert["format"]) != ("plain", "relu", "list"):
        raise Unreadable("its experts are not those of Switch")
    block = small_block(said.integer("d_model"), router_of(rule),
                        expert=BLOCK_DEFAULTS["expert"] | {"intermediate": said.integer("d_ff"), "activation": "activation::relu"},
                        norm=BLOCK_DEFAULTS["norm"] | {"epsilon": said.number("layer_norm_epsilon")})
    names = {"ffn_norm": "layer_norm.weight", "router": rule["router"], "expert_up": f"{expert['path']}{{}}.wi",
             "expert_down": f"{expert['path']}{{}}.wo"}
    given = ", ".join(f".{key} = {{{{{quoted(value)}}}}}" for key, value in names.items())
    return [("feed-forward", block, "capacity",
             lambda spec: f"check_switch<{spec}>({quoted(path)}, {{{given}}}, {int(rule['capacity'])});")]


# --- folders and functions --------------------------------------------------------------------------------------------------------------

def one_folder(out, folder, name):
    """A model as HuggingFace lays it out on disk, with expect.safetensors."""
    expected = folder / "expect.safetensors"
    if not expected.is_file():
        raise Unreadable("it has no expect.safetensors to compare with")
    _, metadata = header_of(expected)
    configs = sorted(path.name for path in folder.glob("config*.json"))
    names = config_from_hf.stored_names(folder)
    described = [model_of(metadata, config_from_hf.read(folder / config), names) for config in configs]
    if None in described:
        return out.skip(metadata["family"], name, folder, expected)
    for config, description in zip(configs, described):
        if description != described[0]:
            raise Unreadable(f"{config} describes another model than {configs[0]}")
    forms = ", ".join(map(quoted, configs))
    out.models("folders", name, described[0], ["fp64", "fp32"],
               lambda of: f"check_checkpoint<{of}::oracle>({quoted(folder)}, {{{forms}}});")


def functions(out, path, name, tensors, metadata):
    """Tables of functions; those that are of another version are left out."""
    if any(tensor.endswith(".inv_freq") for tensor in tensors):
        cases = []
        for kind, told in json_of(metadata, "kinds").items():
            parameters = told["rope_parameters"]
            turning = config_from_hf.rope(config_from_hf.Keys(told), told["head_dim"], {"partial": True, "alpha": True})
            default = config_from_hf.DEFAULTS["attention"]
            config = ", ".join(config_from_hf.fields(default | turning, default))
            cases.append(f"  check_rope({quoted(path)}, {quoted(kind)}, {told['head_dim']}, {{{config}}});")
        return out.case("functions", name, "\n".join(cases))
    for mark, check in (("silu", "activations"), ("e4m3.decode", "floats"), ("logsumexp", "cross_entropy")):
        if mark in tensors:
            return out.case("functions", name, f"  check_{check}({quoted(path)});")
    raise Unreadable("its tables are of no function known here")


def main():
    source, target = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    out = Output(target)
    folders = {path.parent for path in source.rglob("config.json")} | {path.parent for path in source.rglob("expect.safetensors")}
    work = [(one_folder, folder) for folder in sorted(folders)]
    work += [(one_file, path) for path in sorted(source.rglob("*.safetensors")) if path.parent not in folders]
    for read, path in work:
        name = str(path.relative_to(source)) if path != source else path.name
        try:
            read(out, path, name)
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as problem:      # what a damaged file makes of any line above
            out.case("files", name, f"  FAIL({quoted(f'{path}: {problem}')});")
    if not work:
        out.case("files", "oracle files", f"  FAIL({quoted(f'{source}: no oracle files')});")
    print(";".join(out.finish()))


if __name__ == "__main__":
    main()
