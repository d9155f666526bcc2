#!/usr/bin/env python3
# Times how long a user's file with load and forward of Mixtral takes to compile, every instruction set in, beside what the standard headers
# alone take in the same run: machines differ, the ratio does not.
# SPDX-License-Identifier: Apache-2.0
"""usage: compile_time.py COMPILER"""
import pathlib
import resource
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "include"
AIM = 6.0  # seconds, median of three, g++ at -O2 on a machine where BESIDE takes one
BESIDE = "#include <immintrin.h>\n" + "".join(f"#include <{h}>\n" for h in ("algorithm", "atomic", "cmath", "string", "thread", "vector"))


def used():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds(compiler, source):
    """Processor seconds, which other programs on the machine disturb less than the clock's."""
    before = used()
    subprocess.run([compiler, "-std=c++20", "-O2", f"-I{INCLUDE}", "-c", "-x", "c++", "-", "-o", "/dev/null"], input=source, text=True, check=True)
    return used() - before


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    user = (HERE / "compile_time.cpp").read_text()
    pairs = [(seconds(sys.argv[1], user), seconds(sys.argv[1], BESIDE)) for _ in range(3)]
    median, beside = (statistics.median(times) for times in zip(*pairs))
    print(f"compile_time: median {median:.2f} s of {', '.join(f'{t:.2f}' for t, _ in pairs)}; standard headers alone {beside:.2f} s; "
          f"{median / beside:.1f} times as long, at most {AIM:.1f}")
    sys.exit(0 if median <= AIM * beside else 1)
