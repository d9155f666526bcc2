#!/usr/bin/env python3
# Compiles every header alone with the first compiler given, and all together with each other one, without a warning. Run with --selftest to
# see it refuse planted ones.
# SPDX-License-Identifier: Apache-2.0
"""usage: headers.py ROOT JOBS COMPILER... | headers.py --selftest COMPILER"""
import concurrent.futures
import pathlib
import subprocess
import sys
import tempfile

FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only", "-x", "c++", "-"]


def compile_together(compiler, include, headers):
    """Twice in one file, so that a missing #pragma once shows too."""
    source = "".join(f"#include <{header}>\n" for header in headers) * 2
    done = subprocess.run([compiler, f"-I{include}", *FLAGS], input=source, capture_output=True, text=True)
    what = f"<{headers[0]}> does not compile alone" if len(headers) == 1 else "the headers do not compile together"
    return f"{compiler}: {what}\n{done.stderr}" if done.returncode else ""


def problems(root, jobs, compilers):
    include = pathlib.Path(root, "include")
    headers = [path.relative_to(include) for path in sorted(include.rglob("*.hpp"))]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(compile_together, compilers[0], include, [header]) for header in headers]
        tasks += [pool.submit(compile_together, compiler, include, headers) for compiler in compilers[1:]]
        found = [task.result() for task in tasks if task.result()]
    print(f"headers: {len(headers)} headers, {len(compilers)} compilers, {len(found)} problems")
    return found


def selftest(compiler):
    planted = {"incomplete.hpp": "#pragma once\ninline std::size_t f() { return 0; }\n",
               "warning.hpp": "#pragma once\ninline float f(double x) { return x; }\n",
               "twice.hpp": "inline int f() { return 0; }\n"}
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root, "include")
        folder.mkdir()
        (folder / "sound.hpp").write_text("#pragma once\n#include <cstddef>\ninline std::size_t f() { return 0; }\n")
        for name, text in planted.items():
            (folder / name).write_text(text)
        found = problems(root, 2, [compiler])
    if len(found) != len(planted) or any("sound.hpp" in line for line in found):
        sys.exit(f"headers.py: {len(planted)} planted, found:\n" + "\n".join(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--selftest"] and len(sys.argv) == 3:
        selftest(sys.argv[2])
    elif len(sys.argv) > 3:
        found = problems(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
        print("\n".join(found))
        sys.exit(1 if found else 0)
    else:
        sys.exit(__doc__)
