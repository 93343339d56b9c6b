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
    rays, truth = (points.reshape(-1, 3)[shuffled].astype(np.float64) for points in (view.rays, view.pointmap))
    measured, flat = cKDTree(truth), cKDTree(rays[:, :2])

    def search(metric: str, constant: float, most: int) -> float:
        if metric == "accuracy":
            distance = measured.query(constant * rays[:most], eps=SLACK if most < len(rays) else 0.0)[0]
        else:
            shrunken = truth / constant  # all of them: a flat tree is quick
            distance = constant * np.hypot(flat.query(shrunken[:, :2])[0], shrunken[:, 2] - 1)
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
    curves = {
        metric: np.array([[search(metric, c, FEW) for c in grid] for search in track(searches, label=metric)])
        for metric in METRICS[:2]
    }

    def best(of: slice) -> list[dict[str, float]]:
        """A dictionary for each of these views, which share their constants."""
        found = {"abs_rel": _best_abs_rel(depths[of])}
        for metric, curve in curves.items():
            found[metric] = _best_constant(metric, searches[of], curve[of].mean(0), grid)
        constants = {f"{metric}_constant": constant for metric, (constant, _) in found.items()}
        values = zip(*(values for _, values in found.values()), strict=True)
        return [{**dict(zip(found, of_view, strict=True)), **constants} for of_view in values]

    per_view = [best(slice(i, i + 1))[0] for i in track(range(len(views)), label="constant planes", unit="view")]
    return {"constant_plane": per_view, "constant_plane_one": best(slice(None))}


def _best_constant(
    metric: str, searches: Sequence[Search], curve: np.ndarray, grid: np.ndarray
) -> tuple[float, list[float]]:
    """The constant of the best mean, around the two lowest valleys of the coarse curve, and what each view gets."""
    padded = np.concatenate([[np.inf], curve, [np.inf]])
    valleys = np.flatnonzero((curve <= padded[:-2]) & (curve <= padded[2:]))
    candidates: list[tuple[float, float, list[float]]] = []
    for valley in valleys[np.argsort(curve[valleys])][:VALLEYS]:
        around, lowest = grid, int(valley)
        for _ in range(2):
            around = np.geomspace(around[max(lowest - 1, 0)], around[min(lowest + 1, len(around) - 1)], FINE)
            lowest = int(np.argmin([np.mean([search(metric, c, SOME) for search in searches]) for c in around]))
        values = [search(metric, float(around[lowest]), EVERY) for search in searches]
        candidates.append((float(np.mean(values)), float(around[lowest]), values))
    return min(candidates)[1:]


def _best_abs_rel(depths: Sequence[np.ndarray]) -> tuple[float, list[float]]:
    """The constant of the lowest AbsRel, exactly, and what each view gets: mean |c - d| / d is smallest at the median
    of d weighted by 1 / d (and by 1 / pixels of its view).
    """
    values = np.concatenate(depths)
    order = np.argsort(values)
    cumulative = np.cumsum(np.concatenate([1 / (d * len(d)) for d in depths])[order])
    constant = float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
    return constant, [float(np.mean(np.abs(constant - depth) / depth)) for depth in depths]


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
    truth, candidates = view.depth[view.valid].astype(np.float64), depths[:, view.valid]
    scales = (np.median(truth / candidate) for candidate in candidates)
    errors = [np.mean(np.abs(scale * of - truth) / truth) for scale, of in zip(scales, candidates, strict=True)]
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
    depths = {name: tilted_plane(view, robust=robust) for name, robust in tilted.items()}
    return {name: (depth, {}) for name, depth in ({"constant_plane_median": view.rays[..., 2]} | depths).items()}


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
        alike = nearest_image(view.thumbnail, self.thumbnails)
        choices = {"retrieved_map": lowest_abs_rel(view, self.depths), "nearest_frame": alike}
        sources = {name: (self.depths[i], {"training_frame": str(self.names[i])}) for name, i in choices.items()}
        return {"mean_map": (self.mean, {}), **sources}


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
