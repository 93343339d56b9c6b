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

from manyview.data.sources.base import SOURCES, Scenes, Source, reader
from manyview.data.sources.poses import inverse, rigid
from manyview.data.sources.rows import Camera, Lens, Row

_FILE = "frame_annotations.jgz"


@SOURCES.add("co3d")
@reader(f"CATEGORY/{_FILE} with sequences beside it")
def scenes(src: Source) -> Scenes:
    """The folder of categories, or one category."""
    for file in sorted([*src.root.glob(_FILE), *src.root.glob(f"*/{_FILE}")]):
        sequences: dict[str, list[Row]] = {}
        for entry in src.read(file, _entries) or ():
            image = file.parent / entry["image"]["path"].partition("/")[2]  # paths begin with the category
            if image.parent.is_dir():  # else a sequence that was not downloaded
                sequences.setdefault(entry["sequence_name"], []).append(_row(entry, image))
        for name, rows in sequences.items():
            yield f"{file.parent.name}/{name}", rows


def _entries(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return json.load(file)


def _row(entry: dict[str, Any], image: Path) -> Row:
    height, width = entry["image"]["size"]
    view, depth = entry.get("viewpoint"), entry.get("depth") or {}
    camera = None
    if view:
        pose = pose_from_pytorch3d(view["R"], view["T"])
        camera = Camera(_lens(view, width, height), pose, (width, height))
    return Row(
        image=image,
        camera=camera,
        depth=image.parent.parent / "depths" / Path(depth["path"]).name if depth.get("path") else None,
        depth_scale=float(depth.get("scale_adjustment") or 1.0),
    )


def pose_from_pytorch3d(rotation: Any, translation: Any) -> np.ndarray:
    """Row vectors, x left, y up: X_camera = X_world R + T -> cam2world (4, 4) with OpenCV axes."""
    flip = np.diag([-1.0, -1.0, 1.0])
    world2cam = rigid(flip @ np.asarray(rotation, np.float64).T, flip @ np.asarray(translation, np.float64))
    return inverse(world2cam)


def _lens(view: dict[str, Any], width: int, height: int) -> Lens:
    if view.get("intrinsics_format", "ndc_isotropic") == "ndc_isotropic":
        half = (min(width, height) / 2,) * 2
    else:
        half = (width / 2, height / 2)
    (fx, fy), (px, py) = view["focal_length"], view["principal_point"]
    return fx * half[0], fy * half[1], width / 2 - px * half[0], height / 2 - py * half[1]
