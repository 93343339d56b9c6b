"""Files of cameras: our cameras.json, a COLMAP model, nerfstudio's transforms.json.

Pixel centres are at +0.5 in COLMAP and nerfstudio; a cameras.json says where its are (docs/datasets.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manyview.data.sources.colmap import read_model
from manyview.data.sources.poses import OPENGL, full
from manyview.data.sources.rows import Lens
from manyview.data.sources.transforms import distorts, lens_kind, lens_of, stated_size, whole_frames
from manyview.errors import UserError
from manyview.files import parse_json


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
    shared: bool = False
    """Whether one lens is given for all photos without the size that it is for."""
    lens_at: Callable[[tuple[float, float]], Lens | None] | None = None
    """Where no size and no whole matrix is said: the lens in a picture of this (width, height)."""


def read_known(path: Path) -> list[Known]:
    """All cameras of a file or of a model's folder. Raises UserError for one that is none, or whose lenses distort."""
    file = _place(path)
    try:
        known = _colmap(file) if file.is_dir() else _json(file)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
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
        Known(photo.name, matrix_of(*photo.camera.lens), photo.camera.cam2world, photo.camera.size)
        for photo in model.photos
        if photo.camera.lens is not None
    ]


def matrix_of(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(3, 3) of four numbers."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _json(file: Path) -> list[Known]:
    content = parse_json(file.read_text(encoding="utf-8"))
    frames = content["frames"]
    if frames and "file" in frames[0]:
        half = 0.5 - float(content.get("pixel_centres", 0))
        return [_ours(frame, half) for frame in frames]
    return [_nerfstudio(frame, file) for frame in whole_frames(content)]


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
    if (kind := lens_kind(frame)) or distorts(frame):
        raise UserError(
            f"{file}: the lens of {name} ({kind or frame.get('camera_model', 'OPENCV')}) distorts, and cameras here do "
            "not; undistort the photos first and give their pinhole cameras"
        )
    size, pose = stated_size(frame), frame.get("transform_matrix")
    lens = lens_of(frame, size)
    return Known(
        name,
        None if lens is None else matrix_of(*lens),
        None if pose is None else full(np.array(pose, np.float64)) @ OPENGL,
        size,
        frame["shared"] and size is None,
        partial(lens_of, frame) if lens is None else None,
    )
