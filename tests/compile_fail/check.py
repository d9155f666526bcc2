#!/usr/bin/env python3
# Compiles a wrong configuration for every rule and looks for its sentence, and for nothing else; and its corrected twin.
# SPDX-License-Identifier: Apache-2.0
"""usage: check.py [--compiler CXX]... [--selftest]      without a compiler: those of g++ and clang++ that there are"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "include"
RULES = "moesaic/config/rules.hpp"

SOUND = """#include <moesaic/config/spec.hpp>
using namespace moesaic;
constexpr block_config sound{.hidden = 64, .attention = {.heads = 4}, .router = {.experts = 8, .top_k = 2}, .expert = {.intermediate = 32},
                             .shared = {.intermediate = 16}};
struct spec { static constexpr block_config config = sound; };
struct wide { static constexpr block_config config = [] { auto c = sound; c.hidden = 128; return c; }(); };
struct exact { static constexpr block_config config = [] { auto c = sound; c.storage.activations = dtype::fp64; return c; }(); };
struct latents { static constexpr block_config config = [] { auto c = sound; c.attention.latent = {.kv_rank = 16, .rope_dim = 8}; return c; }(); };
struct opening { static constexpr block_config config = [] { auto c = sound; c.shortcut = shortcut::opens; return c; }(); };
struct closing { static constexpr block_config config{.hidden = 64, .attention = {.heads = 4}, .expert = {.intermediate = 32},
                                                      .shortcut = shortcut::closes}; };
"""
SPEC = {
    "block_config": "struct %s { static constexpr block_config config = [] { auto c = sound; %s; return c; }(); };",
    "decoder_config": "struct %s { static constexpr decoder_config config = [] { decoder_config c{.vocabulary = 256}; %s; return c; }(); "
                      "using layers = moesaic::layers<spec>; };",
    "layer_stack": "struct %s { static constexpr decoder_config config{.vocabulary = 256}; using layers = moesaic::%s; };",
}

NO_SPEC = "a spec names `static constexpr moesaic::block_config config`, and a model a decoder_config and `layers`"
NO_POLICY = "routing must be a policy with the hooks score, price, limit, select, cut and weigh"
WORKSPACE = {"block": "workspace_bytes(1)", "decoder": "workspace_bytes(1, 1)", "soft": "workspace_bytes(1, 1)"}
FOR = ("struct %s { static constexpr block_config config = [] { auto c = sound; c.purpose = purpose::%s; return c; }(); "
       "struct routing : moesaic::routing::standard { %s }; };")
COUPLED = ("static constexpr bool coupled = true; "
           "template <class T> static void select_batch(router_config const&, auto const&, state const&, routing_batch<T> const&, "
           "routing_slots<T> const&, list<std::byte>) {} ")
ASKS = ("struct %s { static constexpr block_config config = [] { auto c = sound; %s; return c; }(); "
        "using routing = %s; };")
POLICIES = ("allowed", "budget", "cap", "cost_aware", "expert_choice", "hierarchical", "replay", "sparse_mixer", "top_p")
TYPES = [   # what it is used as, the type, the sentence (None: it is sound)
    ("block", "struct %s {};", NO_SPEC),
    ("block", "struct %s { block_config config = sound; };", NO_SPEC),
    ("block", "struct %s { static inline block_config config = sound; };", NO_SPEC),
    ("block", "struct %s : spec { using routing = int; };", NO_POLICY),
    ("block", "struct %s : spec { struct routing { struct state {}; }; };", NO_POLICY),
    ("block", "struct %s : spec { static constexpr int routing = 2; };", "routing must be a type"),
    ("block", FOR % ("%s", "training", COUPLED), "a layer whose purpose is training needs a separable routing policy"),
    ("block", FOR % ("%s", "training", "static constexpr bool trainable = false;"),
     "a layer whose purpose is training needs a separable routing policy"),
    ("block", FOR % ("%s", "batch_invariant", COUPLED), "a layer whose purpose is batch_invariant needs a separable routing policy"),
    ("block", FOR % ("%s", "batch_invariant", "static constexpr bool batch_invariant = false;"),
     "a layer whose purpose is batch_invariant needs a separable routing policy"),
    ("block", FOR % ("%s", "inference", "static constexpr bool coupled = true;"),
     "routing says it is coupled, so it must have select_batch"),
    ("block", FOR % ("%s", "inference", "static constexpr bool settles = true;"),
     "routing says it settles, so it must have settle_batch"),
    ("block", FOR % ("%s", "inference", COUPLED + "static constexpr bool trainable = false, batch_invariant = false;"), None),
    ("block", FOR % ("%s", "training", "static constexpr bool batch_invariant = false;"), None),
    ("block", FOR % ("%s", "batch_invariant", "static constexpr bool trainable = false;"), None),
    ("block", ASKS % ("%s", "c.router.score = score::sigmoid", "top_p<>"), "top_p needs softmax scores before top-k"),
    ("block", ASKS % ("%s", "c.router.score = score::softmax", "top_p<>"), None),
    ("block", ASKS % ("%s", "c.router.renormalize = true", "sparse_mixer<>"), "sparse_mixer needs softmax scores"),
    ("block", ASKS % ("%s", "", "sparse_mixer<>"), None),
    ("block", ASKS % ("%s", "c.purpose = purpose::training", "sparse_mixer<>"),
     "a layer whose purpose is training needs a separable routing policy"),
    ("block", ASKS % ("%s", "c.purpose = purpose::training", "expert_choice<>"),
     "a layer whose purpose is training needs a separable routing policy"),
    ("block", ASKS % ("%s", "c.purpose = purpose::batch_invariant", "expert_choice<>"),
     "a layer whose purpose is batch_invariant needs a separable routing policy"),
    ("block", ASKS % ("%s", "c.router.group_gate = true", "standard"),
     "router.group_gate needs `using routing = moesaic::routing::hierarchical<>`"),
    ("block", ASKS % ("%s", "c.router.group_gate = true; c.router.renormalize = true", "top_p<>"),
     "router.group_gate needs `using routing = moesaic::routing::hierarchical<>`"),
    ("block", ASKS % ("%s", "", "hierarchical<>"), "hierarchical needs router.group_gate"),
    ("block", ASKS % ("%s", "c.router.group_gate = true", "hierarchical<>"), None),
    ("block", ASKS % ("%s", "c.router.group_gate = true", "hierarchical<allowed<>>"), None),
    ("block", ASKS % ("%s", "c.router.group_gate = true", "replay<hierarchical<>>"), None),
    ("block", ASKS % ("%s", "c.router.group_gate = true", "allowed<hierarchical<>>"),
     "a mask and router.group_gate need hierarchical<allowed<...>>"),
    ("block", ASKS % ("%s", "", "cost_aware<int>"), "a cost source needs a `state` and"),
    ("block", ASKS % ("%s", "", "cost_aware<standard>"), "a cost source needs a `state` and"),
    ("block", ASKS % ("%s", "c.purpose = purpose::training", "cost_aware<costs::table>"), None),
    ("block", ASKS % ("%s", "c.purpose = purpose::batch_invariant", "cost_aware<costs::sum<costs::flops, costs::bytes>>"), None),
    ("block", ASKS % ("%s", "", "cap<replay<>>"), "a rule over a batch needs a policy below it that chooses by what experts are worth"),
    ("block", ASKS % ("%s", "", "cap<cost_aware<costs::table, replay<>>>"),
     "a rule over a batch needs a policy below it that chooses by what experts are worth"),
    ("block", ASKS % ("%s", "", "cap<cost_aware<costs::table>>"), None),
    ("block", ASKS % ("%s", "", "knapsack<standard>"), "a charge must be a cost source"),
    ("block", ASKS % ("%s", "", "knapsack<costs::table, cost_aware<costs::bytes>>"), None),
    ("block", "struct neighbourly : moesaic::routing::standard { %s };\n" % COUPLED.replace("%", "%%") +
     ASKS % ("%s", "", "knapsack<costs::table, neighbourly>"), "knapsack needs a separable base"),
    *(("soft", SPEC["block_config"] % ("%s", change), "soft_moe needs residual_scale, shared and shortcut to be left alone")
      for change in ("", "c.shared = {}; c.residual_scale = 0.22", "c.shared = {}; c.shortcut = shortcut::opens")),
    ("soft", SPEC["block_config"] % ("%s", "c.shared = {}"), None),
    ("decoder", "struct %s { static constexpr decoder_config config{.vocabulary = 256}; };", NO_SPEC),
    ("decoder", "struct %s { decoder_config config{.vocabulary = 256}; using layers = moesaic::layers<spec>; };", NO_SPEC),
    ("decoder", SPEC["layer_stack"] % ("%s", "layers<>"), "layers must name at least one layer"),
    ("decoder", SPEC["layer_stack"] % ("%s", "layers<struct nothing, spec>"), NO_SPEC),
    ("decoder", SPEC["layer_stack"] % ("%s", "layers<repeat<wide, 0>, spec>"), "the count of a repeat must be positive"),
    ("decoder", SPEC["layer_stack"] % ("%s", "layers<repeat<wide, -2>, spec>"), "the count of a repeat must be positive"),
]

BUDGETS = [   # a budget that the sound layer misses, and one that it keeps
    ("microseconds(decode_time<spec>(devices::h200, 16, 4096)) < 1", "microseconds(decode_time<spec>(devices::h200, 16, 4096)) < 10"),
    ("microseconds(prefill_time<spec>(devices::zen4_core, 512)) < 100", "microseconds(prefill_time<spec>(devices::zen4_core, 512)) < 10000"),
    ("advise<spec>(devices::rtx_4090, decoding(100000, 4096)).fits", "advise<spec>(devices::rtx_4090, decoding(1, 4096)).fits"),
]


def program(*specs):
    """Specs (subject, name, what is changed) and a use of each."""
    use = "\nstatic_assert(sizeof(validated<%s>) > 0);\n"
    return SOUND + "".join(SPEC[subject] % (name, change) + use % name for subject, name, change in specs)


def rules(include):
    """name -> (subject, sentence), as rules.hpp has them."""
    text = (include / RULES).read_text()
    found = re.findall(r'^MOESAIC_RULE\((\w+), (\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+),', text, re.M)
    if len(found) != len(re.findall(r"^MOESAIC_RULE\(", text, re.M)):
        raise SystemExit(f"{RULES}: a rule is not written as MOESAIC_RULE(subject, name, \"sentence\", ...)")
    return {name: (subject, "".join(re.findall(r'"([^"]*)"', literal))) for subject, name, literal in found}


def cases():
    """[(name, wrong, given, right)]"""
    lines = (HERE / "cases.txt").read_text().splitlines()
    return [tuple(cell.strip() for cell in line.split(" | ")) for line in lines if line and not line.startswith("#")]


def compile_(compiler, includes, source):
    limit = ["-ferror-limit=0"] if "clang" in pathlib.Path(compiler).name else []
    command = [compiler, "-std=c++20", "-fsyntax-only", "-fmessage-length=0", *limit, *(f"-I{i}" for i in includes), "-x", "c++", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})


def same_values(printed, expected):
    """you_gave<moesaic::real{-1.0e-5}> of one compiler, you_gave<{-1.000000e-05}> of another: -1e-5."""
    def plain(value):
        value = re.sub(r"moesaic::|real|[{}()]", "", value).strip()
        try:
            return float(value)
        except ValueError:
            return value
    return [plain(v) for v in printed.split(",")] == [plain(v) for v in expected.split(",")]


def refusal(compiler, includes, source):
    result = compile_(compiler, includes, source)
    return result, [line for line in result.stderr.splitlines() if re.search(r"\berror: ", line)]


def check_wrong(compiler, includes, known, tried):
    """All wrong configurations in one program, told apart by their names: each must be refused by its rule, and by no other."""
    specs = {f"wrong_{i}": case for i, case in enumerate(tried)}
    result, errors = refusal(compiler, includes, program(*((known[case[0]][0], spec, case[1]) for spec, case in specs.items())))
    refused = {}
    for rule, spec, values in re.findall(r"rules::(\w+)::broken_by<(?:[\w:]+<)?(wrong_\d+)>?, moesaic::you_gave<([^<>]*)>", result.stderr):
        refused.setdefault(spec, {})[rule] = values
    for spec, (name, wrong, given, _) in specs.items():
        by = refused.get(spec, {})
        if name not in by:
            yield f"{name}: compiles with `{wrong}`; is the rule in the list, and does its condition see it?"
        elif not same_values(by[name], given):
            yield f"{name}: the error should carry you_gave<{given}>, and carries you_gave<{by[name]}>"
        if by.keys() - {name}:
            yield f"{name}: `{wrong}` is answered by other rules too: {', '.join(sorted(by.keys() - {name}))}"
    for name in {case[0] for case in tried}:
        said, expected = sum(known[name][1] in line for line in errors), sum(case[0] == name for case in tried)
        if said != expected:
            yield f"{name}: its sentence is said {said} times, not {expected}"
    if len(errors) != len(tried):
        yield f"{len(tried)} wrong configurations are answered by {len(errors)} errors:\n" + "\n".join(errors)


def check_twins(compiler, includes, known, tried):
    """The corrected twins, in one program too."""
    specs = ((known[name][0], f"{name}_twin_{i}", right) for i, (name, _, _, right) in enumerate(tried))
    result, _ = refusal(compiler, includes, program(*specs))
    if result.returncode != 0:
        yield f"a corrected twin does not compile:\n{result.stderr}"


def check_types(compiler, includes):
    """Types that are no specs or models, or whose routing does not fit their purpose, used as a caller uses them: each is answered by its
    sentence, and by nothing else; sound ones by nothing."""
    headers = "layer/decoder", "layer/soft_moe", "host/host", *(f"route/{policy}" for policy in POLICIES)
    source = "".join(f"#include <moesaic/{header}.hpp>\n" for header in headers) + SOUND + "using namespace moesaic::routing;\ntemplate <class Spec>\nusing soft = soft_moe<Spec, 1>;\n"
    for number, (kind, text, _) in enumerate(TYPES):
        used = f"{kind}<type_{number}>"
        source += text % f"type_{number}" + f"\nauto use_{number}() {{ return {used}::weights_bytes() + {used}::{WORKSPACE[kind]}; }}\n"
    result, errors = refusal(compiler, includes, source)
    wrong = sum(sentence is not None for _, _, sentence in TYPES)
    for sentence in {sentence for _, _, sentence in TYPES if sentence}:
        said, expected = sum(sentence in line for line in errors), sum(sentence == other for _, _, other in TYPES)
        if said != expected:
            yield f"`{sentence}` is said {said} times of {expected} types"
    if len(errors) != wrong:
        yield f"{wrong} types that are no specs are answered by {len(errors)} errors:\n" + "\n".join(errors)


def check_budgets(compiler, includes):
    """Budgets as a caller writes them: each that is missed is an error with the caller's own words, and no other."""
    head = "#include <moesaic/cost/advise.hpp>\n" + SOUND
    budget = 'static_assert(%s, "budget %d");\n'
    _, errors = refusal(compiler, includes, head + "".join(budget % (missed, i) for i, (missed, _) in enumerate(BUDGETS)))
    for i, (missed, _) in enumerate(BUDGETS):
        if not any(f"budget {i}" in line for line in errors):
            yield f"a budget that is missed compiles: {missed}"
    if len(errors) > len(BUDGETS):
        yield f"{len(BUDGETS)} budgets that are missed are answered by {len(errors)} errors:\n" + "\n".join(errors)
    result, _ = refusal(compiler, includes, head + "".join(budget % (kept, i) for i, (_, kept) in enumerate(BUDGETS)))
    if result.returncode != 0:
        yield f"a budget that is kept does not compile:\n{result.stderr}"


def problems(compiler, includes, only=None):
    known, tried = rules(includes[0]), cases()
    named = {case[0] for case in tried}
    found = [f"{name}: a rule without a test; add a line to tests/compile_fail/cases.txt" for name in known if name not in named]
    found += [f"{name}: a test without a rule" for name in named if name not in known]
    tried = [case for case in tried if case[0] in (only or known) and case[0] in known]
    checks = check_wrong(compiler, includes, known, tried), check_twins(compiler, includes, known, tried), check_types(compiler, includes)
    checks = *checks, check_budgets(compiler, includes)
    return found + [problem for check in checks for problem in check], len(tried)


def selftest(compiler):
    """Planted faults in copies of headers: the check must name each."""
    planted = {   # message: (old text, new text, what the problem names, the header where it is not rules.hpp)
        "a rule without a test": ("#undef MOESAIC_RULE",
                                  'MOESAIC_RULE(block_config, untested, "x, because y", true, 0);\n#undef MOESAIC_RULE', "untested"),
        "compiles with": ("heads_are_positive, heads_divide_hidden", "heads_divide_hidden", "heads_are_positive"),
        "its sentence is said 0 times": ("static_assert(YouGave::accepted, sentence_);", 'static_assert(YouGave::accepted, "no");',
                                         "hidden_is_positive"),
        "a corrected twin": ("c.expert.intermediate > 0 ||", "c.expert.intermediate > 1 ||", "intermediate_is_positive"),
        "is answered by other rules too": ("c.attention.head_dim >= 0,", "c.attention.head_dim >= 0 && c.attention.head_dim != 7,",
                                           "head_dim_is_even"),
        "the error should carry": ("c.norm.bias || c.norm.kind == norm_kind::layer, c.norm.kind);",
                                   "c.norm.bias || c.norm.kind == norm_kind::layer, c.norm.bias);", "norm_bias_has_a_layer_norm"),
        "is said 1 times of 2 types": ("static_assert(Count > 0,", "static_assert(Count >= 0,", "the count of a repeat",
                                       "moesaic/config/layers.hpp"),
        "a budget that is missed compiles": (".bandwidth = 4.8e12,", ".bandwidth = 4.8e15,", "devices::h200", "moesaic/cost/device.hpp"),
    }
    missed = []
    for message, (old, new, rule, *header) in planted.items():
        faulty = header[0] if header else RULES
        assert old in (INCLUDE / faulty).read_text(), f"the fault for '{message}' no longer fits {faulty}"
        with tempfile.TemporaryDirectory() as folder:
            for name in {RULES, faulty}:
                text = (INCLUDE / name).read_text()
                (pathlib.Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (pathlib.Path(folder) / name).write_text(text.replace(old, new, 1) if name == faulty else text)
            found, _ = problems(compiler, [pathlib.Path(folder), INCLUDE], {rule})
        if not any(rule in problem and message in problem for problem in found):
            missed.append(f"planted fault not found: {message} ({rule}); found {found}")
    return missed, len(planted)


def main():
    arguments = argparse.ArgumentParser(usage=__doc__)
    arguments.add_argument("--compiler", action="append")
    arguments.add_argument("--selftest", action="store_true")
    given = arguments.parse_args()
    failed = False
    for compiler in given.compiler or [c for c in ("g++", "clang++") if shutil.which(c)]:
        found, count = selftest(compiler) if given.selftest else problems(compiler, [INCLUDE])
        what = "planted faults" if given.selftest else "wrong configurations"
        print("\n".join(found + [f"{compiler}: {count} {what}, {len(found)} problems"]))
        failed |= bool(found) or count == 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
