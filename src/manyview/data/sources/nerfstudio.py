"""`transforms.json` scenes as nerfstudio (and instant-ngp, and NeRF's synthetic scenes) write them.

Layout: docs.nerf.studio, "Data conventions". Every folder with a transforms.json is a scene;
`transforms_train.json`, `_val`, `_test` beside each other are one scene with splits.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.rows import Row
from manyview.data.sources.transforms_json import rows_of

_SPLITS = {"transforms.json": "", **{f"transforms_{split}.json": split for split in ("train", "val", "test")}}


@SOURCES.add("nerfstudio")
@reader("transforms.json")
def scenes(src: Source) -> Scenes:
    """A transforms.json, a folder with one, or a folder of such folders."""
    src.dataset = src.root.name
    files = [src.path.resolve()] if src.path.is_file() else src.files_named(_SPLITS.__contains__)
    rows_by_folder: dict[Path, dict[Path, Row]] = {}
    for path in files:
        rows = rows_by_folder.setdefault(path.parent, {})
        for row in rows_of(src, path, images=[path.parent]):
            rows.setdefault(row.image, replace(row, split=row.split or _SPLITS.get(path.name, "")))
    for folder, rows in rows_by_folder.items():
        yield src.name(folder), rows.values()
