#!/usr/bin/env python3
# Reads the #include lines of include/moesaic and says which break the order of the house (docs/house.md). Run with --selftest to see it find planted ones.
# SPDX-License-Identifier: Apache-2.0
"""usage: floors.py ROOT | floors.py --selftest"""
import pathlib
import re
import sys
import tempfile

FLOOR = {"base": 0, "config": 1, "cost": 2, "route": 3, "device": 3, "host": 4, "cuda": 4, "layer": 5,
         "io": 6, "interop": 6, "train": 6, "compress": 6, "parallel": 6, "offload": 6}
UMBRELLAS = {"moesaic.hpp", "cuda.cuh"}
WINGS = {room for room, floor in FLOOR.items() if floor == 6}
# Headers that cost every user compile time, and where one of them is needed all the same.
COSTLY = {"iostream", "functional", "regex", "filesystem", "map", "unordered_map", "sstream", "fstream", "iomanip", "random", "format", "ranges"}
ONLY_IN = {"immintrin.h": "host/simd/", "arm_neon.h": "host/simd/", "nlohmann/json.hpp": "io/"}
# A GPU's own words, and who may say them: the hardware seam and the one launch.
HARDWARE = re.compile(r"\basm\s+volatile\b|\b(?:threadIdx|blockIdx|__shared__|__global__|__syncthreads)\b|<<<")
SEAM = re.compile(r"device/\w+\.cuh|cuda/launch\.cuh")
MACRO_FILES = {"base/macros.hpp", "config/rules.hpp"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def problems(root):
    """Sentences about every header and body file below root/include/moesaic."""
    home = root / "include" / "moesaic"
    files = {str(path.relative_to(home)): path.read_text() for path in sorted(home.rglob("*")) if path.suffix in {".hpp", ".cuh", ".inl"}}
    graph, ended = {}, {macro for text in files.values() for macro in re.findall(r"^\s*#\s*undef\s+(\w+)", text, re.M)}
    for name, text in files.items():
        room = name.split("/")[0] if "/" in name else ""
        if room not in FLOOR and name not in UMBRELLAS:
            yield f"{name}: lies on no floor; the rooms are {', '.join(FLOOR)}"
            continue
        lines = text.splitlines()
        if not re.match(r"// (?!SPDX).*\n(//.*\n)*// SPDX-License-Identifier: Apache-2.0\n", text):
            yield f"{name}: must begin with a line that says what the file turns into what, and the licence line"
        if not name.endswith(".inl") and "#pragma once" not in lines:
            yield f"{name}: has no #pragma once"
        if name not in MACRO_FILES:
            for macro in re.findall(r"^\s*#\s*define\s+(\w+)", text, re.M):
                if macro not in ended:
                    yield f"{name}: macro {macro} is seen by every user; macros live in {' and '.join(sorted(MACRO_FILES))}, others end with #undef"
        graph[name] = []
        for number, line in enumerate(lines, 1):
            where = f"{name}:{number}"
            spoken = HARDWARE.search(line.split("//")[0])
            if spoken and not SEAM.fullmatch(name):
                yield f"{where}: {spoken.group()} belongs to device/ and cuda/launch.cuh alone"
            match = INCLUDE.match(line)
            if not match:
                continue
            quote, target = match.groups()
            if quote == '"':
                yield f'{where}: "{target}" must be included as <moesaic/...>'
            elif not target.startswith("moesaic/"):
                if name.endswith(".inl"):
                    yield f"{where}: <{target}> would be compiled for one instruction set only; the header around the region includes it"
                home_of = ONLY_IN.get(target)
                if home_of and not name.startswith(home_of):
                    yield f"{where}: <{target}> belongs to {home_of} alone"
                if re.match(r"cub/|thrust/|cuda", target) and not (name.endswith(".cuh") and room in {"device", "cuda"}):
                    yield f"{where}: <{target}> is for nvcc alone: .cuh files of device/ and cuda/ include it"
                if room not in WINGS and target in COSTLY:
                    yield f"{where}: <{target}> costs every user compile time; nothing that moesaic.hpp reaches includes it"
            else:
                target = target.removeprefix("moesaic/")
                graph[name].append(target)
                other = target.split("/")[0]
                if target not in files:
                    yield f"{where}: <moesaic/{target}> does not exist"
                elif target in UMBRELLAS and not (name == "cuda.cuh" and target == "moesaic.hpp"):
                    yield f"{where}: a room never includes the umbrella {target}"
                elif room and other != room and FLOOR.get(other, 9) >= FLOOR[room]:
                    yield f"{where}: {room}/ (floor {FLOOR[room]}) must not include {target} (floor {FLOOR[other]})"
                elif name == "moesaic.hpp" and (other in WINGS or other in {"cuda", "device"}):
                    yield f"{where}: moesaic.hpp never includes {other}/"
    yield from umbrella_gaps(files, graph)
    yield from cycles(graph)


def umbrella_gaps(files, graph):
    """moesaic.hpp reaches every header of floors 0 to 5 that plain g++ compiles."""
    if "moesaic.hpp" not in files:
        return
    reached, pending = set(), ["moesaic.hpp"]
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += graph.get(name, [])
    for name in files:
        room = name.split("/")[0]
        if name.endswith(".hpp") and room in FLOOR and room not in WINGS | {"cuda", "device"} and name not in reached:
            yield f"{name}: moesaic.hpp does not reach it"


def cycles(graph):
    done, path = set(), []

    def visit(name):
        if name in path:
            yield f"{' -> '.join(path[path.index(name):] + [name])}: headers include each other"
        elif name not in done:
            path.append(name)
            for target in graph.get(name, []):
                yield from visit(target)
            path.pop()
            done.add(name)

    for name in graph:
        yield from visit(name)


def selftest():
    """Each planted fault is found, by the sentence about it, and a sound house has none."""
    head = "// Turns a into b.\n// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"
    sound = {"base/a.hpp": head, "config/b.hpp": head + "#include <moesaic/base/a.hpp>\n", "layer/c.hpp": head + "#include <moesaic/config/b.hpp>\n",
             "io/d.hpp": head + "#include <nlohmann/json.hpp>\n", "moesaic.hpp": head + "#include <moesaic/layer/c.hpp>\n"}
    planted = {
        "must not include layer/c.hpp": ("config/b.hpp", head + "#include <moesaic/layer/c.hpp>\n"),
        "must not include host/e.hpp": ("cuda/f.hpp", head + "#include <moesaic/host/e.hpp>\n"),
        "must not include interop/g.hpp": ("io/d.hpp", head + "#include <moesaic/interop/g.hpp>\n"),
        "must be included as": ("config/b.hpp", head + '#include "moesaic/base/a.hpp"\n'),
        "does not exist": ("config/b.hpp", head + "#include <moesaic/base/z.hpp>\n"),
        "never includes the umbrella": ("layer/c.hpp", head + "#include <moesaic/moesaic.hpp>\n"),
        "never includes io/": ("moesaic.hpp", head + "#include <moesaic/layer/c.hpp>\n#include <moesaic/io/d.hpp>\n"),
        "belongs to host/simd/ alone": ("layer/c.hpp", head + "#include <immintrin.h>\n"),
        "belongs to io/ alone": ("layer/c.hpp", head + "#include <nlohmann/json.hpp>\n"),
        "costs every user": ("base/a.hpp", head + "#include <iostream>\n"),
        "must begin with": ("base/a.hpp", "#pragma once\n"),
        "has no #pragma once": ("base/a.hpp", head.replace("#pragma once\n", "")),
        "is seen by every user": ("base/a.hpp", head + "#define EVERYWHERE 1\n"),
        "lies on no floor": ("attic/h.hpp", head),
        "for one instruction set": ("host/j.inl", head + "#include <cstddef>\n"),
        "threadIdx belongs to device/": ("cuda/k.hpp", head + "inline int f() { return threadIdx.x; }\n"),
        "is for nvcc alone": ("cuda/l.hpp", head + "#include <cub/block/block_scan.cuh>\n"),
        "does not reach it": ("cost/i.hpp", head),
        "include each other": ("base/a.hpp", head + "#include <moesaic/base/a.hpp>\n"),
    }
    extra = {"host/e.hpp": head, "interop/g.hpp": head}
    for sentence, (name, text) in {"": ("base/a.hpp", head), **planted}.items():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in {**sound, **(extra if sentence.startswith("must not") else {}), name: text}.items():
                path = pathlib.Path(folder, "include", "moesaic", file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            found = list(problems(pathlib.Path(folder)))
            if (not sentence and found) or (sentence and not any(sentence in line for line in found)):
                sys.exit(f"floors.py: planted '{sentence}' in {name}, found {found}")
    print(f"floors: {len(planted)} planted faults found")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--selftest":
        selftest()
    else:
        found = list(problems(pathlib.Path(sys.argv[1])))
        print("\n".join(found) or "floors: every include goes down")
        sys.exit(1 if found else 0)
