"""Reading `transforms.json` as nerfstudio writes it: one place for everything that comes in this form.

Keys: docs.nerf.studio, "Data conventions" (camera_model, fl_x fl_y cx cy w h, k1 ..., per file or per frame;
file_path, depth_file_path; transform_matrix is camera to world with OpenGL axes: +x right, +y up, looking
along -z), and `camera_angle_x` of the NeRF synthetic scenes. Depth: PNG in millimetres or .npy in scene units.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import tan
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.poses import full, opencv_from_opengl
from manyview.data.sources.rows import Collector, Row

_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE", "EQUIRECTANGULAR", "FISHEYE624")


@dataclass(frozen=True)
class Shot:
    """One entry of the file."""

    file: str
    cam2world: np.ndarray
    camera: tuple[float, float, float, float] | None
    """fx, fy, cx, cy with pixel centres at +0.5, distortion not corrected; None for what is no pinhole."""
    size: tuple[float, float] | None
    depth: str | None
    split: str


def read_shots(path: Path) -> list[Shot]:
    """All frames of a transforms.json. Raises ValueError, KeyError for one that is none."""
    content = json.loads(path.read_text())
    entries = [(entry, "") for entry in content["frames"]]
    entries += [(entry, "test") for entry in content.get("test_frames") or ()]
    return [_shot({**content, **entry}, split) for entry, split in entries]


def _shot(entry: dict[str, Any], split: str) -> Shot:
    size = (float(entry["w"]), float(entry["h"])) if "w" in entry and "h" in entry else None
    return Shot(
        file=str(entry["file_path"]),
        cam2world=opencv_from_opengl(full(np.array(entry["transform_matrix"], np.float64))),
        camera=_camera(entry, size),
        size=size,
        depth=entry.get("depth_file_path"),
        split=split,
    )


def _camera(
    entry: dict[str, Any], size: tuple[float, float] | None
) -> tuple[float, float, float, float] | None:
    if entry.get("camera_model") in _FISHEYE:
        return None
    if "fl_x" in entry:
        fx = float(entry["fl_x"])
        fy = float(entry.get("fl_y", fx))
    elif "camera_angle_x" in entry and size is not None:
        fx = fy = size[0] / 2 / tan(float(entry["camera_angle_x"]) / 2)
    else:
        return None
    if "cx" in entry and "cy" in entry:
        return fx, fy, float(entry["cx"]), float(entry["cy"])
    return None if size is None else (fx, fy, size[0] / 2, size[1] / 2)


def rows_of(
    data: Collector, file: Path, *, images: Sequence[Path], depth_scale: float | None = None
) -> list[Row]:
    """A row per frame of a transforms.json; its images are looked for in each of the folders `images` in turn.

    A name without suffix means .png. Frames whose image is in none of the folders keep the first path, so that
    the scan lists them as missing. `depth_scale` default: 0.001 for PNG, 1 for .npy.
    """
    rows = []
    for shot in data.read(file, read_shots) or ():
        image = _existing([folder / name for folder in images for name in _names(shot.file)])
        depth = None
        if shot.depth:
            depth = _existing([file.parent / shot.depth])
        rows.append(
            Row(
                image=data.below(image),
                camera=shot.camera,
                camera_size=shot.size,
                cam2world=shot.cam2world,
                depth=data.below(depth) if depth else None,
                depth_scale=depth_scale or (1.0 if depth and depth.suffix == ".npy" else 0.001),
                split=shot.split,
            )
        )
    return rows


def _names(file: str) -> list[str]:
    plain = file.removeprefix("./")
    return [plain] if Path(plain).suffix else [f"{plain}.png", f"{plain}.jpg", plain]


def _existing(paths: Sequence[Path]) -> Path:
    """The first path that is there, else the first."""
    return next((path for path in paths if path.is_file()), paths[0])
