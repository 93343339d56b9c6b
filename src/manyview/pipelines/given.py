"""Cameras a user already knows, checked before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from manyview.errors import UserError
from manyview.images.inputs import as_array


def _array(values: Any, what: str) -> np.ndarray:
    try:
        if isinstance(values, (list, tuple)):
            values = [as_array(value) for value in values]
        array = np.asarray(as_array(values), np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} cannot be read as numbers: {error}") from None
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise UserError(f"{what} has a value that is not finite, first at index {bad}; leave that picture out")
    return array


def per_picture(intrinsics: Any) -> bool:
    """Whether there is one matrix per picture, so that no picture may be left out in silence."""
    return intrinsics is not None and _array(intrinsics, "intrinsics").ndim == 3


def given_intrinsics(values: Any, count: int) -> np.ndarray | None:
    """(V, 3, 3) in pixels of the original pictures, from one matrix for all or one per view."""
    if values is None:
        return None
    matrices = _array(values, "intrinsics")
    if matrices.shape == (3, 3):
        matrices = np.broadcast_to(matrices, (count, 3, 3))
    if matrices.shape != (count, 3, 3):
        raise UserError(f"intrinsics have shape {matrices.shape}; {count} pictures take (3, 3) or ({count}, 3, 3)")
    for index, matrix in enumerate(matrices):
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.allclose(matrix[2], [0, 0, 1]):
            raise UserError(
                f"intrinsics of picture {index} are no camera matrix: focal lengths above 0, last row 0 0 1"
            )
    return matrices.copy()


def given_poses(values: Any, count: int) -> np.ndarray | None:
    """(V, 4, 4) cam2world, each a rigid transform."""
    if values is None:
        return None
    poses = _array(values, "cam2world")
    if poses.shape != (count, 4, 4):
        raise UserError(f"cam2world has shape {poses.shape}; {count} pictures take ({count}, 4, 4)")
    for index, pose in enumerate(poses):
        rotation = pose[:3, :3]
        rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0
        if not rigid or not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
            raise UserError(f"cam2world of picture {index} is not rigid (last row 0 0 0 1, rotation orthonormal)")
    return poses
