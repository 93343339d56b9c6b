"""Poses and small text files of foreign layouts, in numpy: everything becomes OpenCV cam2world (4, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def opencv_from_opengl(cam2world: np.ndarray) -> np.ndarray:
    """(4, 4) cam2world whose camera looks along -z with y up -> OpenCV axes; the world stays as it is."""
    return np.asarray(cam2world, np.float64) @ _FLIP


def rigid(rotation: np.ndarray, translation: Sequence[float] | np.ndarray) -> np.ndarray:
    """(3, 3) and (3,) -> (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def full(matrix: np.ndarray) -> np.ndarray:
    """(3, 4) or 12 numbers -> (4, 4); (4, 4) or 16 numbers stay."""
    matrix = np.asarray(matrix, np.float64)
    rows = matrix.size // 4
    if matrix.size not in (12, 16):
        raise ValueError(f"a pose has 12 or 16 numbers, not {matrix.size}")
    return np.vstack([matrix.reshape(rows, 4), np.eye(4)[rows:]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """World to camera <-> camera to world; infinite or singular matrices become NaN."""
    matrix = np.asarray(matrix, np.float64)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        return np.full((4, 4), np.nan)
    return np.linalg.inv(matrix)


def rotation_from_quaternion(wxyz: Sequence[float] | np.ndarray) -> np.ndarray:
    """Unit or not, real part first -> (3, 3)."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def unmirrored(cam2world: np.ndarray) -> np.ndarray:
    """A pose given in a left-handed world (determinant -1) with the world's y axis turned over."""
    matrix = np.asarray(cam2world, np.float64)
    if np.isfinite(matrix).all() and np.linalg.det(matrix[:3, :3]) < 0:
        return np.diag([1.0, -1.0, 1.0, 1.0]) @ matrix
    return matrix


def numbers(path: Path, *, skip: int = 0) -> list[list[float]]:
    """The numbers of a text file line by line; empty lines and lines that begin with # are left out."""
    lines = path.read_text().splitlines()[skip:]
    return [
        [float(word) for word in line.replace(",", " ").split()]
        for line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]


def matrix_of(path: Path) -> np.ndarray:
    """A text file of one matrix -> (rows, columns) float64."""
    return np.array(numbers(path), np.float64)
