"""What other views say of a view's points: which they contradict, and how far depths may be trusted.

A view agrees with itself whatever it says, so only different views are compared: a point goes to another view's camera,
and its depth there is held against the depth that the other view has at that pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    typical, far = {}, {}
    for index in rows:
        view, values = views[index], _differences(views, tracks, index, rows)
        seen = np.isfinite(values)
        if not seen.any():
            continue
        view.contradicted = view.valid & seen.any(0) & ~(np.abs(values) < AGREES).any(0)
        ranked = np.sort(np.where(seen, np.abs(values), np.inf), 0)
        middle = np.take_along_axis(ranked, np.maximum(seen.sum(0) - 1, 0)[None] // 2, 0)[0]
        typical[index] = np.where(seen.any(0), np.log(np.maximum(middle, FLOOR)), np.float32(np.nan))
        far[index] = _far(view, tracks, index).astype(np.float32)
    if not typical:
        return False
    used = {index: np.isfinite(values) & views[index].valid for index, values in typical.items()}
    total = sum(int(mask.sum()) for mask in used.values())
    confidences = {index: views[index].confidence for index in used}
    errors, distances, sure = (_sampled(used, maps, total) for maps in (typical, far, confidences))
    usual = sum(float(typical[index][mask].sum(dtype=np.float64)) for index, mask in used.items()) / total
    by_confidence = _monotone(sure, errors, rising=False)
    by_distance = _monotone(distances, errors, rising=True)
    for index in typical:
        view = views[index]
        view.info["confidence"] = "calibrated"
        alike = (np.interp(view.confidence, *by_confidence) + np.interp(far[index], *by_distance)) / 2
        own = np.where(np.isfinite(typical[index]), typical[index], usual)
        view.confidence = np.exp(-((1 - OWN) * alike + OWN * own)).astype(np.float32)
    return True


def _sampled(used: Mapping[int, np.ndarray], maps: Mapping[int, np.ndarray], total: int) -> np.ndarray:
    """About SAMPLE values of all views' maps (H, W), evenly, of the pixels that are used, `total` in number."""
    step, start, chosen = max(1, total // SAMPLE), 0, []
    for index, mask in used.items():
        values = maps[index][mask]
        chosen.append(values[-start % step :: step])
        start += len(values)
    return np.concatenate(chosen)


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
