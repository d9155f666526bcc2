"""Pictures of cmake/draw_monitor.py: a cell an expert and row, as dark as its load, and a border around what was never chosen."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "cmake"))
import draw_monitor  # noqa: E402


def layer(number, counts, domains=()):
    return {"layer": number, "counts": counts, "max_violation": 1.0, "effective_experts": 2.8, "dead_experts": 1, "drop_rate": 0.125,
            "domains": [{"name": name, "counts": of} for name, of in domains]}


def cells(picture):
    """{title: rect} of a picture's cells."""
    root = xml.fromstring(picture)
    return {rect[0].text: rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if len(rect)}


class Pictures(unittest.TestCase):
    def test_cells(self):
        found = cells(draw_monitor.draw({"layers": [layer(3, [4, 2, 2, 0]), layer(5, [1, 1, 1, 1])]}))
        self.assertEqual(len(found), 8)
        fill = lambda title: found[title].get("fill")
        self.assertEqual(fill("layer 3, expert 0: 4 choices, 2.000 of even"), "#104080")        # the most of all
        self.assertEqual(fill("layer 3, expert 3: 0 choices, 0.000 of even"), "#ffffff")
        self.assertEqual(fill("layer 3, expert 1: 2 choices, 1.000 of even"), fill("layer 5, expert 2: 1 choices, 1.000 of even"))
        self.assertEqual([title for title, rect in found.items() if rect.get("stroke") == draw_monitor.DEAD],
                         ["layer 3, expert 3: 0 choices, 0.000 of even"])

    def test_layers_of_different_width_and_domains(self):
        odd = '<a & "b">'
        found = cells(draw_monitor.draw({"layers": [layer(0, [1, 2], [(odd, [0, 0]), ("c", [1, 2])]), layer(1, [7] * 256)]}, odd))
        self.assertEqual(len(found), 3 * 2 + 256)
        self.assertIn(f"{odd}, expert 1: 0 choices, 0.000 of even", found)
        inside = [float(rect.get("x")) + float(rect.get("width")) for rect in found.values()]
        root = xml.fromstring(draw_monitor.draw({"layers": [layer(1, [7] * 256)]}))
        self.assertLess(max(inside), float(root.get("width")))

    def test_program(self):
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder, "monitor.json"), pathlib.Path(folder, "out.svg")
            run = lambda: subprocess.run([sys.executable, ROOT / "cmake/draw_monitor.py", source, target, "Title"], capture_output=True, text=True)
            source.write_text(json.dumps({"layers": []}))
            self.assertIn("at least one router, found none", run().stderr)
            source.write_text(json.dumps({"layers": [layer(0, [1])]}))
            self.assertEqual(run().returncode, 0)
            self.assertIn(">Title<", target.read_text())


if __name__ == "__main__":
    unittest.main()
