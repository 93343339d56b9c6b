"""Answers that need no learning: planes chosen by oracle, the training set's mean depth map, a looked-up depth map.

A model that does not beat them has learnt nothing about the picture in front of it. The planes get the
measured depth to choose from (oracles); the mean map and the looked-up maps come from the training frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from manyview.metrics.reconstruction import FACTOR
from manyview.progress import track

COARSE, FINE, VALLEYS = 40, 6, 2  # constants tried, then twice around each of the lowest valleys of the curve
FEW, SOME, EVERY = 500, 2000, 10**9  # points whose neighbour is asked for accuracy in each of these rounds
SLACK = 0.05  # before the last round a neighbour may be that much farther than the nearest; that is quicker
METRICS = ("accuracy", "completeness", "abs_rel")


@dataclass
class MeasuredView:
    """One view's measured depth (H, W), 0 = none, and the rays (H, W, 3) with z = 1 through its pixel centres."""

    depth: np.ndarray
    rays: np.ndarray
    cam2world: np.ndarray | None = None
    """(4, 4), when it is known."""
    thumbnail: np.ndarray | None = None
    """(D,) what the view looks like, see `thumbnail`."""

    @cached_property
    def valid(self) -> np.ndarray:
        """(H, W) pixels with a measurement."""
        return np.isfinite(self.depth) & (self.depth > 0)

    @property
    def pointmap(self) -> np.ndarray:
        """(H, W, 3) measured points in the camera frame."""
        return self.rays * self.depth[..., None]


Search = Callable[[str, float, int], float]


def plane_search(view: MeasuredView) -> Search:
    """A function (metric, constant, most) -> accuracy or completeness of the plane at that depth,
    `most` points asking.

    Two trees serve all constants: the plane's points are the rays times the constant, and the distance of a
    point from them is the constant times that of the shrunken point from the rays, which all lie at z = 1.
    """
    from scipy.spatial import cKDTree

    # Shuffled, so that the first few points are a fair sample (every n-th one would fall into columns).
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(view.valid))
    rays = view.rays.reshape(-1, 3)[shuffled].astype(np.float64)
    truth = view.pointmap.reshape(-1, 3)[shuffled].astype(np.float64)
    measured, flat = cKDTree(truth), cKDTree(rays[:, :2])

    def search(metric: str, constant: float, most: int) -> float:
        slack = SLACK if most < len(rays) else 0.0
        if metric == "accuracy":
            distance = measured.query(constant * rays[:most], eps=slack)[0]
        else:
            shrunken = truth / constant  # all of them: a flat tree is quick
            sideways = flat.query(shrunken[:, :2])[0]
            distance = constant * np.hypot(sideways, shrunken[:, 2] - 1)
        return FACTOR * float(np.median(distance))

    return search


def constant_planes(views: Sequence[MeasuredView]) -> dict[str, list[dict[str, float]]]:
    """The best constant-depth planes, the constant chosen by oracle for each metric on its own.

    "constant_plane": one constant per view; "constant_plane_one": one for all views (that of the best mean).
    A dictionary per view: accuracy, completeness, abs_rel, and the constants under `<metric>_constant`.
    """
    if not views:
        return {"constant_plane": [], "constant_plane_one": []}
    depths = [view.depth[view.valid].astype(np.float64) for view in views]
    low, high = min(np.quantile(d, 0.01) for d in depths), max(np.quantile(d, 0.99) for d in depths)
    grid = np.geomspace(0.8 * low, 1.2 * high, COARSE)
    searches = [plane_search(view) for view in views]
    curves: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS[:2]}
    per_view = []
    for search, depth in track(list(zip(searches, depths, strict=True)), label="constant planes", unit="view"):
        best = {"abs_rel": _best_plane([depth])}
        for metric, of_views in curves.items():
            of_views.append(np.array([search(metric, constant, FEW) for constant in grid]))
            best[metric] = _best_constant(metric, [search], of_views[-1], grid)
        per_view += _rows(best)
    best = {"abs_rel": _best_plane(depths)}
    for metric, of_views in curves.items():
        best[metric] = _best_constant(metric, searches, np.mean(of_views, axis=0), grid)
    return {"constant_plane": per_view, "constant_plane_one": _rows(best)}


Best = tuple[float, list[float]]
"""A constant, and what it gives on each view."""


def _rows(best: dict[str, Best]) -> list[dict[str, float]]:
    """A dictionary per view, of the best constants for each metric."""
    return [
        {key: value for m, (constant, of) in best.items() for key, value in ((m, of[i]), (f"{m}_constant", constant))}
        for i in range(len(best["abs_rel"][1]))
    ]


def _best_constant(metric: str, searches: Sequence[Search], curve: np.ndarray, grid: np.ndarray) -> Best:
    """The constant of the best mean, looked for around the two lowest valleys of the coarse curve."""
    padded = np.concatenate([[np.inf], curve, [np.inf]])
    valleys = np.flatnonzero((curve <= padded[:-2]) & (curve <= padded[2:]))
    candidates: list[tuple[float, float, list[float]]] = []
    for valley in valleys[np.argsort(curve[valleys])][:VALLEYS]:
        left, right = grid[max(valley - 1, 0)], grid[min(valley + 1, len(grid) - 1)]
        for _ in range(2):
            around = np.geomspace(left, right, FINE)
            means = [np.mean([search(metric, constant, SOME) for search in searches]) for constant in around]
            lowest = int(np.argmin(means))
            left, right = around[max(lowest - 1, 0)], around[min(lowest + 1, FINE - 1)]
        constant = float(around[lowest])
        values = [search(metric, constant, EVERY) for search in searches]
        candidates.append((float(np.mean(values)), constant, values))
    return min(candidates)[1:]


def _best_plane(depths: Sequence[np.ndarray]) -> Best:
    """The constant of lowest AbsRel, exactly."""
    constant = _best_abs_rel_constant(depths)
    return constant, [float(np.mean(np.abs(constant - depth) / depth)) for depth in depths]


def _best_abs_rel_constant(depths: Sequence[np.ndarray]) -> float:
    """Exactly: mean |c - d| / d is smallest at the median of d weighted by 1 / d (and by 1 / pixels of its view)."""
    values = np.concatenate(depths).astype(np.float64)
    weights = np.concatenate([1 / (d.astype(np.float64) * len(d)) for d in depths])
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def tilted_plane(view: MeasuredView, *, robust: bool) -> np.ndarray:
    """Depth (H, W) of the plane that fits the view's measured depth best (an oracle).

    A plane's inverse depth is linear in the ray: least squares on it, or (`robust`) least absolute relative
    depth error by 30 re-weightings from there. Inverse depths below a third of the measured minimum are
    raised to that, so that no point lies behind the camera.
    """
    basis, inverse = view.rays[view.valid].astype(np.float64), 1 / view.depth[view.valid].astype(np.float64)
    least = inverse.min() / 3
    plane = np.linalg.lstsq(basis, inverse, rcond=None)[0]
    for _ in range(30 if robust else 0):
        ratio = np.maximum(basis @ plane, least) / inverse  # measured / predicted depth
        error = np.abs(1 / ratio - 1)
        weights = 1 / (inverse * ratio * np.sqrt(error + 1e-4))
        plane = np.linalg.lstsq(basis * weights[:, None], inverse * weights, rcond=None)[0]
    return 1 / np.maximum(view.rays @ plane, least)


def mean_map(depths: np.ndarray) -> np.ndarray:
    """Mean of the measured depths (T, H, W) per pixel: (H, W); never-measured pixels get the mean of the map."""
    measured = depths > 0
    count = measured.sum(0)
    mean = np.where(measured, depths, 0).sum(0, dtype=np.float64) / np.maximum(count, 1)
    return np.where(count > 0, mean, mean[count > 0].mean() if (count > 0).any() else 1.0)


def without_holes(depths: np.ndarray, filling: np.ndarray) -> np.ndarray:
    """Depth maps (T, H, W) whose unmeasured pixels take those of `filling` (H, W)."""
    return np.where(depths > 0, depths, filling)


def lowest_abs_rel(view: MeasuredView, depths: np.ndarray) -> int:
    """Which of the depth maps (T, H, W) without holes is best, each after its own median scale (an oracle)."""
    truth = view.depth[view.valid].astype(np.float64)
    errors = []
    for depth in depths:
        candidate = depth[view.valid]
        scale = np.median(truth / candidate)
        errors.append(np.mean(np.abs(scale * candidate - truth) / truth))
    return int(np.argmin(errors))


def thumbnail(image: np.ndarray, rows: int = 12) -> np.ndarray:
    """A tiny colour picture of an image (3, H, W), flattened, with mean 0 and length 1: what a frame looks like."""
    height, width = image.shape[1:]
    columns = max(1, round(rows * width / height))
    row_of, column_of = np.arange(height) * rows // height, np.arange(width) * columns // width
    cell = row_of[:, None] * columns + column_of
    sums = [np.bincount(cell.ravel(), channel.ravel(), rows * columns) for channel in image]
    small = np.stack(sums) / np.maximum(np.bincount(cell.ravel(), minlength=rows * columns), 1)
    small = (small - small.mean()).ravel()
    return (small / max(float(np.linalg.norm(small)), 1e-12)).astype(np.float32)


def nearest_image(query: np.ndarray, thumbnails: np.ndarray) -> int:
    """Which of the thumbnails (T, D) is closest to `query` (D,)."""
    return int(np.argmin(np.linalg.norm(thumbnails - query, axis=1)))


Depths = dict[str, tuple[np.ndarray, dict[str, Any]]]
"""Depth (H, W) by method, and where it is from."""


def planes(view: MeasuredView) -> Depths:
    """The planes that are judged like any other answer."""
    tilted = {"tilted_plane": False, "tilted_plane_robust": True}
    return {
        "constant_plane_median": (view.rays[..., 2], {}),
        **{name: (tilted_plane(view, robust=robust), {}) for name, robust in tilted.items()},
    }


class TrainingMaps:
    """Depth maps (T, H, W) of training frames, and answers looked up in them.

    Pixels that a frame did not measure take the mean map's.
    """

    def __init__(self, depth: np.ndarray, thumbnails: np.ndarray, names: np.ndarray) -> None:
        self.mean = mean_map(depth)
        self.depths, self.thumbnails, self.names = without_holes(depth, self.mean), thumbnails, names

    def answers(self, view: MeasuredView) -> Depths:
        """The mean map, the map of lowest AbsRel, and that of the frame that looks most alike."""
        assert view.thumbnail is not None
        choices = {
            "retrieved_map": lowest_abs_rel(view, self.depths),
            "nearest_frame": nearest_image(view.thumbnail, self.thumbnails),
        }
        looked_up: Depths = {
            name: (self.depths[choice], {"training_frame": str(self.names[choice])}) for name, choice in choices.items()
        }
        return {"mean_map": (self.mean, {}), **looked_up}


LABELS = {
    "constant_plane": "best constant plane (constant by oracle per view and metric)",
    "constant_plane_one": "best constant plane, one constant for all views (oracle per metric)",
    "constant_plane_median": "constant plane after the median scale",
    "tilted_plane": "best tilted plane (least squares on inverse depth, oracle per view)",
    "tilted_plane_robust": "best tilted plane (least AbsRel, oracle per view)",
    "mean_map": "mean depth map of the training frames",
    "retrieved_map": "training frame of lowest AbsRel (oracle)",
    "nearest_frame": "training frame that looks most alike (12-row thumbnails)",
    "untrained": "untrained student (same architecture, random weights)",
}
