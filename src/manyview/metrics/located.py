"""Map and Locate (SAB3R, section 4): labelled points against labelled points, both in one frame.

Every true point takes the label of the nearest predicted point of the whole cloud. The paper leaves open what follows
from that definition; here the mean IoU is over the classes that the truth shows, and true points without a class are
left out. Its completeness is the distance from predicted to true points of a label, which is elsewhere called accuracy,
and it says that higher is better, which no distance can be: both directions are given, under what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyview.geometry.neighbours import nearest, nearest_distances
from manyview.metrics.arrays import Array, as_numpy

DIRECTIONS = ("pred_to_true", "pred_to_true_median", "true_to_pred", "true_to_pred_median")


def map_and_locate(
    predicted: Array,
    predicted_labels: Array,
    true: Array,
    true_labels: Array,
    *,
    classes: Sequence[int],
    void: int = -1,
) -> dict[str, Any]:
    """Judge predicted points (N, 3) with labels (N,) by true points (M, 3) with labels (M,).

    Points that are not finite and true points of label `void` are dropped; without any predicted point all are wrong.
    Returns `miou` over classes that occur in the truth, `miou_union` over those that were predicted as well, `accuracy`
    over points, `accuracy_macro` over classes that occur; `pred_to_true` (the paper's Comp.), `true_to_pred`
    (completeness as it is usually meant) and both with `_median`: distances between the points of a label, means over
    the `both` labels that have points on both sides, NaN without one; `per_class`: class -> `iou`, `accuracy` (NaN
    where undefined), `true`, `hits`, `union` and the four distances; `transferred` (M',): labels of the true points
    kept, -1 without a prediction. Raises ValueError when no true point has a class.
    """
    predicted, true = as_numpy(predicted, np.float64).reshape(-1, 3), as_numpy(true, np.float64).reshape(-1, 3)
    answer, labels = as_numpy(predicted_labels).reshape(-1), as_numpy(true_labels).reshape(-1)
    finite, kept = np.isfinite(predicted).all(-1), np.isfinite(true).all(-1) & (labels != void)
    predicted, answer, true, labels = predicted[finite], answer[finite], true[kept], labels[kept]
    if not len(true):
        raise ValueError("no true point has a class")
    transferred = np.full(len(true), -1)
    if len(predicted):
        transferred = answer[nearest(true, predicted)[1]]
    per_class = {
        int(number): {
            **_hits(transferred == number, labels == number),
            **_distances(predicted[answer == number], true[labels == number]),
        }
        for number in classes
    }
    there = [values for values in per_class.values() if values["true"]]
    measured = [values for values in per_class.values() if np.isfinite(values["pred_to_true"])]
    either = [values["iou"] for values in per_class.values() if values["union"]]
    return {
        "miou": float(np.mean([values["iou"] for values in there])) if there else float("nan"),
        "miou_union": float(np.mean(either)) if either else float("nan"),
        "accuracy": float(np.mean(transferred == labels)),
        "accuracy_macro": float(np.mean([values["accuracy"] for values in there])) if there else float("nan"),
        **{key: float(np.mean([v[key] for v in measured])) if measured else float("nan") for key in DIRECTIONS},
        "both": len(measured),
        "per_class": per_class,
        "transferred": transferred,
    }


def _hits(answered: np.ndarray, there: np.ndarray) -> dict[str, Any]:
    hits, union, count = int((answered & there).sum()), int((answered | there).sum()), int(there.sum())
    return {
        "iou": hits / union if union else float("nan"),
        "accuracy": hits / count if count else float("nan"),
        "true": count,
        "hits": hits,
        "union": union,
    }


def _distances(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if not len(predicted) or not len(true):
        return dict.fromkeys(DIRECTIONS, float("nan"))
    forward, backward = nearest_distances(predicted, true), nearest_distances(true, predicted)
    values = (forward.mean(), np.median(forward), backward.mean(), np.median(backward))
    return dict(zip(DIRECTIONS, map(float, values), strict=True))
