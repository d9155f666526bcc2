#!/usr/bin/env python3
# Reads what git tracks (or, without git, the tree) and says what does not belong into the repository. Run with --selftest to see it find planted faults.
# SPDX-License-Identifier: Apache-2.0
"""usage: hygiene.py ROOT | hygiene.py --selftest"""
import pathlib
import re
import subprocess
import sys
import tempfile

DATA = ("examples/data/", "tests/oracle/data/")                        # binary files are at home here
LARGE = "examples/data/"                                               # and files above the limit here alone
LIMIT = 1 << 20
TOTAL = 24 << 20                                                       # of all data together
MACHINE_PATH = re.compile(r"(?<![\w.$}<>-])/(?:work|root|home/\w+|Users/\w+)/")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|<<<<<<< |>>>>>>> ")


def files(root):
    git = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return [name for name in git.stdout.split("\0") if name and (root / name).is_file()]
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in {".git", "build"}]


def problems(root, total=TOTAL):
    names = files(root)
    data = sum((root / name).stat().st_size for name in names if name.startswith(DATA))
    if data > total:
        yield f"data: {data} bytes in all; at most {total}"
    for name in sorted(names):
        content = (root / name).read_bytes()
        if len(content) > LIMIT and not name.startswith(LARGE):
            yield f"{name}: {len(content)} bytes; above {LIMIT} only below {LARGE}"
        if b"\0" in content:
            if not name.startswith(DATA):
                yield f"{name}: is not text; binary files lie only below {', '.join(DATA)}"
            continue
        if name.startswith(DATA) or name == "tests/package/hygiene.py":
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            for what, pattern in (("a path of one machine", MACHINE_PATH), ("unfinished", UNFINISHED)):
                match = pattern.search(line)
                if match:
                    yield f"{name}:{number}: {what}: {match.group()}"
            if name.endswith((".hpp", ".cpp", ".inl", ".py", ".sh", ".cmake")) and "\t" in line:
                yield f"{name}:{number}: a tab; the house indents by two spaces"
    yield from forgotten(root, names)


def forgotten(root, names):
    """A test, bench or example that no CMakeLists.txt beside it names is never built."""
    for name in names:
        folder, _, file = name.rpartition("/")
        if re.fullmatch(r"(tests/(balance|cost_aware|coupled|fuzz|oracle|property|routing|static|unit)|bench|examples)/[^/]+\.cpp", name):
            lists = root / folder / "CMakeLists.txt"
            if not lists.is_file() or not re.search(rf"\b{re.escape(file.removesuffix('.cpp'))}\b", lists.read_text()):
                yield f"{name}: not named in {folder}/CMakeLists.txt"


def selftest():
    planted = {"docs/a.md": "see /" + "work/main\n", "b.bin": "\0", "tests/oracle/data/c.json": " " * (LIMIT + 1), "include/d.hpp": "// TO" + "DO later\n",
               "tests/unit/e.cpp": "int main() {}\n", "include/f.hpp": "\tint f();\n"}
    sound = {"tests/unit/CMakeLists.txt": "moesaic_test(unit SOURCES g.cpp)\n", "tests/unit/g.cpp": "// build/home/main/x\n", "examples/data/h.bin": "\0" * (LIMIT + 1),
             "docs/i.md": "a network/home/node/x, ${ROOT}/home/x/, https://x.org/home/y/\n"}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**sound, **planted}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        found = list(problems(root, LIMIT))
    planted = [*planted, "data"]
    missed = [name for name in planted if not any(line.startswith(name) for line in found)]
    if missed or len(found) != len(planted):
        sys.exit(f"hygiene.py: planted and not found: {missed}; found {found}")
    print(f"hygiene: {len(planted)} planted faults found")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--selftest":
        selftest()
    else:
        found = list(problems(pathlib.Path(sys.argv[1])))
        print("\n".join(found) or "hygiene: nothing that does not belong")
        sys.exit(1 if found else 0)
