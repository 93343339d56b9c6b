"""Reading `transforms.json` as nerfstudio writes it: one place for everything that comes in this form.

Keys: docs.nerf.studio, "Data conventions" (camera_model, fl_x fl_y cx cy w h, k1 ..., per file or per frame;
file_path, depth_file_path; transform_matrix is camera to world with OpenGL axes: +x right, +y up, looking
along -z), and `camera_angle_x` of the NeRF synthetic scenes. Depth: PNG in millimetres or .npy in scene units.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import tan
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.base import Source, first_file
from manyview.data.sources.poses import full, opencv_from_opengl
from manyview.data.sources.rows import Camera, Lens, Row

_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE", "EQUIRECTANGULAR", "FISHEYE624")


def rows_of(src: Source, file: Path, *, images: Sequence[Path]) -> list[Row]:
    """A row per frame of a transforms.json; its images are looked for in each of the folders `images` in turn.

    A name without suffix means .png. Frames whose image is in none of the folders keep the first path, so that
    the scan lists them as missing. Distortion is not corrected.
    """
    rows = []
    for entry, camera in src.read(file, _entries) or ():
        depth = file.parent / entry["depth_file_path"] if entry.get("depth_file_path") else None
        rows.append(
            Row(
                image=first_file(folder / name for folder in images for name in _names(entry["file"])),
                camera=camera,
                depth=depth,
                depth_scale=1.0 if depth and depth.suffix == ".npy" else 0.001,
                split=entry["split"],
            )
        )
    return rows


def _entries(path: Path) -> list[tuple[dict[str, Any], Camera]]:
    """All frames of a transforms.json, each with its camera. Raises ValueError, KeyError for one that is none."""
    content = json.loads(path.read_text())
    frames = [(entry, "") for entry in content["frames"]]
    frames += [(entry, "test") for entry in content.get("test_frames") or ()]
    entries = [{**content, **entry, "file": str(entry["file_path"]), "split": split} for entry, split in frames]
    return [(entry, _camera(entry)) for entry in entries]


def _camera(entry: dict[str, Any]) -> Camera:
    pose = opencv_from_opengl(full(np.array(entry["transform_matrix"], np.float64)))
    size = (float(entry["w"]), float(entry["h"])) if "w" in entry and "h" in entry else None
    return Camera(_lens(entry, size), pose, size)


def _lens(entry: dict[str, Any], size: tuple[float, float] | None) -> Lens | None:
    """None for what is no pinhole."""
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


def _names(file: str) -> list[str]:
    plain = file.removeprefix("./")
    return [plain] if Path(plain).suffix else [f"{plain}.png", f"{plain}.jpg", plain]
