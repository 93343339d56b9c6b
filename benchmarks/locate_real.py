"""What a model with words says of labelled photos of the real world: zero-shot segmentation of ADE20K, VOC and CamVid.

    python benchmarks/locate_real.py SHARED/data OUT --write docs/locate.md

Samples of three data sets in the layout cameras.json, with names of classes. Nothing is trained or chosen on them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_page import write_section

from manyview.data.manifest import Manifest
from manyview.data.sources import scan
from manyview.evaluation.base import evaluate
from manyview.evaluation.tables import markdown_table
from manyview.evaluation.zeroshot_segmentation import ZeroshotSegmentation
from manyview.files import write_json
from manyview.models.model import Reconstructs
from manyview.zoo.models import load_as

SETS = {"ade20k_sceneparsing3": "ADE20K", "voc_labelme3": "Pascal VOC", "camvid_train": "CamVid"}
NOTHING = ("unlabelled", "void")
OTHERWISE = {"_background_": "background", "diningtable": "dining table", "aeroplane": "airplane"}


def labelled(folder: Path) -> Manifest:
    """A sample's manifest, its classes by their first name; what has no class counts nowhere."""
    data, problems = scan(folder, format="manyview")
    if problems:
        raise SystemExit(f"{folder}: {problems[0]}")
    names = json.loads((folder / "cameras.json").read_text(encoding="utf-8"))["label_names"]
    kept = [name for name in names if name not in NOTHING]
    data.info["classes"] = [OTHERWISE.get(first := name.split(",")[0].strip(), first) for name in kept]
    data.info["label_map"] = [kept.index(name) if name in kept else -1 for name in names]
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="manyview-small-words")
    parser.add_argument("--write", type=Path, metavar="PAGE.md")
    args = parser.parse_args()
    model: Any = load_as(args.model, Reconstructs, None)[0]
    lines, told = [], {}
    for folder, name in SETS.items():
        data = labelled(args.data / folder)
        summary = evaluate(ZeroshotSegmentation(), model, data, args.out / folder)
        told[name] = rows = {row["method"]: row for row in summary["rows"]}
        size = [str(len(data.frames)), str(len(data.info["classes"]))]
        cells = [f"{100 * rows[method][key]:.1f}" for key in ("miou", "accuracy") for method in rows]
        lines.append([name, *size, *cells])
    write_json(args.out / "real.json", told)
    heads = [
        f"{what} %, {who}" for what in ("mIoU", "pixels right") for who in ("model", "shuffled", "commonest class")
    ]
    table = markdown_table(["", "photos", "classes", *heads], lines)
    print(table)
    if args.write:
        command = f"python benchmarks/locate_real.py DATA OUT --write {args.write}"
        text = [
            "## Photos of the real world",
            f"Written by `{command}`: `manyview eval zeroshot-segmentation` with {args.model} on samples of three "
            "labelled data sets, every pixel by the nearest of all class names, nothing trained. Controls: the names "
            "shuffled, and the commonest class everywhere, which nobody knows beforehand.",
            table,
            "The heads saw 37 kinds of things in rendered rooms and no photo; the samples of ADE20K and CamVid are "
            "streets. Where the model is not above its controls it knows nothing of these photos.",
        ]
        write_section(args.write, "real", "\n\n".join(text))


if __name__ == "__main__":
    main()
