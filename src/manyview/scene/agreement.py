"""What other views say of a view's points: which they contradict, and how far depths may be trusted.

A view agrees with itself whatever it says, so only different views are compared: a point goes to another view's camera,
and its depth there is held against the depth that the other view has at that pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.spatial import cKDTree

from manyview.cameras.tracks import Tracks
from manyview.scene.views import SceneView
from manyview.scene.visibility import depths_seen

ASKED = 12
"""Other views that a view is compared with: those that share most points with it."""
AGREES = 0.1
"""Largest difference of the logarithms of two depths that agree."""
OWN = 0.3
"""What a pixel's own difference counts; the rest is what differences are like at such confidences and distances."""
FLOOR = 0.01
"""Differences below this are all alike."""
NEAREST = 3
"""Shared points whose mean distance from a pixel says how far it is from evidence."""
SAMPLE = 20_000
"""Pixels that a scene's calibration is made from."""


def compare(views: Sequence[SceneView], tracks: Tracks) -> bool:
    """Give views `contradicted` and a calibrated confidence: one over the expected relative error of depth.

    Views that share no frame with another stay as they are, and all of them where most rest on depth: from one place
    all views err alike. Returns whether any could be compared.
    """
    rows = [index for index, view in enumerate(views) if view.registered and view.valid.any()]
    if 2 * sum(views[index].rests_on == "depth" for index in rows) > len(rows):
        return False
    apart = {index: _differences(views, tracks, index, rows) for index in rows}
    known = {index: values for index, values in apart.items() if len(values) and np.isfinite(values).any()}
    if not known:
        return False
    typical, far = {}, {}
    for index, values in known.items():
        view = views[index]
        seen = np.isfinite(values)
        view.contradicted = view.valid & seen.any(0) & ~(np.abs(values) < AGREES).any(0)
        ranked = np.sort(np.where(seen, np.abs(values), np.inf), 0)
        middle = np.take_along_axis(ranked, np.maximum(seen.sum(0) - 1, 0)[None] // 2, 0)[0]
        typical[index] = np.where(seen.any(0), np.log(np.maximum(middle, FLOOR)), np.nan)
        far[index] = _far(view, tracks, index)
    used = {index: np.isfinite(typical[index]) & views[index].valid for index in known}
    pooled = [np.concatenate([values[index][used[index]] for index in known]) for values in (typical, far)]
    sure = np.concatenate([views[index].confidence[used[index]] for index in known])
    step = max(1, len(sure) // SAMPLE)
    by_confidence = _monotone(sure[::step], pooled[0][::step], rising=False)
    by_distance = _monotone(pooled[1][::step], pooled[0][::step], rising=True)
    usual = float(pooled[0].mean())
    for index in known:
        view = views[index]
        view.info["confidence"] = "calibrated"
        alike = (np.interp(view.confidence, *by_confidence) + np.interp(far[index], *by_distance)) / 2
        own = np.where(np.isfinite(typical[index]), typical[index], usual)
        view.confidence = np.exp(-((1 - OWN) * alike + OWN * own)).astype(np.float32)
    return True


def _differences(views: Sequence[SceneView], tracks: Tracks, index: int, rows: Sequence[int]) -> np.ndarray:
    """(other views, H, W) logarithms of the depth of a view's points over what other views have there; NaN unseen."""
    view = views[index]
    shared = np.bincount(tracks.view[np.isin(tracks.point, tracks.point[tracks.view == index])], minlength=len(views))
    others = [row for row in rows if row != index and views[row].component == view.component and shared[row]]
    others = sorted(others, key=lambda row: -shared[row])[:ASKED]
    points = view.pointmap.reshape(-1, 3)
    answers = np.full((len(others), len(points)), np.nan, np.float32)
    for row, other in enumerate(others):
        seen, _, depth, there = depths_seen(views[other], points)
        answers[row, seen] = np.log(depth[seen] / there[seen])
    return answers.reshape(len(others), *view.depth.shape)


def _far(view: SceneView, tracks: Tracks, index: int) -> np.ndarray:
    """(H, W) mean distance of each pixel from the nearest shared points, in long sides."""
    own = tracks.uv[tracks.view == index] @ view.source.affine[:2, :2].T + view.source.affine[:2, 2]
    height, width = view.depth.shape
    if not len(own):
        return np.ones((height, width))
    every = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    distance = cKDTree(own).query(every, k=min(NEAREST, len(own)))[0].reshape(height, width, -1)
    far: np.ndarray = distance.mean(-1) / max(height, width)
    return far


def _monotone(of: np.ndarray, values: np.ndarray, *, rising: bool) -> tuple[np.ndarray, np.ndarray]:
    """The monotone function nearest to values, as points to interpolate between."""
    order = np.argsort(of, kind="stable")
    return of[order], isotonic_regression(values[order], increasing=rising).x
