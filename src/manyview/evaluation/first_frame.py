"""Has a model learnt where its views stand? Its global map against its local map left where it is.

The truth is each measured view moved into the first view's camera frame. Compared are `global` (the model's
pointmap), `local_identity` (its local map placed as if the camera had not moved) and `local_measured_pose`
(its local map placed with the measured pose: what perfect poses would give). One scale per group of views,
the same kind for each: the median over measured pixels of true / predicted distance from the camera that the
map is centred on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyview.evaluation import exporting, store
from manyview.evaluation.exporting import Item
from manyview.metrics.reconstruction import FACTOR, FEWEST_PIXELS, median_distances
from manyview.progress import track

METHODS = ("global", "local_identity", "local_measured_pose")
Points = dict[str, np.ndarray]


def compare_global(out: Path, items: Sequence[Item], folder: Path) -> dict[str, Any]:
    """Mean accuracy, completeness and point_error (median distance of a pixel's point from the true one), all
    x100.

    Views after the first of their group only. {"table", "views", "skipped", "rows"}; rows: a line per view
    and method.
    """
    groups: dict[int, list[tuple[Item, dict[str, np.ndarray]]]] = defaultdict(list)
    for item in items:
        answer = store.load_arrays(folder / item.file)
        groups[int(answer.pop("first"))].append((item, answer))
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    by_index = {item.index: item for item in items}
    for first, group in track(sorted(groups.items()), label="global against local", unit="group"):
        problem = _problem(out, by_index.get(first), group)
        if problem:
            skipped += [{"frame": item.image, "reason": problem} for item, _ in group if item.index != first]
        else:
            rows += _compare(out, by_index[first], group)
    means = {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        keys = ("accuracy", "completeness", "point_error")
        means[method] = {key: float(np.mean([row[key] for row in mine])) for key in keys} if mine else None
    return {"table": means, "views": len(rows) // len(METHODS), "skipped": skipped, "rows": rows}


def _problem(out: Path, first: Item | None, group: Sequence[tuple[Item, Points]]) -> str | None:
    if first is None:
        return "the first view of the group has no measurement"
    if any("pointmap" not in answer for _, answer in group):
        return "the model gives no global pointmap"
    if any(
        "cam2world" not in store.load_arrays(out / "measured" / item.file)
        for item in (first, *(i for i, _ in group))
    ):
        return "a view of the group has no measured pose"
    return None


def _compare(out: Path, first: Item, group: Sequence[tuple[Item, Points]]) -> list[dict[str, Any]]:
    world2first = np.linalg.inv(exporting.load_measured(out, first)["cam2world"])
    views = [_view(exporting.load_measured(out, item), answer, world2first) for item, answer in group]
    scales = {
        method: _scale([v[f"{method}_truth"] for v in views], [v[f"{method}_points"] for v in views])
        for method in METHODS
    }
    rows = []
    for (item, _), view in zip(group, views, strict=True):
        if item.index == first.index:
            continue
        truth = view["global_truth"]
        for method in METHODS:
            points = scales[method] * view[f"{method}_points"]
            if method == "local_measured_pose":
                first_from_local = view["first_from_local"]
                points = points @ first_from_local[:3, :3].T + first_from_local[:3, 3]
            usable = np.isfinite(points).all(-1)
            if usable.sum() < FEWEST_PIXELS:
                continue
            accuracy, completeness = median_distances(points[usable], truth)
            distance = np.where(usable, np.linalg.norm(points - truth, axis=-1), np.inf)
            error = FACTOR * float(np.median(distance))
            numbers = {"accuracy": accuracy, "completeness": completeness, "point_error": error}
            rows.append({"comparison": "first_frame", "method": method, "frame": item.image, **numbers})
    return rows


def _view(measured: Points, answer: Points, world2first: np.ndarray) -> Points:
    """Measured and predicted points (N, 3) of the measured pixels: per method the map's own frame and the
    truth in it.
    """
    valid = measured["depth"] > 0
    local = measured["rays"][valid] * measured["depth"][valid][:, None]
    first_from_local = world2first @ measured["cam2world"]
    truth = local @ first_from_local[:3, :3].T + first_from_local[:3, 3]
    predicted_local = answer["pointmap_local"][valid].astype(np.float64)
    return {
        "first_from_local": first_from_local,
        "global_truth": truth,
        "global_points": answer["pointmap"][valid].astype(np.float64),
        "local_identity_truth": truth,
        "local_identity_points": predicted_local,
        "local_measured_pose_truth": local,
        "local_measured_pose_points": predicted_local,
    }


def _scale(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> float:
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    ratio = np.linalg.norm(truth, axis=-1) / np.linalg.norm(predicted, axis=-1).clip(1e-12)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.median(ratio)) if len(ratio) else 1.0
