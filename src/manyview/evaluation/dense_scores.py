"""Numbers of dense predictions: IoU and accuracy of labels, errors of depth in its own unit.

Legend: C classes, N pictures, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def confusion(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """(C, C + 1) counts, true class by row; the last column is of predictions that are no class.

    Pixels whose true label is outside 0 .. C - 1 are left out.
    """
    known = (true >= 0) & (true < classes)
    said = predicted[known].astype(np.int64)
    said = np.where((said >= 0) & (said < classes), said, classes)
    index = true[known].astype(np.int64) * (classes + 1) + said
    return np.bincount(index, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def segmentation_scores(counts: np.ndarray) -> dict[str, Any]:
    """`miou` over the classes that are there or were said, `accuracy` over pixels, `iou` of every class."""
    hits = np.diag(counts).astype(float)
    union = counts[:, :-1].sum(0) + counts.sum(1) - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, hits / union, np.nan)
    total = counts.sum()
    return {
        "miou": float(np.nanmean(iou)) if (union > 0).any() else float("nan"),
        "accuracy": float(hits.sum() / total) if total else float("nan"),
        "iou": [None if np.isnan(value) else float(value) for value in iou],
    }


def depth_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float] | None:
    """`rmse`, `abs_rel` and `delta_1` of one picture, without any alignment; None where nothing is measured."""
    valid = true > 0
    if not valid.any():
        return None
    p, t = predicted[valid].astype(np.float64), true[valid].astype(np.float64)
    ratio = np.maximum(p / t, t / np.maximum(p, 1e-9))
    return {
        "rmse": float(np.sqrt(np.mean((p - t) ** 2))),
        "abs_rel": float(np.mean(np.abs(p - t) / t)),
        "delta_1": float(np.mean(ratio < 1.25)),
    }
