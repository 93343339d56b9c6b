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
        start = measured_view(items[first], work) if first in items else None
        problem = None
        if start is None:
            problem = "the first view of the group has no measurement"
        elif any("pointmap" not in answer for _, answer in group):
            problem = "the model gives no global pointmap"
        elif any(view.cam2world is None for view in (start, *views)):
            problem = "a view of the group has no measured pose"
        if problem or start is None:
            failed = {"comparison": COMPARISON, "method": "none", "failed": problem}
            yield from ({**failed, **item.names} for item, _ in group if item.about["index"] != first)
            continue
        cameras: list[Any] = [view.cam2world for view in (start, *views)]
        poses = [np.linalg.inv(cameras[0]) @ cam2world for cam2world in cameras[1:]]
        clouds = [_clouds(v, a, pose) for v, (_, a), pose in zip(views, group, poses, strict=True)]
        scales = {name: _scale([of[name] for of in clouds]) for name in METHODS}
        for (item, _), of, pose in zip(group, clouds, poses, strict=True):
            for name in METHODS if item.about["index"] != first else ():
                points, truth = scales[name] * of[name][1], of["global"][0]
                if name == "local_measured_pose":
                    points = points @ pose[:3, :3].T + pose[:3, 3]
                usable = np.isfinite(points).all(-1)
                if usable.sum() >= FEWEST_PIXELS:
                    distance = np.where(usable, np.linalg.norm(points - truth, axis=-1), np.inf)
                    numbers = (*median_distances(points[usable], truth), FACTOR * float(np.median(distance)))
                    row = {"comparison": COMPARISON, "method": name, **dict(zip(KEYS, numbers, strict=True))}
                    yield {**row, **item.names}


def _clouds(view: MeasuredView, answer: Answer, pose: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By method, measured and predicted points (N, 3) of the measured pixels, both in the frame of the method's map."""
    local = view.pointmap[view.valid]
    truth = local @ pose[:3, :3].T + pose[:3, 3]
    predicted, world = (answer[name][view.valid].astype(np.float64) for name in ("pointmap_local", "pointmap"))
    return {"global": (truth, world), "local_identity": (truth, predicted), "local_measured_pose": (local, predicted)}


def _scale(clouds: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    truth, predicted = (np.linalg.norm(np.concatenate(of), axis=-1) for of in zip(*clouds, strict=True))
    ratio = truth / predicted.clip(1e-12)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else 1.0


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """{"table": {method: means}, "views", "skipped"} of the rows of this comparison."""
    by_method = {method: [row for row in rows if row["method"] == method] for method in METHODS}
    table = {
        method: {key: float(np.mean([row[key] for row in of])) for key in KEYS} if of else None
        for method, of in by_method.items()
    }
    skipped = [{"frame": row["frame"], "reason": row["failed"]} for row in rows if "failed" in row]
    return {"table": table, "views": (len(rows) - len(skipped)) // len(METHODS), "skipped": skipped}
