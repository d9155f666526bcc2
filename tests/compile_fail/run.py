#!/usr/bin/env python3
# Compiles every file beside it twice: as it stands it must compile; with WRONG defined it must stop at one error, the sentence of its rule.
# SPDX-License-Identifier: Apache-2.0
"""usage: run.py COMPILER | run.py --selftest COMPILER

A file is named after a rule of config/rules.hpp and holds a sound configuration and, under #ifdef WRONG, one that breaks that rule alone:

    struct mine { static constexpr moesaic::block_config config{ ...
    #ifdef WRONG
      .router = {.experts = 4, .top_k = 9},
    #else
      .router = {.experts = 4, .top_k = 2},
    #endif
    ... }; };
    template struct moesaic::checked<mine>;      // or whatever makes the library look at it

A file about something else says what it looks for in a line `// sentence: ...`. A rule without a file fails."""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RULE = re.compile(r'^MOESAIC_RULE\(\s*\w+,\s*(\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+),', re.M)


def sentences():
    text = (ROOT / "include/moesaic/config/rules.hpp").read_text()
    return {name: "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal)) for name, literal in RULE.findall(text)}


def compile_file(compiler, file, *flags):
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", f"-I{ROOT / 'include'}", *flags, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    return done.returncode, done.stderr


def problem(compiler, file, rules):
    said = re.search(r"^// sentence: (.+)$", file.read_text(), re.M)
    sentence = said.group(1) if said else rules.get(file.stem)
    if sentence is None:
        return f"{file.name}: no rule has this name, and no line says `// sentence: ...`"
    code, output = compile_file(compiler, file)
    if code != 0 or output:
        return f"{file.name}: must compile as it stands\n{output}"
    code, output = compile_file(compiler, file, "-DWRONG")
    errors = re.findall(r"error: (.*)", output)
    if code == 0:
        return f"{file.name}: compiles with -DWRONG"
    if len(errors) != 1 or sentence not in errors[0]:
        return f"{file.name}: with -DWRONG, one error must say '{sentence}', but it says\n{output}"
    return ""


def problems(compiler, folder, rules):
    files = sorted(folder.glob("*.cpp"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [text for text in pool.map(lambda file: problem(compiler, file, rules), files) if text]
    found += [f"{name}: a rule without a test; write tests/compile_fail/{name}.cpp" for name in rules if not (folder / f"{name}.cpp").is_file()]
    print(f"compile_fail: {len(rules)} rules, {len(files)} files, {len(found)} problems")
    return found


def selftest(compiler):
    rules = {"sound": "x must be small", "silent": "y must be even", "other_words": "z must be odd", "two_errors": "u must be", "broken_twin": "v", "absent": "w"}
    wrong = '#ifdef WRONG\n{}\n#endif\nint main() {{}}\n'
    planted = {"sound": wrong.format('static_assert(false, "x must be small");'), "silent": wrong.format(""), "nameless": wrong.format(""),
               "other_words": wrong.format('static_assert(false, "z");'), "two_errors": wrong.format('static_assert(false, "u must be"); int i = nothing;'),
               "broken_twin": 'static_assert(false, "v");\n'}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in planted.items():
            pathlib.Path(folder, f"{name}.cpp").write_text(text)
        found = problems(compiler, pathlib.Path(folder), rules)
    if len(found) != 6 or any(text.startswith("sound") for text in found):
        sys.exit("compile_fail/run.py: 6 planted, found:\n" + "\n".join(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--selftest"] and len(sys.argv) == 3:
        selftest(sys.argv[2])
    elif len(sys.argv) == 2:
        rules = sentences()
        found = problems(sys.argv[1], HERE, rules)
        print("\n".join(found))
        sys.exit(1 if found or not rules else 0)
    else:
        sys.exit(__doc__)
