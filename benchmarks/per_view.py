"""Distill3R's Table II: reconstruction view by view on 7-Scenes and DTU, with the scale factor, beside the paper's.

python benchmarks/per_view.py --seven-scenes DATA/7scenes --dtu DATA/dtu -o out/per-view --write docs/per-view.md

The data sets are yours to download (docs/datasets.md says the layouts): the test sequences of 7-Scenes, every 20th
frame; DTU's test scans with depth. `--set NAME=FOLDER` judges a set in the cameras.json layout the same way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from manyview.cli.main import main as manyview
from manyview.data.manifest import Manifest
from manyview.evaluation.recon_per_view import NUMBERS
from manyview.evaluation.tables import markdown_table

PAPER = {  # Table II: accuracy, completeness (x100), scale factor
    "7-Scenes": {"Fast3R (paper)": (2.45, 2.97, 3.54), "Distill3R (paper)": (8.76, 8.88, 1.62)},
    "DTU": {"Fast3R (paper)": (0.31, 0.41, 942.49), "Distill3R (paper)": (1.16, 1.77, 394.59)},
}


def manifest(name: str, folder: Path, form: str, stride: int, out: Path) -> Path:
    """The frames that are judged; of a set with splits those of the test."""
    path = out / f"{name}.parquet"
    words = ["data", "scan", str(folder), "--format", form, "--stride", str(stride), "-o", str(path)]
    if not path.is_file() and manyview(words):
        raise SystemExit(2)
    frames = Manifest.load(path)
    test = [frame for frame in frames.frames if frame.split == "test"]
    if test and len(test) < len(frames):
        Manifest(test, frames.root, frames.info).save(path)
    return path


def judged(model: str, data: Path, out: Path) -> dict[str, Any]:
    words = ["eval", "recon-per-view", "--model", model, "--data", str(data), "--views", "1", "-o", str(out)]
    if manyview([*words, "--json", f"{out}.json", "--overwrite"]):
        raise SystemExit(2)
    return json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))["rows"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seven-scenes", type=Path)
    parser.add_argument("--dtu", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--models", nargs="+", default=["manyview-small", "manyview-tiny"])
    parser.add_argument("-o", "--out", type=Path, default=Path("out/per-view"))
    parser.add_argument("--write", type=Path, metavar="MD")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = {"7-Scenes": (args.seven_scenes, "7scenes", 20), "DTU": (args.dtu, "dtu", 1)}
    sets |= {name: (Path(folder), "manyview", 4) for name, _, folder in (word.partition("=") for word in args.set)}
    there = {name: found for name, found in sets.items() if found[0] is not None}
    if not there:
        parser.error("name a data set: --seven-scenes, --dtu or --set")
    rows = []
    for name, (folder, form, stride) in there.items():
        data = manifest(name, folder, form, stride, args.out)
        for model in args.models:
            row = judged(model, data, args.out / f"{name}-{Path(model).name}")
            rows.append([f"{name}, {Path(model).name}", *(n.text(row.get(n.key)) for n in NUMBERS), str(row["views"])])
        for model, (accuracy, completeness, scale) in PAPER.get(name, {}).items():
            rows.append([f"{name}, {model}", f"{accuracy}", f"{completeness}", "–", "–", f"{scale}", "–"])
    text = "\n\n".join(
        [
            "# Reconstruction view by view",
            "Written by `python benchmarks/per_view.py`; local maps, one view at a time, one scale a view.",
            markdown_table(["", *(number.head for number in NUMBERS), "views"], rows),
        ]
    )
    print(text)
    if args.write:
        args.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
