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
        problem = None
        if first not in items:
            problem = "the first view of the group has no measurement"
        elif any("pointmap" not in answer for _, answer in group):
            problem = "the model gives no global pointmap"
        elif any(v.cam2world is None for v in (measured_view(items[first], work), *views)):
            problem = "a view of the group has no measured pose"
        later = [place for place, (item, _) in enumerate(group) if item.about["index"] != first]
        if problem:
            for place in later:
                item = group[place][0]
                yield {"comparison": COMPARISON, "method": "none", **item.names, "failed": problem}
            continue
        world2first = np.linalg.inv(measured_view(items[first], work).cam2world)  # type: ignore[arg-type]
        clouds = [_clouds(view, answer, world2first) for view, (_, answer) in zip(views, group, strict=True)]
        yield from _compare([group[place][0] for place in later], [clouds[place] for place in later], clouds)


def _compare(items: Sequence[Item], judged: Sequence[Answer], group: Sequence[Answer]) -> Iterator[Row]:
    scales = {method: _scale(group, method) for method in METHODS}
    for item, clouds in zip(items, judged, strict=True):
        truth = clouds["global_truth"]
        for method in METHODS:
            points = scales[method] * clouds[f"{method}_points"]
            if method == "local_measured_pose":
                first_from_local = clouds["first_from_local"]
                points = points @ first_from_local[:3, :3].T + first_from_local[:3, 3]
            usable = np.isfinite(points).all(-1)
            if usable.sum() < FEWEST_PIXELS:
                continue
            accuracy, completeness = median_distances(points[usable], truth)
            distance = np.where(usable, np.linalg.norm(points - truth, axis=-1), np.inf)
            numbers = dict(
                zip(KEYS, (accuracy, completeness, FACTOR * float(np.median(distance))), strict=True)
            )
            yield {"comparison": COMPARISON, "method": method, **item.names, **numbers}


def _clouds(view: MeasuredView, answer: Answer, world2first: np.ndarray) -> Answer:
    """Measured and predicted points (N, 3) of the measured pixels: per method in the map's own frame."""
    valid = view.depth > 0
    local = view.rays[valid] * view.depth[valid][:, None]
    first_from_local = world2first @ view.cam2world
    truth = local @ first_from_local[:3, :3].T + first_from_local[:3, 3]
    predicted = answer["pointmap_local"][valid].astype(np.float64)
    return {
        "first_from_local": first_from_local,
        "global_truth": truth,
        "global_points": answer["pointmap"][valid].astype(np.float64),
        "local_identity_truth": truth,
        "local_identity_points": predicted,
        "local_measured_pose_truth": local,
        "local_measured_pose_points": predicted,
    }


def _scale(group: Sequence[Answer], method: str) -> float:
    truth, predicted = (
        np.concatenate([clouds[f"{method}_{kind}"] for clouds in group]) for kind in ("truth", "points")
    )
    ratio = np.linalg.norm(truth, axis=-1) / np.linalg.norm(predicted, axis=-1).clip(1e-12)
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
