"""CO3D version 2 (and 1): `CATEGORY/frame_annotations.jgz` and the images, depths and cameras it names.

Layout: datasets_preprocess/preprocess_co3d.py of github.com/naver/dust3r (gzipped JSON; `viewpoint` with PyTorch3D's
R and T, rows times matrix, x left and y up, and focal length and principal point in units of half the shorter side
from the centre; depth PNGs hold half floats to be multiplied by `scale_adjustment`). `intrinsics_format`
ndc_norm_image_bounds, as version 1 writes it, counts in half the width and half the height instead: unverified.
Whole videos are sequences, as MuM has them. Scale is arbitrary.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.poses import inverse, rigid
from manyview.data.sources.rows import Collector, Row, need_scenes

_FILE = "frame_annotations.jgz"


@SOURCES.add("co3d")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder of categories, or one category."""
    data = Collector(src, options, "co3d")
    files = need_scenes(
        sorted([*data.root.glob(_FILE), *data.root.glob(f"*/{_FILE}")]), src, f"CATEGORY/{_FILE}"
    )
    for file in files:
        base = file.parent.parent if data.root != file.parent else data.root  # paths begin with the category
        scenes: dict[str, list[Row]] = {}
        for entry in data.read(file, _entries) or ():
            image = base / entry["image"]["path"]
            if data.root == file.parent:
                image = data.root / entry["image"]["path"].partition("/")[2]
            if not image.parent.is_dir():
                continue  # a sequence that was not downloaded
            scenes.setdefault(entry["sequence_name"], []).append(_row(data, entry, image))
        for name, rows in scenes.items():
            data.add(f"{file.parent.name}/{name}", rows)
    return data.found


def _entries(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return json.load(file)


def _row(data: Collector, entry: dict[str, Any], image: Path) -> Row:
    height, width = entry["image"]["size"]
    view, depth = entry.get("viewpoint"), entry.get("depth") or {}
    scene = image.parent.parent
    return Row(
        image=data.below(image),
        camera=_camera(view, width, height) if view else None,
        camera_size=(width, height),
        cam2world=pose_from_pytorch3d(view["R"], view["T"]) if view else None,
        depth=data.below(scene / "depths" / Path(depth["path"]).name) if depth.get("path") else None,
        depth_scale=float(depth.get("scale_adjustment") or 1.0),
    )


def pose_from_pytorch3d(rotation: Any, translation: Any) -> np.ndarray:
    """Row vectors, x left, y up: X_camera = X_world R + T -> cam2world (4, 4) with OpenCV axes."""
    flip = np.diag([-1.0, -1.0, 1.0])
    world2cam = rigid(flip @ np.asarray(rotation, np.float64).T, flip @ np.asarray(translation, np.float64))
    return inverse(world2cam)


def _camera(view: dict[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    if view.get("intrinsics_format", "ndc_isotropic") == "ndc_isotropic":
        half = (min(width, height) / 2,) * 2
    else:
        half = (width / 2, height / 2)
    (fx, fy), (px, py) = view["focal_length"], view["principal_point"]
    return fx * half[0], fy * half[1], width / 2 - px * half[0], height / 2 - py * half[1]
