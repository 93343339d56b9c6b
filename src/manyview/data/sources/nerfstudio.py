"""`transforms.json` scenes as nerfstudio (and instant-ngp, and NeRF's synthetic scenes) write them.

Layout: docs.nerf.studio, "Data conventions". Every folder with a transforms.json is a scene;
`transforms_train.json`, `_val`, `_test` beside each other are one scene with splits.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.rows import Collector, Row, find_files, need_scenes
from manyview.data.sources.transforms_json import rows_of

_FILES = {"": "transforms.json", "train": "transforms_train.json", "val": "transforms_val.json"}
_FILES["test"] = "transforms_test.json"


@SOURCES.add("nerfstudio")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """A transforms.json, a folder with one, or a folder of such folders."""
    folder = src.parent if src.is_file() else src
    data = Collector(folder, options, folder.resolve().name)
    known = set(_FILES.values())
    files = [src.resolve()] if src.is_file() else find_files(data.root, known.__contains__)
    scenes: dict[Path, dict[str, Row]] = {}
    splits = {name: split for split, name in _FILES.items()}
    for path in need_scenes(files, src, "transforms.json"):
        rows = scenes.setdefault(path.parent, {})
        for row in rows_of(data, path, images=[path.parent]):
            split = row.split or splits.get(path.name, "")
            rows.setdefault(row.image, Row(**{**vars(row), "split": split}))
    for scene, rows in scenes.items():
        data.add(data.root.name if scene == data.root else data.below(scene), rows.values())
    return data.found
