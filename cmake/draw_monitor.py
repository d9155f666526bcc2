#!/usr/bin/env python3
# What moesaic::to_json(routers_of(monitors)) wrote into a picture: the load of every expert in every layer, and of the domains apart.
# SPDX-License-Identifier: Apache-2.0
"""usage: draw_monitor.py MONITOR.json OUT.svg [TITLE]"""
import html
import json
import math
import pathlib
import sys

LEFT, TOP, ROW, RIGHT = 190, 84, 16, 250
WHITE, DARK, DEAD = (255, 255, 255), (16, 64, 128), "#c2571a"
FIGURES = (("MaxVio", "max_violation", "{:.2f}"), ("effective", "effective_experts", "{:.1f}"), ("dead", "dead_experts", "{:.0f}"),
           ("drops", "drop_rate", "{:.3f}"))


def rows_of(layers):
    """[(name, counts, layer or None)]: a layer, then its domains."""
    rows = []
    for layer in layers:
        rows.append((f"layer {layer['layer']}", layer["counts"], layer))
        rows += [(domain["name"], domain["counts"], None) for domain in layer["domains"]]
    return rows


def relative(counts):
    """Each expert's load over that of balance, 1."""
    total = sum(counts)
    return [count * len(counts) / total if total else 0.0 for count in counts]


def shade(load, most):
    """By the root, so that one favourite does not make all others look alike."""
    part = math.sqrt(min(load / most, 1.0))
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(WHITE, DARK))


def draw(monitor, title="Load of experts"):
    rows = rows_of(monitor["layers"])
    experts = max((len(counts) for _, counts, _ in rows), default=0)
    most = max((load for _, counts, _ in rows for load in relative(counts)), default=0.0) or 1.0
    cell = max(4, min(18, 900 // max(experts, 1)))
    edge = LEFT + experts * cell
    out = []
    text = lambda x, y, words, extra="": out.append(f'<text x="{x:g}" y="{y:g}" {extra}>{html.escape(str(words))}</text>')

    text(10, 22, title, 'font-size="15" font-weight="bold"')
    text(10, 40, "an expert's share of a layer's choices over an even share", 'fill="#666"')
    for i, load in enumerate((0.0, most / 16, most / 4, most)):
        x = LEFT + 90 * i
        out.append(f'<rect x="{x}" y="48" width="12" height="12" fill="{shade(load, most)}" stroke="#bbb"/>')
        text(x + 17, 58, f"{load:.2g}")
    out.append(f'<rect x="{LEFT + 360}" y="48" width="12" height="12" fill="none" stroke="{DEAD}"/>')
    text(LEFT + 377, 58, "never chosen")
    for e in range(0, experts, 1 if cell > 12 else 16):
        text(LEFT + (e + 0.5) * cell, TOP - 6, e, 'text-anchor="middle" font-size="9" fill="#666"')
    for i, (name, _, _) in enumerate(FIGURES):
        text(edge + 60 * (i + 1), TOP - 6, name, 'text-anchor="end" fill="#666"')

    y = TOP
    for name, counts, layer in rows:
        if layer is not None:
            y += 6 if y > TOP and layer["domains"] else 0
            for i, (_, key, form) in enumerate(FIGURES):
                text(edge + 60 * (i + 1), y + 12, form.format(layer[key]), 'text-anchor="end"')
        text(LEFT - 8, y + 12, name, 'text-anchor="end"' + (' font-weight="bold"' if layer is not None else ' fill="#666"'))
        for e, (count, load) in enumerate(zip(counts, relative(counts))):
            border = f'stroke="{DEAD}"' if count == 0 else f'stroke="{"#ddd" if cell > 8 else "none"}"'
            out.append(f'<rect x="{LEFT + e * cell + 0.5:g}" y="{y + 0.5:g}" width="{cell - 1}" height="{ROW - 1}" fill="{shade(load, most)}" {border}>'
                       f"<title>{html.escape(name)}, expert {e}: {count} choices, {load:.3f} of even</title></rect>")
        y += ROW
    width, height = edge + RIGHT, y + 16
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(out) + "\n</svg>\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    monitor = json.loads(pathlib.Path(sys.argv[1]).read_text())
    if not monitor.get("layers"):
        sys.exit(f"{sys.argv[1]}: expected \"layers\" with at least one router, found none")
    pathlib.Path(sys.argv[2]).write_text(draw(monitor, *sys.argv[3:]))
