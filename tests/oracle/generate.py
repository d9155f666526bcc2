#!/usr/bin/env python3
"""Reads a folder of oracle files and writes the C++ tests that run them: shapes, configuration and stages all come from the files.

    python3 tests/oracle/generate.py FOLDER OUT

Writes OUT/*.cpp, prints their names, and leaves in OUT/skipped.txt the families that this version does not have.
A file that cannot be read, or a configuration of a supported family that cannot be expressed, becomes a test that fails with the reason.
"""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import re
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cmake"))
import config_from_hf  # noqa: E402

SUPPORTED = ("llama", "llama3", "qwen2", "mixtral", "qwen3_moe", "qwen2_moe", "olmoe")    # never skipped
ROPE_KINDS = ("default", "linear", "llama3")
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
        self.written = set()

    def case(self, kind, name, body, includes=()):
        self.cases.setdefault(kind, []).append((includes, f"TEST_CASE({quoted(name)}) {{\n{body}\n}}"))

    def models(self, kind, name, description, types, call, **formats):
        """A test case of one model in several activation types; call(model's namespace) -> statement."""
        identifier = f"{config_from_hf.identifier(name)}_{sum(map(len, self.cases.values()))}"
        headers, statements = [], []
        for type_ in types:
            chosen = {key: config_from_hf.weight_format("bf16" if type_ == "bf16" else value) for key, value in formats.items()}
            namespace = f"{identifier}_{type_}"
            self.write(f"{namespace}.hpp", config_from_hf.emit(description, "oracle", namespace, activations=type_, **chosen))
            headers.append(f"{namespace}.hpp")
            statements.append(f"  {call(namespace)}")
        self.case(kind, name, "\n".join(statements), headers)

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
            step = CASES_A_FILE if kind in ("layers", "folders") else len(cases)
            for first in range(0, len(cases), step):
                some = cases[first:first + step]
                name = f"{kind}_{first // step + 1}.cpp"
                harness = {"layers": "run", "folders": "run", "functions": "functions", "files": "stages"}[kind]
                count = f"test cases {first + 1} to {first + len(some)}"
                self.write(name, "\n".join([f"// The {kind} of an oracle folder, {count}; written by tests/oracle/generate.py.",
                                            f"#include <oracle/{harness}.hpp>", "#include <doctest/doctest.h>",
                                            *(f'#include "{header}"' for headers, _ in some for header in headers), "",
                                            "using namespace moesaic::test;", "", "\n\n".join(text for _, text in some), ""]))
                sources.append(name)
        self.write("skipped.txt", f"skipped: {len(self.skipped)} ({', '.join(sorted(self.skipped))})\n")
        for old in self.folder.iterdir():
            if old.name not in self.written and old.suffix in (".cpp", ".hpp"):
                old.unlink()
        return sources


def model_of(metadata, config, names):
    """describe() of a file's configuration, or None where the family is not of this version."""
    family = metadata.get("family")
    if not family:
        raise Unreadable("its metadata names no family")
    try:
        return config_from_hf.describe(config, names)
    except config_from_hf.Inexpressible:
        if family in SUPPORTED:
            raise
        return None


def one_file(out, path, name):
    tensors, metadata = header_of(path)
    kind = metadata.get("kind")
    if kind == "function":
        return functions(out, path, name, tensors, metadata)
    if not metadata.get("family"):
        raise Unreadable("its metadata names no family")
    names = [tensor.removeprefix("weight.") for tensor in tensors if tensor.startswith("weight.")]
    description = model_of(metadata, json_of(metadata, "config"), names)
    if description is None:
        return out.skip(metadata["family"], name, path)
    types = ["fp64", "fp32"] + ["bf16"] * any(tensor.startswith("expect.bf16.") for tensor in tensors)
    if kind in ("block", "gradient"):            # of a gradient file the forward stages
        layer = int(metadata.get("layer", "0"))
        if not 0 <= layer < len(description["layers"]):
            raise Unreadable(f"its metadata names layer {layer} of {len(description['layers'])}")
        description = description | {"layers": [description["layers"][layer]]}
        out.models("layers", name, description, types, lambda of: f"check_block<{of}::oracle_layer>({quoted(path)});", weights="fp32")
    elif kind == "decoder":
        out.models("layers", name, description, types, lambda of: f"check_decoder<{of}::oracle>({quoted(path)});",
                   weights="fp32", embedding="fp32")
    else:
        raise Unreadable(f"its metadata says it is a {kind}, which is no kind of oracle known here")


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
            parameters = told.get("rope_parameters", {})
            if parameters.get("rope_type") not in ROPE_KINDS or parameters.get("partial_rotary_factor", 1.0) != 1.0:
                continue
            theta, scaling = config_from_hf.rope(config_from_hf.Keys(told))
            default = config_from_hf.DEFAULTS["attention"]
            config = ", ".join(config_from_hf.fields(default | {"rope_theta": theta, "scaling": default["scaling"] | scaling}, default))
            cases.append(f"  check_rope({quoted(path)}, {quoted(kind)}, {told['head_dim']}, {{{config}}});")
        if not cases:
            raise Unreadable("it has no table of a kind of rotary frequencies known here")
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
