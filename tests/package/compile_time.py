#!/usr/bin/env python3
# Times how long a user's file with load and forward of Mixtral takes to compile, every instruction set in; fails far above the aim.
# SPDX-License-Identifier: Apache-2.0
"""usage: compile_time.py COMPILER"""
import pathlib
import resource
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "include"
AIM, LIMIT = 6.0, 18.0  # seconds; the limit leaves room for slower machines


def used():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds(compiler):
    """Processor seconds, which other programs on the machine disturb less than the clock's."""
    before = used()
    subprocess.run([compiler, "-std=c++20", "-O2", f"-I{INCLUDE}", "-c", str(HERE / "compile_time.cpp"), "-o", "/dev/null"], check=True)
    return used() - before


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    times = [seconds(sys.argv[1]) for _ in range(3)]
    median = statistics.median(times)
    print(f"compile_time: median {median:.2f} s of {', '.join(f'{t:.2f}' for t in times)}; aim {AIM:.0f} s, limit {LIMIT:.0f} s")
    sys.exit(0 if median <= LIMIT else 1)
