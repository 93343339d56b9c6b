"""Protocols on procedural rooms: what the bundled model scores there, beside the floors that each protocol brings.

python benchmarks/protocols.py --write docs/protocols.md

A stand-in for data sets that are not at hand, in minutes on two cores: it shows that every row of a table means
something, and where the bundled model stands on rooms it never saw. Published numbers are on other data.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from results_page import write_section

from manyview import zoo
from manyview.data.manifest import Manifest
from manyview.data.synthetic import write_scenes
from manyview.evaluation.base import Protocol, evaluate
from manyview.evaluation.dense_fit import Schedule
from manyview.evaluation.multiview_depth import MultiviewDepth
from manyview.evaluation.normals_probe import NormalsProbe
from manyview.evaluation.poses import Poses
from manyview.evaluation.recon_scene import ReconScene
from manyview.evaluation.single_depth import MonocularDepth
from manyview.evaluation.surface_correspondence import SurfaceCorrespondence
from manyview.evaluation.zeroshot_segmentation import ZeroshotSegmentation

MODEL = "manyview-small-words"
ROOMS: dict[str, Any] = {"scenes": 6, "views": 6, "size": (168, 224), "seed": 9100}
"""Of a seed that nothing was trained on."""
CHOSEN: dict[Protocol, tuple[str, ...]] = {
    MonocularDepth(): ("abs_rel", "delta_1"),
    MultiviewDepth(sources=3): ("rel", "tau"),
    ReconScene(stride=1, most=5000): ("accuracy", "completeness"),
    Poses(frames=6, cameras="model"): ("auc30", "maa30", "maa30_min"),
    SurfaceCorrespondence(every=2, matches=300): ("within_5cm", "within_10px"),
    ZeroshotSegmentation(): ("miou", "accuracy"),
    NormalsProbe(width=32, fit=Schedule(steps=100, batch=4, lr=1e-3)): ("below_22", "rmse"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="put the table into this page")
    parser.add_argument("--only", nargs="+", default=None, help="names of protocols")
    args = parser.parse_args()
    model = zoo.load(MODEL).eval()
    lines = ["| protocol | answer | numbers |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        data = Manifest.load(write_scenes(Path(folder) / "rooms", **ROOMS))
        for protocol, keys in CHOSEN.items():
            if args.only and protocol.name not in args.only:
                continue
            summary = evaluate(protocol, model, data, Path(folder) / protocol.name)
            known = {number.key: number for number in protocol.numbers}
            for row in summary["rows"]:
                said = ", ".join(f"{known[key].head} {known[key].text(row.get(key))}" for key in keys)
                lines.append(f"| `{protocol.name}` | {row['label']} | {said} |")
            print("\n".join(lines[-len(summary["rows"]) :]), flush=True)
    height, width = ROOMS["size"]
    text = (
        "## On procedural rooms\n\n"
        f"`{MODEL}` on {ROOMS['scenes']} rooms of {ROOMS['views']} views, {height}x{width} pixels, never trained on "
        "(`python benchmarks/protocols.py --write docs/protocols.md`):\n\n" + "\n".join(lines)
    )
    if args.write:
        write_section(args.write, "rooms", text)


if __name__ == "__main__":
    main()
