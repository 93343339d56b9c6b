"""Poses and small text files of foreign layouts, in numpy: everything becomes OpenCV cam2world (4, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""A camera that looks along -z with y up <-> one with OpenCV axes: to the right of cam2world, or left of world2cam."""


def rigid(rotation: np.ndarray, translation: ArrayLike) -> np.ndarray:
    """(3, 3) and (3,) -> (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def full(matrix: ArrayLike) -> np.ndarray:
    """(3, 4) or 12 numbers -> (4, 4); (4, 4) or 16 numbers stay."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.size not in (12, 16):
        raise ValueError(f"a pose has 12 or 16 numbers, not {matrix.size}")
    return np.vstack([matrix.reshape(-1, 4), np.eye(4)[matrix.size // 4 :]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """World to camera <-> camera to world; infinite or singular matrices become NaN."""
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        return np.full((4, 4), np.nan)
    return np.linalg.inv(matrix)


def rotation_from_quaternion(wxyz: ArrayLike) -> np.ndarray:
    """Unit or not, real part first -> (3, 3); NaN for zero, which is no rotation."""
    length = float(np.linalg.norm(wxyz))
    w, *axis = np.asarray(wxyz, np.float64) / (length or np.nan)
    turn = np.cross(axis, np.eye(3)).T  # turn @ u is axis x u
    return np.eye(3) + 2 * w * turn + 2 * turn @ turn


def unmirrored(cam2world: np.ndarray) -> np.ndarray:
    """A pose given in a left-handed world (determinant -1) with the world's y axis turned over."""
    mirrored = np.isfinite(cam2world).all() and np.linalg.det(cam2world[:3, :3]) < 0
    return np.diag([1.0, -1.0, 1.0, 1.0]) @ cam2world if mirrored else cam2world


def numbers(path: Path, *, skip: int = 0) -> list[list[float]]:
    """The numbers of a text file line by line; empty lines and lines that begin with # are left out."""
    lines = (line.replace(",", " ").split() for line in path.read_text().splitlines()[skip:])
    return [[float(word) for word in words] for words in lines if words and not words[0].startswith("#")]


def number_in(text: str) -> int:
    """The whole number that a part of a file's name is; -1 for a name of another kind."""
    return int(text) if text.isascii() and text.isdigit() else -1


def matrix_of(path: Path) -> np.ndarray:
    """A text file of one matrix -> (rows, columns) float64."""
    return np.array(numbers(path), np.float64)


def table(path: Path, count: int) -> dict[str, Sequence[float]]:
    """A text file of lines that begin with a name -> the `count` numbers after it. Raises ValueError."""
    lines = (line.split() for line in path.read_text().splitlines() if not line.startswith("#"))
    rows: dict[str, Sequence[float]] = {words[0]: [float(word) for word in words[1:]] for words in lines if words}
    wrong = next((name for name, numbers in rows.items() if len(numbers) != count), None)
    if wrong is not None:
        raise ValueError(f"{wrong} has {len(rows[wrong])} numbers, not {count}")
    return rows
