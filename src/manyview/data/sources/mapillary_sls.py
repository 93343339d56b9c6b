"""Mapillary Street-level Sequences: `{train_val,test}/CITY/{query,database}/images/KEY.jpg` and seq_info.csv.

Layout: README of github.com/mapillary/mapillary_sls ("Package structure": seq_info.csv has key, sequence_id and
frame_number). A sequence is a scene, its frames in the order of their numbers; without seq_info.csv each image is
a scene of its own. Nothing but the pictures is read.
"""

from __future__ import annotations

import csv
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scenes, Source, images_of, reader
from manyview.data.sources.rows import Row


@SOURCES.add("mapillary-sls")
@reader("CITY/query/images folder")
def scenes(src: Source) -> Scenes:
    """The folder with train_val and test, one of these, or a city."""
    alone: list[Row] = []
    for folder in src.folders_named("images".__eq__):
        if folder.parent.name not in ("query", "database"):
            continue
        file = folder.parent / "seq_info.csv"
        order = (src.read(file, _sequences) or {}) if file.is_file() else {}
        split = next((part for part in ("train_val", "test") if part in folder.parts), "")
        sequences: dict[str, list[Row]] = {}
        for image in images_of(folder):
            if image.stem in order:
                sequence, number = order[image.stem]
                row = Row(image=image, name=f"{number:06d}_{image.stem}", split=split)
                sequences.setdefault(sequence, []).append(row)
            else:
                alone.append(Row(image=image, split=split))
        for sequence, rows in sequences.items():
            yield f"{src.name(folder.parent)}/{sequence}", rows
    if alone:
        yield None, alone


def _sequences(path: Path) -> dict[str, tuple[str, int]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["key"]: (row["sequence_id"], int(float(row["frame_number"]))) for row in rows}
