"""Files of cameras: our cameras.json, a COLMAP model, nerfstudio's transforms.json.

Pixel centres are at +0.5 in COLMAP and nerfstudio; a cameras.json says where its are (docs/datasets.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.colmap import read_model
from manyview.data.sources.poses import OPENGL, full
from manyview.errors import UserError

DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "distortion_params")
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL")


@dataclass(frozen=True)
class Known:
    """What a file says of one photo."""

    name: str
    """The photo as the file names it."""
    intrinsics: np.ndarray | None
    """(3, 3), pixel centres at +0.5 ..."""
    cam2world: np.ndarray | None
    """(4, 4), OpenCV axes."""
    size: tuple[float, float] | None
    """... of a picture of this (width, height); None: of the photo as it is."""
    angle: float | None = None
    """Where that is all that is known of the lens: the horizontal field of view in radians."""


def read_known(path: Path) -> list[Known]:
    """All cameras of a file or of a model's folder. Raises UserError for one that is none, or whose lenses distort."""
    file = _place(path)
    try:
        known = _colmap(file) if file.is_dir() else _json(file)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as cameras ({type(error).__name__}: {error}); mend it") from error
    if not known:
        raise UserError(f"{file} holds no camera")
    return known


def _place(path: Path) -> Path:
    """The file, or the COLMAP model's folder, that a path means."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of cameras")
    if path.is_file():
        return path.parent if path.name in ("images.bin", "images.txt", "cameras.bin", "cameras.txt") else path
    for name in ("cameras.json", "transforms.json"):
        if (path / name).is_file():
            return path / name
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "0"):
        if any((folder / f"images.{kind}").is_file() for kind in ("bin", "txt")):
            return folder
    raise UserError(
        f"{path} holds no cameras: give a cameras.json, a transforms.json, or a COLMAP model's folder "
        "(images.bin or images.txt)"
    )


def _colmap(folder: Path) -> list[Known]:
    model = read_model(folder)
    if model.distorted or any(photo.camera.lens is None for photo in model.photos):
        raise UserError(
            f"{folder}: its lenses distort, and cameras here do not; undistort photos and model first: colmap "
            "image_undistorter --image_path PHOTOS --input_path MODEL --output_path OUT"
        )
    return [
        Known(photo.name, _matrix(*photo.camera.lens), photo.camera.cam2world, photo.camera.size)
        for photo in model.photos
        if photo.camera.lens is not None
    ]


def _matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _json(file: Path) -> list[Known]:
    content = json.loads(file.read_text(encoding="utf-8"))
    frames = content["frames"]
    if frames and "file" in frames[0]:
        half = 0.5 - float(content.get("pixel_centres", 0))
        return [_ours(frame, half) for frame in frames]
    frames = [{**content, **frame} for frame in [*frames, *(content.get("test_frames") or ())]]
    return [_nerfstudio(frame, file) for frame in frames]


def _ours(frame: dict[str, Any], half_pixel: float) -> Known:
    matrix = frame.get("K")
    if matrix is not None:
        matrix = np.array(matrix, np.float64).reshape(3, 3)
        matrix[:2, 2] += half_pixel
    pose = frame.get("cam2world")
    size = frame.get("size")
    return Known(
        str(frame["file"]),
        matrix,
        None if pose is None else full(np.array(pose, np.float64)),
        None if size is None else (float(size[0]), float(size[1])),
    )


def _nerfstudio(frame: dict[str, Any], file: Path) -> Known:
    name = str(frame["file_path"])
    model = str(frame.get("camera_model", "OPENCV"))
    if model not in PINHOLES or any(np.any(frame.get(key)) for key in DISTORTION if frame.get(key) is not None):
        raise UserError(
            f"{file}: the lens of {name} ({model}) distorts, and cameras here do not; undistort the photos first and "
            "give their pinhole cameras"
        )
    size = (float(frame["w"]), float(frame["h"])) if "w" in frame and "h" in frame else None
    pose = frame.get("transform_matrix")
    lens = None
    if "fl_x" in frame and size is not None:
        fx = float(frame["fl_x"])
        cx, cy = float(frame.get("cx", size[0] / 2)), float(frame.get("cy", size[1] / 2))
        lens = _matrix(fx, float(frame.get("fl_y", fx)), cx, cy)
    elif "fl_x" in frame and "cx" in frame and "cy" in frame:
        fx = float(frame["fl_x"])
        lens = _matrix(fx, float(frame.get("fl_y", fx)), float(frame["cx"]), float(frame["cy"]))
    angle = float(frame["camera_angle_x"]) if lens is None and "camera_angle_x" in frame else None
    cam2world = None if pose is None else full(np.array(pose, np.float64)) @ OPENGL
    return Known(name, lens, cam2world, size, angle)
