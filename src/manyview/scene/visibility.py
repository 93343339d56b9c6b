"""Which views of a scene see a point, and how much the views see of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from manyview.geometry import cameras, poses
from manyview.scene.views import SceneView


def look(view: SceneView, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Which world points (N, 3) the view sees, (N,) bool, and where: (N, 2) pixels at the model's resolution.

    Seen means inside the picture and within `tolerance` (relative) of the depth the view has there.
    """
    height, width = view.depth.shape
    camera_from_world = poses.invert(torch.from_numpy(view.cam2world))
    local = poses.apply(camera_from_world, torch.from_numpy(np.asarray(points, np.float64)))
    uv, depth = (values.numpy() for values in cameras.project(local, torch.from_numpy(view.intrinsics)))
    inside = (depth > 0) & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    column, row = np.where(inside[:, None], uv, 0).astype(np.int64).T
    seen_depth = np.asarray(view.depth, np.float64)[row, column]
    near = np.abs(depth - seen_depth) <= tolerance * seen_depth
    return inside & (seen_depth > 0) & near, uv


def overlaps(views: Sequence[SceneView], *, samples: int = 400, tolerance: float = 0.15) -> np.ndarray:
    """(V,) share of each view's points that at least one other view sees; 1 when there is one view only."""
    count = len(views)
    if count < 2:
        return np.ones(count)
    samples = max(32, min(samples, 60_000 // count))
    points, owner = _sample(views, samples)
    seen = np.zeros(len(points), bool)
    for index, view in enumerate(views):
        unseen = np.flatnonzero(~seen & (owner != index))
        seen[unseen] = look(view, points[unseen], tolerance)[0]
    return np.array([seen[owner == i].mean() if (owner == i).any() else 0.0 for i in range(count)])


def _sample(views: Sequence[SceneView], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spread points of every view (N, 3), and whose they are (N,)."""
    points, owner = [], []
    for index, view in enumerate(views):
        own = view.pointmap[view.valid]
        own = own[:: max(1, len(own) // samples)]
        points.append(own)
        owner.append(np.full(len(own), index))
    return np.concatenate(points), np.concatenate(owner)
