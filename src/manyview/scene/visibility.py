"""Which views of a scene see a point."""

from __future__ import annotations

import numpy as np
import torch

from manyview.geometry import cameras, poses
from manyview.scene.views import SceneView


def look(view: SceneView, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Which world points (N, 3) the view sees, (N,) bool, and where: (N, 2) pixels at the model's resolution.

    Seen means inside the picture and within `tolerance` (relative) of the depth the view has there.
    """
    inside, uv, depth, there = depths_seen(view, points)
    return inside & (np.abs(depth - there) <= tolerance * there), uv


def depths_seen(view: SceneView, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which world points (N, 3) lie before a depth that the view has, where, their own depth, and the view's there.

    (N,) bool, (N, 2) pixels at the model's resolution, (N,) and (N,); the latter 0 where the view has none.
    """
    height, width = view.depth.shape
    camera_from_world = poses.invert(torch.from_numpy(view.pose))
    local = poses.apply(camera_from_world, torch.from_numpy(np.asarray(points, np.float64)))
    uv, depth = (values.numpy() for values in cameras.project(local, torch.from_numpy(view.intrinsics)))
    inside = (depth > 0) & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    column, row = np.where(inside[:, None], uv, 0).astype(np.int64).T
    seen_depth = np.asarray(view.depth, np.float64)[row, column]
    return inside & (seen_depth > 0), uv, depth, np.where(inside, seen_depth, 0)
