#!/usr/bin/env python3
# A results file of Google Benchmark into a picture: how near each row comes to its ceiling, grouped by op.
# SPDX-License-Identifier: Apache-2.0
"""usage: draw.py RESULTS.json OUT.svg [REGEX]   draws the rows whose names match"""
import html
import json
import pathlib
import re
import sys

# Counters that are fractions of a ceiling, and how they are drawn. A row is drawn by its largest: the ceiling that binds it.
CEILINGS = {
    "of_peak": ("register peak", "#c2571a"),
    "of_fp32_peak": ("register peak, fp32", "#e0a06a"),
    "of_read": ("read ceiling", "#2b6cb0"),
    "of_cached_read": ("read ceiling of L2", "#8fb8dd"),
}
ROW, HEAD, LEFT, BAR, RIGHT = 15, 26, 400, 420, 130


def bars(results, pattern):
    """[(op, [(rest of the name, counter, fraction)])] in the file's order."""
    ops = {}
    for row in results["benchmarks"]:
        name = row["name"].removesuffix("/manual_time")
        fractions = [(row[counter], counter) for counter in CEILINGS if counter in row]
        if not fractions or not re.search(pattern, name):
            continue
        op, _, rest = name.partition("/")
        ops.setdefault(op, []).append((rest, *max(fractions)[::-1]))
    return list(ops.items())


def draw(results, pattern=""):
    groups = bars(results, pattern)
    context = results.get("context", {})
    about = ", ".join(str(context[key]) for key in ("processor", "date", "compiler", "revision") if key in context)
    out, y = [], 54
    text = lambda x, y, words, extra="": out.append(f'<text x="{x}" y="{y}" {extra}>{html.escape(words)}</text>')

    text(10, 20, "Fraction of the ceiling of the same run", 'font-size="15" font-weight="bold"')
    text(10, 38, about, 'fill="#666"')
    x = LEFT
    for name, color in CEILINGS.values():
        out.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{color}"/>')
        text(x + 14, y, name)
        x += 24 + 6 * len(name)
    y += 10
    top = y
    for op, rows in groups:
        y += HEAD
        text(10, y - 6, op, 'font-size="13" font-weight="bold"')
        for name, counter, fraction in rows:
            width = BAR * min(fraction, 1.1)
            text(LEFT - 8, y + 10, name, 'text-anchor="end"')
            out.append(f'<rect x="{LEFT}" y="{y + 1}" width="{width:.1f}" height="{ROW - 4}" fill="{CEILINGS[counter][1]}"/>')
            text(LEFT + width + 5, y + 10, f"{fraction:.2f}", 'fill="#444"')
            y += ROW
    for tenth in range(0, 11, 2):
        x = LEFT + BAR * tenth / 10
        out.insert(0, f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{y}" stroke="#ddd"/>')
        text(x, y + 14, f"{tenth / 10:.1f}", 'text-anchor="middle" fill="#666"')
    width, height = LEFT + BAR + RIGHT, y + 26
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(out) + "\n</svg>\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    results = json.loads(pathlib.Path(sys.argv[1]).read_text())
    pattern = sys.argv[3] if len(sys.argv) == 4 else ""
    if not bars(results, pattern):
        sys.exit(f"{sys.argv[1]}: no row with a fraction of a ceiling matches '{pattern}'")
    pathlib.Path(sys.argv[2]).write_text(draw(results, pattern))
