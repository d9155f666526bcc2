#!/usr/bin/env python3
# Follows docs/how-to-add-an-axis.md on a copy of the library: each block goes where the page says, the page's test must pass, and no neutral layer may change a bit.
# SPDX-License-Identifier: Apache-2.0
"""usage: axis.py ROOT COMPILER | axis.py ROOT --selftest      MOESAIC_INCLUDES: further include folders (doctest's, nlohmann/json's)"""
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
PAGE = "docs/how-to-add-an-axis.md"
COPIED = ("include", "cmake", "tests/compile_fail", "tests/support", "tests/package/floors.py", "tests/unit/config_from_hf.py", "tests/unit/described.hpp")
PLACE = re.compile(r"In ((?:`[^`]+`(?: and )?)+), (after|in place of) `([^`]+)`:|New file `([^`]+)`.*:")
NO_PLACE = ("bash",)                                       # what a reader runs
NEUTRAL = r"""
#include <cstdio>
#include <cstring>
#include <vector>

#include <moesaic/config/random_source.hpp>
#include <moesaic/cost/parameters.hpp>
#include <moesaic/host/host.hpp>
#include <moesaic/layer/block.hpp>
using namespace moesaic;

struct mixture {
  static constexpr block_config config{.hidden = 32, .attention = {.heads = 4}, .router = {.experts = 4, .top_k = 2}, .expert = {.intermediate = 16},
                                       .shared = {.intermediate = 16}};
};
struct dense {
  static constexpr block_config config{.hidden = 32, .attention = {.heads = 4}, .expert = {.intermediate = 16}, .norms = norm_placement::sandwich,
                                       .storage = {.activations = dtype::bf16}};
};
template <class Spec>
void print(const char* name) {
  using layer = block<Spec>;
  using T = typename layer::scalar;
  constexpr int tokens = 3, hidden = 32;
  host::pool cpu{1};
  auto const weights = layer::load(cpu, random_source(1), "");
  auto const cache = layer::make_cache(cpu, 1, tokens);
  host::buffer workspace{layer::workspace_bytes(tokens)};
  random_stream numbers(2);
  std::vector<T> x, y(tokens * hidden);
  for (int i = 0; i < tokens * hidden; ++i) x.push_back(T(numbers.normal()));
  std::int32_t const sequence[tokens] = {}, position[tokens] = {0, 1, 2};
  auto const done = layer::forward(cpu, weights, {{x.data(), tokens, hidden}, {sequence, tokens}, {position, tokens}}, cache, {y.data(), tokens, hidden}, workspace);
  std::printf("%s %d %zu %zu %lld:", name, static_cast<int>(static_cast<bool>(done)), layer::weights_bytes(), layer::workspace_bytes(tokens),
              static_cast<long long>(parameters<Spec>().total()));
  for (auto const value : y) {
    unsigned bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    std::printf(" %x", bits);
  }
  std::printf("\n");
}
int main() {
  print<mixture>("mixture");
  print<dense>("dense");
}
"""


def blocks(page):
    """(places, text) of each fenced block: places are (file, "after" or "in place of" or "new", anchor)."""
    place, fence, text = None, None, []
    for line in page.splitlines():
        if fence is not None:
            if line != "```":
                text.append(line)
                continue
            if fence not in NO_PLACE:
                yield place or [], "\n".join(text) + "\n"
            place, fence, text = None, None, []
        elif line.startswith("```"):
            fence = line[3:]
        elif line:
            said = PLACE.fullmatch(line)
            place = None
            if said and said[4]:
                place = [(said[4], "new", "")]
            elif said:
                place = [(name, said[2], said[3]) for name in re.findall(r"`([^`]+)`", said[1])]


def follow(page, root):
    """Puts the page's blocks into the files below root; sentences about those that have no place."""
    for number, (places, text) in enumerate(blocks(page), 1):
        if not places:
            yield f"block {number} has no place: the line above it names none"
        for name, how, anchor in places:
            path = root / name
            if how == "new":
                if path.exists():
                    yield f"block {number}: {name} is there already"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                continue
            lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
            found = [i for i, line in enumerate(lines) if anchor in line]
            if len(found) != 1:
                yield f"block {number}: {name} has `{anchor}` on {len(found)} lines; a place is one"
                continue
            lines[found[0]:found[0] + 1] = [text] if how == "in place of" else [lines[found[0]], text]
            path.write_text("".join(lines))


def copy_of(root, folder):
    for name in COPIED:
        source = root / name
        (shutil.copytree if source.is_dir() else lambda a, b: (b.parent.mkdir(parents=True, exist_ok=True), shutil.copy(a, b)))(source, folder / name)
    return folder


def call(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"axis.py: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def check(root, compiler):
    page = (root / PAGE).read_text()
    includes = os.environ.get("MOESAIC_INCLUDES", "").split(":")
    more = [f"-isystem{folder}" for folder in includes if folder not in ("", "/usr/include")]      # that is searched anyway, last, as its headers expect
    with tempfile.TemporaryDirectory() as folder:
        changed = copy_of(root, pathlib.Path(folder) / "library")
        found = list(follow(page, changed))
        if found:
            sys.exit("axis.py: " + "\n".join(found))

        def program(include, source, *flags):
            made = pathlib.Path(folder) / "program"
            call(compiler, "-std=c++20", "-O0", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-pthread", f"-I{include}", *more, *flags, source, "-o", made)
            return call(made)

        call(sys.executable, changed / "tests/package/floors.py", changed)
        neutral = pathlib.Path(folder) / "neutral.cpp"
        neutral.write_text(NEUTRAL)
        if program(root / "include", neutral) != program(changed / "include", neutral):
            sys.exit("axis.py: a layer that does not use the axis has other bits, memory or parameters than without the page")
        program(changed / "include", changed / "tests/unit/ffn_scale.cpp", f"-I{changed / 'tests'}", "-DDOCTEST_CONFIG_IMPLEMENT_WITH_MAIN")

        rules = module(changed / "tests/compile_fail/check.py")
        known, tried = rules.rules(changed / "include"), [case for case in rules.cases() if case[0] == "ffn_scale_has_no_shortcut"]
        found = [problem for way in (rules.check_wrong, rules.check_twins) for problem in way(compiler, [changed / "include"], known, tried)]
        if found or not tried:
            sys.exit("axis.py: " + ("\n".join(found) or "the page's rule has no case"))

        hf = module(changed / "cmake/config_from_hf.py")
        for said in (True, False):
            header = hf.emit(hf.describe({"model_type": "lantern", "layer_scale": said}))
            if (".ffn_scale = true" in header) != said:
                sys.exit(f"axis.py: a header of layer_scale {said}:\n{header}")
    print(f"axis: {sum(1 for _ in blocks(page))} blocks followed; the axis works, and without it every bit is the same")


def selftest(root):
    """Each place made to be gone or there twice, and a line above a block that names none: each must be told."""
    page = (root / PAGE).read_text()
    missed, planted = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (places, _) in enumerate(blocks(page), 1):
            for name, how, anchor in places:
                if how == "new":
                    continue
                text = (root / name).read_text()
                for fault, lines in (("gone", 0), ("twice", 2)):
                    (pathlib.Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                    (pathlib.Path(folder) / name).write_text(text.replace(anchor, "" if lines == 0 else anchor + "\n" + anchor, 1))
                    only = f"In `{name}`, {how} `{anchor}`:\n\n```cpp\n```\n"
                    planted += 1
                    if not any(f"{anchor}` on {lines} lines" in problem for problem in follow(only, pathlib.Path(folder))):
                        missed.append(f"block {number}: {anchor} {fault}")
        planted += 1
        if not any("has no place" in problem for problem in follow("Somewhere:\n\n```cpp\nint x;\n```\n", pathlib.Path(folder))):
            missed.append("a block without a place")
    if missed:
        sys.exit("axis.py: planted and not found: " + "; ".join(missed))
    print(f"axis: {planted} planted faults found")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if sys.argv[2] == "--selftest":
        selftest(pathlib.Path(sys.argv[1]))
    else:
        check(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2])
