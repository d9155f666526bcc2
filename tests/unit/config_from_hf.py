"""Headers of cmake/config_from_hf.py: both forms of config.json give one, it compiles into the folder's model, and the C++ reader agrees on
every config.json, right or wrong. `CXX` names the compiler, `MOESAIC_UNIT` the program of the unit tests, which asks the C++ reader."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import copy
import io
import itertools
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "tests/oracle/data/checkpoints"
FOLDERS = ("llama", "llama_old", "mixtral", "olmoe", "qwen2", "qwen2_moe", "qwen3_moe")
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "cmake"))
import config_from_hf as hf  # noqa: E402

PUBLISHED = json.loads((ROOT / "tests/unit/published_configs.json").read_text())
# Counted by instantiating the HuggingFace classes; DeepSeekMoE-16B by its own code.
PARAMETERS = {"Llama-2-7B": 6738415616, "Llama-3-8B": 8030261248, "SmolLM2-135M": 134515008, "Mixtral-8x7B": 46702792704,
              "Mixtral-8x22B": 140630071296, "Qwen3-30B-A3B": 30532122624, "Qwen3-235B-A22B": 235093634560, "OLMoE-1B-7B": 6919161856,
              "Qwen1.5-MoE-A2.7B": 14315784192, "DeepSeekMoE-16B": 16375728128}

# LongRoPE as Phi-3.5-MoE has it, for so few pairs that its lists are short.
TWO_LISTS = {"model_type": "phimoe", "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096,
             "router_jitter_noise": 0.3, "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.0, 3.0, 9.5, 27.0], "short_mscale": 1.25,
                              "long_mscale": 1.5, "original_max_position_embeddings": 1024}}

# Prints what the generated headers compile into, a model a line.
PROGRAM = r"""
#include <cstdio>
#include <type_traits>
#include <vector>

#include <moesaic/config/layers.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/route/sparse_mixer.hpp>
@HEADERS@
#include <unit/described.hpp>

template <class Model>
void compiled(const char* label) {
  static_assert(moesaic::validated<Model>::config.vocabulary > 0);
  std::vector<moesaic::block_config> layers;
  double epsilon = 0;
  moesaic::for_each_layer<typename Model::layers>([&]<class Spec>(int) {
    layers.push_back(moesaic::validated<Spec>::config);
    using policy = moesaic::policy_of<Spec>;
    if constexpr (std::is_base_of_v<moesaic::routing::sparse_mixer<>, policy>) epsilon = typename policy::state{}.epsilon;
  });
  std::printf("{\"label\": \"%s\", \"compiled\": %s}\n", label, moesaic::test::json_text(Model::config, layers, epsilon).c_str());
}
int main() {
  @COMPILED@
}
"""


def configs():
    """Every config.json at hand, by a label that is an identifier."""
    for folder, file in itertools.product(FOLDERS, ("config.json", "config.v5.json")):
        yield hf.identifier(f"{folder}_{file[:-5]}"), json.loads((CHECKPOINTS / folder / file).read_text())
    for name, config in PUBLISHED.items():
        yield hf.identifier(name), config
    yield "two_lists", TWO_LISTS
    for family in hf.FAMILIES:                  # all defaults; deepseek has no expert then
        more = {"num_experts_per_tok": 6} if family == "deepseek_v2" else {}
        yield hf.identifier("default_" + family), {"model_type": family} | more


def answer(config):
    try:
        described = hf.describe(config)
        return {"decoder": described["decoder"], "routing": described["routing"], "layers": described["layers"]}
    except hf.Inexpressible as sentence:
        return {"error": str(sentence)}


def answers_of_the_cpp_reader(folder, questions):
    """Its tables, then what it makes of each configuration: a test case of the unit tests' program, which reads them a line each."""
    asked, answered = folder / "asked", folder / "answered"
    asked.write_text("".join(json.dumps(question) + "\n" for question in questions))
    subprocess.run([os.environ["MOESAIC_UNIT"], "--test-case=a file of configurations is answered"], stdout=subprocess.DEVNULL, check=True,
                   env={**os.environ, "MOESAIC_CONFIGURATIONS": str(asked), "MOESAIC_ANSWERS": str(answered)})
    return [json.loads(line) for line in answered.read_text().splitlines()]


def mutations(config):
    """A configuration with one key wrong, missing or added at a time."""
    values = [None, True, False, 0, 1, 2, -1, 3.5, 2**31, "gelu", "default", [], [0], {}, {"rope_type": "linear", "factor": 2},
              {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}, {"rope_type": "yarn"},
              {"rope_type": "yarn", "factor": 40, "mscale": 1, "mscale_all_dim": 0.7, "original_max_position_embeddings": 64},
              {"rope_type": "dynamic", "alpha": 1000.0}, [1, 1], {"quant_method": "fp8", "weight_block_size": [128, 128]},
              {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static"},
              {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "float8_e4m3fn", "scale_fmt": "ue8m0"}]
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    for method, more in itertools.product((fp8, {"quant_method": "mxfp4"}), (
            {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}, {"modules_to_not_convert": ["gate", "e_score_correction_bias"]},
            {"modules_to_not_convert": ["mlp.gate_proj"]}, {"modules_to_not_convert": ["gate", 7]}, {"modules_to_not_convert": "gate"},
            {"modules_to_not_convert": None, "ignored_layers": None}, {"ignored_layers": []}, {"scale_fmt": "ue8m0", "kv_cache_scheme": {"a": 1}})):
        yield {**config, "quantization_config": method | more}
    keys = {*config, *hf.COMMON["keys"], *hf.COMMON["neutral"], *hf.FAMILIES[config["model_type"]]["keys"], "attention_sinks"}
    for key in sorted(keys):
        if key in config:
            yield {k: v for k, v in config.items() if k != key}
        for value in values:
            yield {**config, key: value}
    for key in ("rope_scaling", "rope_parameters"):
        for inner, value in itertools.product(config.get(key) or {}, [None, 0, "x", 2]):
            changed = copy.deepcopy(config)
            changed[key][inner] = value
            yield changed


class Header(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.configs = dict(configs())
        cls.folder = tempfile.TemporaryDirectory()
        path = pathlib.Path(cls.folder.name)
        for label, config in cls.configs.items():
            (path / f"{label}.hpp").write_text(hf.emit(hf.describe(config), "model", "generated::" + label))
        program = PROGRAM.replace("@HEADERS@", "\n".join(f'#include "{label}.hpp"' for label in cls.configs))
        program = program.replace("@COMPILED@", "\n  ".join(f'compiled<generated::{label}::model>("{label}");' for label in cls.configs))
        (path / "program.cpp").write_text(program)
        subprocess.run([*os.environ.get("CXX", "c++").split(), "-std=c++20", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror",
                        f"-I{ROOT}/include", f"-I{ROOT}/tests", str(path / "program.cpp"), "-o", str(path / "program")], check=True)
        lines = subprocess.run([str(path / "program")], text=True, stdout=subprocess.PIPE, check=True).stdout.splitlines()
        cls.compiled = {line["label"]: line["compiled"] for line in map(json.loads, lines)}
        cls.questions = list(cls.configs.values())
        for name in ("llama_config", "mixtral_config", "olmoe_config", "qwen2_config", "qwen2_moe_config", "qwen3_moe_config_v5",
                     "deepseekmoe_16b", "default_qwen3", "default_deepseek", "default_dbrx", "default_gpt_oss", "default_llama4_text",
                     "default_hunyuan_v1_moe", "default_glm4_moe", "two_lists", "default_deepseek_v3", "default_longcat_flash", "default_minimax_m2",
                     "default_jetmoe"):
            cls.questions += mutations(cls.configs[name])
        cls.tables, *cls.answers = answers_of_the_cpp_reader(path, cls.questions)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_both_forms_give_the_same_header(self):
        for folder in FOLDERS:
            headers = [run_main(str(CHECKPOINTS / folder / file)) for file in ("config.json", "config.v5.json")]
            self.assertEqual(headers[0], headers[1])
            self.assertEqual(headers[0], run_main(str(CHECKPOINTS / folder)))
            self.assertEqual(headers[0][0], 0)

    def test_the_header_compiles_into_the_model(self):
        for label, config in self.configs.items():
            wanted = answer(config)
            if wanted["routing"]:                                    # kept as a float
                wanted["routing"]["epsilon"] = struct.unpack("f", struct.pack("f", wanted["routing"]["epsilon"]))[0]
            self.assertEqual(self.compiled[label], wanted, label)

    def test_tables_are_those_of_the_cpp_reader(self):
        self.assertEqual(self.tables, {"families": hf.FAMILIES, "common": hf.COMMON})

    def test_the_cpp_reader_agrees_on_every_configuration(self):
        self.assertEqual(len(self.questions), len(self.answers))
        refused = 0
        for question, found in zip(self.questions, self.answers):
            self.assertEqual(found, answer(question), question)
            refused += "error" in found
        print(f"{len(self.questions)} configurations, {refused} of them refused", file=sys.stderr)
        self.assertTrue(0.1 < refused / len(self.questions) < 0.9)

    def test_published_models_have_their_parameters(self):
        for name, config in PUBLISHED.items():
            self.assertEqual(parameters(hf.describe(config)), PARAMETERS[name], name)


class Text(unittest.TestCase):
    def test_storage_options(self):
        _, header, _ = run_main(str(CHECKPOINTS / "qwen2"), "--name", "mine", "--namespace", "a::b", "--weights", "int8:128",
                                "--ffn", "int4:64:zero", "--activations", "bf16", "--embedding", "mxfp4")
        self.assertIn("namespace a::b {", header)
        self.assertIn("struct mine {", header)
        self.assertIn(".storage = {.weights = {moesaic::dtype::int8, 128}, .ffn = {moesaic::dtype::int4, 64, true}, "
                      ".activations = moesaic::dtype::bf16}", header)
        self.assertIn(".embedding = moesaic::dtype::mxfp4", header)
        self.assertIn("using layers = moesaic::layers<moesaic::repeat<mine_layer, 3>>;", header)
        _, header, _ = run_main(str(CHECKPOINTS / "qwen3_moe"))
        self.assertIn("using layers = moesaic::layers<qwen3_moe_moe, qwen3_moe_dense, qwen3_moe_moe>;", header)

    def test_a_refusal_is_one_sentence_and_an_exit_code(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "config.json"
            for text, sentence in (('{"model_type": "qwen2_moe", "use_sliding_window": true}',
                                    '"sliding_window" is 4096, but which layers have it is not known.'),
                                   ('{"model_type": "llama", "rope_theta": NaN}', "It cannot be read: NaN is no JSON number."),
                                   ("[]", "The configuration is not a JSON object.")):
                path.write_text(text)
                self.assertEqual(run_main(folder), (1, "", f"{path}: {sentence}\n"))
            path.unlink()
            code, out, told = run_main(folder)
            self.assertEqual((code, out), (1, ""))
            self.assertIn("It cannot be read", told)

    def test_tensors_that_the_configuration_does_not_know(self):
        config = json.loads((CHECKPOINTS / "mixtral/config.json").read_text())
        names = hf.stored_names(CHECKPOINTS / "mixtral")
        self.assertIn("model.layers.2.block_sparse_moe.experts.7.w2.weight", names)
        hf.describe(config, names)
        for extra in ("self_attn.q_proj.bias", "self_attn.o_proj.bias", "self_attn.q_norm.weight", "mlp.gate_proj.weight",
                      "mlp.shared_expert_gate.weight"):
            with self.assertRaisesRegex(hf.Inexpressible, f"Layer 1 has a tensor {extra}"):
                hf.describe(config, {*names, "model.layers.1." + extra})
            with self.assertRaisesRegex(hf.Inexpressible, f"Layer 0 has a tensor {extra}"):
                hf.describe(config, ["weight." + extra])

    def test_layers_are_written_in_few_terms(self):
        def expanded(term):
            return eval("list(" + term.replace("moesaic::repeat<", "many(").replace("moesaic::pattern<", "both(").replace(">", ")") + ")",
                        {"many": lambda inner, count: inner * count, "both": lambda *parts: sum(parts, ()), "a": ("a",), "b": ("b",)})
        for length in range(1, 10):
            for names in itertools.product("ab", repeat=length):
                self.assertEqual(sum((expanded(term) for term in hf.compact(names)), []), list(names))
        self.assertEqual(hf.compact(("a", "b") * 18), ["moesaic::repeat<moesaic::pattern<a, b>, 18>"])
        self.assertEqual(hf.compact(("a",) * 3 + ("b",) * 58), ["moesaic::repeat<a, 3>", "moesaic::repeat<b, 58>"])
        self.assertEqual(hf.compact(("a", "a", "a", "b") * 12), ["moesaic::repeat<moesaic::pattern<moesaic::repeat<a, 3>, b>, 12>"])

    def test_numbers_are_written_exactly(self):
        for value, text in ((1e6, "1e6"), (5e5, "5e5"), (1e-5, "1e-5"), (8.0, "8.0"), (0.1, "0.1"), (123456.0, "123456.0"),
                            (1 / 3, "0.3333333333333333")):
            self.assertEqual(hf.literal(value), text)


def run_main(*arguments):
    """Exit code, standard output, standard error."""
    before, sys.argv = sys.argv, ["config_from_hf.py", *arguments]
    out, told = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            return hf.main(), out.getvalue(), told.getvalue()
    finally:
        sys.argv = before


def parameters(description):
    total, hidden = 0, description["layers"][0]["hidden"]
    for block in description["layers"]:
        a, experts, width = block["attention"], block["router"]["experts"], block["expert"]["intermediate"]
        q, kv = a["heads"] * a["head_dim"], a["kv_heads"] * a["head_dim"]
        total += 2 * hidden * (q + kv) + (q + 2 * kv) * a["qkv_bias"] + hidden * a["out_bias"]
        total += {"none": 0, "per_head": 2 * a["head_dim"], "full_width": q + kv}[a["qk_norm"].split("::")[1]]
        total += max(experts, 1) * (3 * hidden * width + (2 * width + hidden) * block["expert"]["bias"]) + experts * hidden
        total += 3 * hidden * block["shared"]["intermediate"] + hidden * block["shared"]["sigmoid_gate"] + 2 * hidden
    return total + hidden + description["decoder"]["vocabulary"] * hidden * (1 if description["decoder"]["tied_head"] else 2)


if __name__ == "__main__":
    unittest.main()
