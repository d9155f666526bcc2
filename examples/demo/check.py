"""Runs the pair's demo and compares its report with the figures that an independent implementation found, windows 16.

    python3 check.py PROGRAM --pair FOLDER
Plain rows within 1e-4 of the bits, formats 5e-4, distinct experts within .05 (the figures' own tolerances).
"""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import subprocess
import sys
import tempfile

# row: bits a byte, distinct experts a step, share of the plain rule's gate mass
EXPECTED = {
    "dense": (1.98217, None, None),
    "dense fp8 128x128": (1.98291, None, None), "moe fp8 128x128": (1.87721, 27.495, 1.0),
    "dense int8 g32": (1.98227, None, None), "moe int8 g32": (1.87651, 27.494, 1.0),
    "dense int4 g32": (1.99571, None, None), "moe int4 g32": (1.88135, 27.486, 1.0),
    "dense mxfp4": (2.00562, None, None), "moe mxfp4": (1.88874, 27.488, 1.0),
    "moe": (1.87668, 27.492, 1.0),
    "moe k=1": (2.21881, 11.783, 0.5738), "moe k=2": (1.92818, 19.608, 0.7850), "moe k=3": (1.88918, 24.504, 0.9088),
    "moe k=6": (1.88380, 30.306, 1.1370), "moe k=8": (1.89839, 31.324, 1.2409),
    "dense on scripture": (1.81243, None, None), "moe on scripture": (1.72020, 25.382, 1.0),
    "dense on glossary": (2.20843, None, None), "moe on glossary": (2.11438, 26.791, 1.0),
    "dense on dictionary": (2.08025, None, None), "moe on dictionary": (1.95425, 25.771, 1.0),
    "dense on source": (1.82756, None, None), "moe on source": (1.71788, 26.245, 1.0),
}
PARAMETERS = {"dense": (624000, 624000), "moe": (3392896, 640384)}


def main():
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        subprocess.run([*sys.argv[1:], "--windows", "16", "--json", report, "--plots", folder], check=True)
        rows = {row["row"]: row for row in json.loads(report.read_text())["rows"] if row["section"] == "pair"}
        pictures = {p.name for p in pathlib.Path(folder).glob("*.svg")}
    wrong = [f"no picture {name}" for name in {"experts.svg", "bits_over_flops.svg", "bits_over_bytes.svg"} - pictures]

    def near(name, field, expected, tolerance):
        found = rows.get(name, {}).get(field)
        if found is None or not abs(found - expected) <= tolerance:
            wrong.append(f"{name}: {field}: expected {expected} within {tolerance:.2g}, found {found}")

    for name, (bits, distinct, mass) in EXPECTED.items():
        is_format = name.split(" ")[-1] in ("128x128", "g32", "mxfp4")
        near(name, "bits", bits, bits * (5e-4 if is_format else 1e-4))
        if distinct is not None:
            near(name, "distinct", distinct, 0.05)
            near(name, "mass", mass, 1e-3)
    for name, (total, active) in PARAMETERS.items():
        near(name, "parameters", total, 0)
        near(name, "active_parameters", active, 0)
    print("\n".join(wrong) or f"all {len(EXPECTED)} rows as published")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
