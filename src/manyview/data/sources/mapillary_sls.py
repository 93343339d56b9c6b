"""Mapillary Street-level Sequences: `{train_val,test}/CITY/{query,database}/images/KEY.jpg` and seq_info.csv.

Layout: README of github.com/mapillary/mapillary_sls ("Package structure": seq_info.csv has key, sequence_id and
frame_number). A sequence is a scene, its frames in the order of their numbers; without seq_info.csv each image is
a scene of its own. Nothing but the pictures is read.
"""

from __future__ import annotations

import csv
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, Row, find_folders, images_of, need_scenes


@SOURCES.add("mapillary-sls")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder with train_val and test, one of these, or a city."""
    data = Collector(src, options, "mapillary-sls")
    parents = ("query", "database")
    folders = [
        path for path in find_folders(data.root, lambda name: name == "images") if path.parent.name in parents
    ]
    alone: list[Row] = []
    for folder in need_scenes(folders, src, "CITY/query/images folder"):
        file = folder.parent / "seq_info.csv"
        order = (data.read(file, _sequences) or {}) if file.is_file() else {}
        split = next((part for part in ("train_val", "test") if part in folder.parts), "")
        scenes: dict[str, list[Row]] = {}
        for image in images_of(folder):
            sequence, number = order.get(image.stem, ("", 0))
            row = Row(image=data.below(image), name=f"{number:06d}_{image.stem}", split=split)
            scenes.setdefault(sequence, []).append(row)
        alone += [Row(image=row.image, split=split) for row in scenes.pop("", [])]
        for sequence, rows in scenes.items():
            data.add(f"{data.below(folder.parent)}/{sequence}", rows)
    if alone:
        data.add_singles(alone)
    return data.found


def _sequences(path: Path) -> dict[str, tuple[str, int]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["key"]: (row["sequence_id"], int(float(row["frame_number"]))) for row in rows}
