"""Runs the pair's demo and compares its report with the figures that an independent implementation found, windows 16.

    python3 check.py PROGRAM --pair FOLDER
Plain rows and those priced token by token within 1e-4 of the bits, formats 5e-4, rules over a step 1e-3; distinct experts within .05, gate
mass within 1e-3, experts a token within 1e-3 (the figures' own tolerances).
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
# row: the same, and experts a token
PRICED = {
    "two-phase own=1": (2.01102, 11.767, 0.8232, 4.000),
    "two-phase own=2": (1.89069, 19.581, 0.9651, 4.000),
    "two-phase own=3": (1.87808, 24.491, 0.9950, 4.000),
    "marginal price=0.25": (1.87765, 25.992, 0.9978, 4.000),
    "marginal price=0.5": (1.87956, 24.459, 0.9914, 4.000),
    "marginal price=1.0": (1.89003, 21.504, 0.9673, 4.000),
    "marginal price=2.0": (1.92935, 16.973, 0.8967, 4.000),
    "cap experts=12": (2.17705, 12.000, 0.8422, 4.000),
    "cap experts=16": (1.93014, 15.996, 0.9218, 4.000),
    "cap experts=20": (1.88990, 19.941, 0.9643, 4.000),
    "cap experts=24": (1.88026, 23.500, 0.9867, 4.000),
    "two prices read=0.1": (1.87765, 24.474, 0.9964, 4.000),
    "two prices read=0.15": (1.88038, 22.535, 0.9905, 4.000),
    "two prices read=0.2": (1.88319, 20.692, 0.9814, 4.000),
    "two prices read=0.3": (1.89817, 17.535, 0.9540, 4.000),
    "elimination price=0.05": (1.87894, 22.813, 0.9939, 4.000),
    "elimination price=0.1": (1.88218, 20.304, 0.9824, 4.000),
    "elimination price=0.15": (1.88854, 18.518, 0.9686, 4.000),
    "elimination price=0.2": (1.89646, 17.110, 0.9532, 4.000),
    "elimination price=0.3": (1.92205, 14.826, 0.9180, 4.000),
    "elimination price=0.05 rounds=3": (1.87973, 22.735, 0.9936, 4.000),
    "elimination price=0.1 rounds=3": (1.88327, 20.135, 0.9811, 4.000),
    "elimination price=0.15 rounds=3": (1.88967, 18.262, 0.9658, 4.000),
    "elimination price=0.2 rounds=3": (1.89738, 16.772, 0.9484, 4.000),
    "elimination price=0.3 rounds=3": (1.93266, 14.352, 0.9078, 4.000),
    "threshold price=0.05": (1.87713, 26.247, 0.9854, 3.551),
    "threshold price=0.1": (1.88573, 23.533, 0.9298, 2.806),
    "threshold price=0.15": (1.90525, 20.468, 0.8517, 2.175),
    "tiers price=0.25": (1.87938, 27.170, 0.9971, 4.000),
    "tiers price=0.5": (1.88128, 26.548, 0.9889, 4.000),
    "tiers price=1.0": (1.89631, 24.641, 0.9606, 4.000),
    "tiers price=2.0": (2.00267, 20.927, 0.8732, 4.000),
}
PARAMETERS = {"dense": (624000, 624000), "moe": (3392896, 640384)}


def main():
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        subprocess.run([*sys.argv[1:], "--windows", "16", "--json", report, "--plots", folder], check=True)
        rows = {row["row"]: row for row in json.loads(report.read_text())["rows"] if row["section"] == "pair"}
        pictures = {p.name for p in pathlib.Path(folder).glob("*.svg")}
    wrong = [f"no picture {name}" for name in {"experts.svg", "bits_over_flops.svg", "bits_over_bytes.svg", "bits_over_experts.svg"} - pictures]

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
    for name, (bits, distinct, mass, per_token) in PRICED.items():
        near(name, "bits", bits, bits * (1e-4 if name.startswith(("threshold", "tiers")) else 1e-3))
        near(name, "distinct", distinct, 0.05)
        near(name, "mass", mass, 1e-3)
        near(name, "per_token", per_token, 1e-3)
    for name, (total, active) in PARAMETERS.items():
        near(name, "parameters", total, 0)
        near(name, "active_parameters", active, 0)
    print("\n".join(wrong) or f"all {len(EXPECTED) + len(PRICED)} rows as published")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
