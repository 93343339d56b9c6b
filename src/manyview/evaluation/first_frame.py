"""Has a model learnt where its views stand? Its global map against its local map left where it is.

The truth is each measured view moved into the first view's camera frame. Compared are `global` (the model's pointmap),
`local_identity` (its local map placed as if the camera had not moved) and `local_measured_pose` (its local map placed
with the measured pose: what perfect poses would give). One scale per group of views, the same kind for each: the
median over measured pixels of true / predicted distance from the camera that the map is centred on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from manyview.evaluation.base import Answer, Item, Row, Work
from manyview.evaluation.baselines import MeasuredView
from manyview.evaluation.views import measured_view
from manyview.metrics.reconstruction import FACTOR, FEWEST_PIXELS, median_distances
from manyview.progress import track

METHODS = {
    "global": "the model's global map",
    "local_identity": "its local map, camera left where the first one was",
    "local_measured_pose": "its local map, moved with the measured pose",
}
COMPARISON = "first_frame"
Clouds = dict[str, tuple[np.ndarray, np.ndarray]]
"""By method, measured and predicted points (N, 3) of the measured pixels, both in the frame of the method's map."""
KEYS = ("accuracy", "completeness", "point_error")
"""All x100; point_error is the median distance of a pixel's point from the true one."""


def compare_global(work: Work, method: str) -> Iterator[Row]:
    """A row per comparison and view after the first of its group; `failed` for groups that cannot be compared."""
    groups: dict[int, list[tuple[Item, Answer]]] = defaultdict(list)
    items = {item.about["index"]: item for item in work.items if not item.skipped}
    for item in items.values():
        answer = work.answer(method, item)
        if isinstance(answer, dict):
            groups[int(answer["first"])].append((item, answer))
    for first, group in track(sorted(groups.items()), label="global against local", unit="group"):
        views = [measured_view(item, work) for item, _ in group]
        problem, start = None, items.get(first)
        if start is None:
            problem = "the first view of the group has no measurement"
        elif any("pointmap" not in answer for _, answer in group):
            problem = "the model gives no global pointmap"
        elif any(v.cam2world is None for v in (measured_view(start, work), *views)):
            problem = "a view of the group has no measured pose"
        if problem or start is None:
            failed = {"comparison": COMPARISON, "method": "none", "failed": problem}
            yield from ({**failed, **item.names} for item, _ in group if item.about["index"] != first)
            continue
        world2first = np.linalg.inv(measured_view(start, work).cam2world)  # type: ignore[arg-type]
        poses = [world2first @ view.cam2world for view in views if view.cam2world is not None]
        clouds = [_clouds(v, a, pose) for v, (_, a), pose in zip(views, group, poses, strict=True)]
        scales = {method: _scale([of[method] for of in clouds]) for method in METHODS}
        for (item, _), of, pose in zip(group, clouds, poses, strict=True):
            if item.about["index"] != first:
                yield from ({**row, **item.names} for row in _compare(of, scales, pose))


def _compare(clouds: Clouds, scales: dict[str, float], first_from_local: np.ndarray) -> Iterator[Row]:
    truth = clouds["global"][0]
    for method in METHODS:
        points = scales[method] * clouds[method][1]
        if method == "local_measured_pose":
            points = points @ first_from_local[:3, :3].T + first_from_local[:3, 3]
        usable = np.isfinite(points).all(-1)
        if usable.sum() >= FEWEST_PIXELS:
            accuracy, completeness = median_distances(points[usable], truth)
            distance = np.where(usable, np.linalg.norm(points - truth, axis=-1), np.inf)
            numbers = (accuracy, completeness, FACTOR * float(np.median(distance)))
            yield {"comparison": COMPARISON, "method": method, **dict(zip(KEYS, numbers, strict=True))}


def _clouds(view: MeasuredView, answer: Answer, first_from_local: np.ndarray) -> Clouds:
    valid = view.depth > 0
    local = view.rays[valid] * view.depth[valid][:, None]
    truth = local @ first_from_local[:3, :3].T + first_from_local[:3, 3]
    predicted = answer["pointmap_local"][valid].astype(np.float64)
    return {
        "global": (truth, answer["pointmap"][valid].astype(np.float64)),
        "local_identity": (truth, predicted),
        "local_measured_pose": (local, predicted),
    }


def _scale(clouds: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    truth, predicted = (np.linalg.norm(np.concatenate(of), axis=-1) for of in zip(*clouds, strict=True))
    ratio = truth / predicted.clip(1e-12)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else 1.0


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """{"table": {method: means}, "views", "skipped"} of the rows of this comparison."""
    table: dict[str, dict[str, float] | None] = {}
    for method in METHODS:
        of = [row for row in rows if row["method"] == method]
        table[method] = {key: float(np.mean([row[key] for row in of])) for key in KEYS} if of else None
    skipped = [{"frame": row["frame"], "reason": row["failed"]} for row in rows if "failed" in row]
    return {"table": table, "views": (len(rows) - len(skipped)) // len(METHODS), "skipped": skipped}
