#!/usr/bin/env python3
# Runs the benches some times over and keeps, of each row, the best run: a result of record without names of machines or paths.
# SPDX-License-Identifier: Apache-2.0
"""usage: record.py PROGRAM OUT.json [--repetitions N] [--benchmark_...]"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

KEEP = ("date", "processor", "level", "compiler", "num_cpus", "caches")     # of the context; host_name and executable stay out
FRAME = ("name", "run_name", "family_index", "per_family_instance_index", "run_type", "repetitions", "repetition_index", "threads", "iterations")


def rounded(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


def best(rows):
    """The run that came nearest to its ceiling; without one, the fastest."""
    fractions = [name for name in rows[0] if name.startswith("of_")]
    if fractions:
        return max(rows, key=lambda row: max(row[name] for name in fractions))
    return min(rows, key=lambda row: row["real_time"])


def revision():
    git = lambda *words: subprocess.run(["git", "-C", str(pathlib.Path(__file__).parent), *words], capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short=10", "HEAD") + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else "")


def main(program, out, *options):
    repetitions = 3
    if options[:1] == ("--repetitions",):
        repetitions, options = int(options[1]), options[2:]
    rows, context, loads = {}, {}, []
    for _ in range(repetitions):              # one run after another, so that a busy moment spoils one run of a row and not all
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "run.json"
            loads.append(os.getloadavg()[0])
            subprocess.run([program, f"--benchmark_out={file}", "--benchmark_out_format=json", *options], check=True, stdout=subprocess.DEVNULL)
            run = json.loads(file.read_text())
        context = context or {key: run["context"][key] for key in KEEP if key in run["context"]}
        for row in run["benchmarks"]:
            if "error_occurred" in row:
                sys.exit(f"{row['name']}: {row.get('error_message')}")
            rows.setdefault(row["name"].removesuffix("/manual_time"), []).append(row)
    context |= {"revision": revision(), "repetitions": repetitions, "load_average": [round(load, 2) for load in loads]}
    lines = [json.dumps({"name": name} | {key: rounded(value) for key, value in best(runs).items() if key not in FRAME}) for name, runs in rows.items()]
    pathlib.Path(out).write_text('{"context": ' + json.dumps(context) + ',\n "benchmarks": [\n  ' + ",\n  ".join(lines) + "\n]}\n")
    print(f"{out}: {len(lines)} rows, best of {repetitions}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
