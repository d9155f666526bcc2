#!/usr/bin/env python3
# Times how long a user's file with load and forward of Mixtral takes to compile, every instruction set in; fails far above the aim.
# SPDX-License-Identifier: Apache-2.0
"""usage: compile_time.py COMPILER [INCLUDE...]"""
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
AIM, LIMIT = 6.0, 18.0  # seconds; the limit leaves room for a slow or busy machine


def seconds(compiler, includes):
    start = time.perf_counter()
    subprocess.run([compiler, "-std=c++20", "-O2", "-c", "-o", "/dev/null", *(f"-I{path}" for path in includes), str(HERE / "compile_time.cpp")], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    times = [seconds(sys.argv[1], [HERE.parent.parent / "include", *sys.argv[2:]]) for _ in range(3)]
    median = statistics.median(times)
    print(f"compile_time: median {median:.2f} s of {', '.join(f'{t:.2f}' for t in times)}; aim {AIM:.0f} s, limit {LIMIT:.0f} s")
    sys.exit(0 if median <= LIMIT else 1)
