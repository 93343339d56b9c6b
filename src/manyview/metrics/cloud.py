"""Distances between point clouds: accuracy, completeness, chamfer, F-score, normal consistency.

Accuracy runs from each predicted point to its nearest true one, completeness the other way. Lengths in the
unit of the points. An empty cloud has infinite distances and scores of zero (Depth-Anything-3's convention).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyview.geometry.neighbours import nearest_distances
from manyview.metrics.arrays import Array, as_numpy


def cloud_distances(predicted: Array, true: Array) -> tuple[np.ndarray, np.ndarray]:
    """(N,) distances predicted -> true and (M,) distances true -> predicted of clouds (N, 3) and (M, 3)."""
    predicted, true = as_numpy(predicted, np.float64), as_numpy(true, np.float64)
    return nearest_distances(predicted, true), nearest_distances(true, predicted)


def accuracy(predicted: Array, true: Array, *, reduce: str = "mean") -> float:
    """Mean or median distance from the predicted points to the true cloud."""
    return _reduced(cloud_distances(predicted, true)[0], reduce)


def completeness(predicted: Array, true: Array, *, reduce: str = "mean") -> float:
    """Mean or median distance from the true points to the predicted cloud."""
    return _reduced(cloud_distances(predicted, true)[1], reduce)


def chamfer(predicted: Array, true: Array, *, kind: str = "mean") -> float:
    """Chamfer distance: "mean" of accuracy and completeness, their "sum", or the sum of mean "squared" distances."""
    forward, backward = cloud_distances(predicted, true)
    if kind == "squared":
        return _reduced(forward**2, "mean") + _reduced(backward**2, "mean")
    if kind not in ("mean", "sum"):
        raise ValueError(f"kind is {kind!r}; it must be mean, sum or squared")
    total = _reduced(forward, "mean") + _reduced(backward, "mean")
    return total / 2 if kind == "mean" else total


def f_score(predicted: Array, true: Array, threshold: float) -> dict[str, float]:
    """precision, recall (shares of predicted and true points closer than `threshold`) and f_score, in [0, 1]."""
    return _f_scores(*cloud_distances(predicted, true), threshold)


def normal_consistency(
    predicted: Array, true: Array, predicted_normals: Array, true_normals: Array
) -> dict[str, float]:
    """|cosine| between the normals of nearest neighbours: nc_1 over predicted points, nc_2 over true ones,
    medians, nc.

    nc is the mean of both. Unit normals (N, 3) and (M, 3); their sign does not matter. NaN for an empty cloud.
    """
    from scipy.spatial import cKDTree

    clouds = [as_numpy(cloud, np.float64) for cloud in (predicted, true)]
    normals = [as_numpy(normal, np.float64) for normal in (predicted_normals, true_normals)]
    result: dict[str, float] = {}
    for number, (here, there) in enumerate(((0, 1), (1, 0)), start=1):
        if len(clouds[0]) == 0 or len(clouds[1]) == 0:
            result |= {f"nc_{number}": float("nan"), f"nc_{number}_median": float("nan")}
            continue
        nearest = cKDTree(clouds[there]).query(clouds[here])[1]
        cosine = np.abs((normals[here] * normals[there][nearest]).sum(-1))
        result |= {f"nc_{number}": float(cosine.mean()), f"nc_{number}_median": float(np.median(cosine))}
    return {**result, "nc": (result["nc_1"] + result["nc_2"]) / 2}


def cloud_metrics(predicted: Array, true: Array, *, thresholds: Sequence[float] = ()) -> dict[str, float]:
    """accuracy, completeness, their medians, chamfer (mean), and per threshold precision@t, recall@t, f_score@t."""
    forward, backward = cloud_distances(predicted, true)
    result = {
        "accuracy": _reduced(forward, "mean"),
        "accuracy_median": _reduced(forward, "median"),
        "completeness": _reduced(backward, "mean"),
        "completeness_median": _reduced(backward, "median"),
    }
    result["chamfer"] = (result["accuracy"] + result["completeness"]) / 2
    for threshold in thresholds:
        scores = _f_scores(forward, backward, threshold)
        result |= {f"{name}@{threshold:g}": value for name, value in scores.items()}
    return result


def _reduced(distances: np.ndarray, reduce: str) -> float:
    """Mean or median; infinite for a cloud without points."""
    if reduce not in ("mean", "median"):
        raise ValueError(f"reduce is {reduce!r}; it must be mean or median")
    if len(distances) == 0:
        return float("inf")
    return float(np.mean(distances) if reduce == "mean" else np.median(distances))


def _f_scores(forward: np.ndarray, backward: np.ndarray, threshold: float) -> dict[str, float]:
    precision, recall = (float(np.mean(d < threshold)) if len(d) else 0.0 for d in (forward, backward))
    both = precision + recall
    return {"precision": precision, "recall": recall, "f_score": 2 * precision * recall / both if both else 0.0}
