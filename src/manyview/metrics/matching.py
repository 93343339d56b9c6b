"""Dense matching: end-point error, and the shares of matches within some pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyview.metrics.arrays import Array, as_mask, as_numpy, as_pair

ROBUST = 32
THRESHOLDS = (1, 3, 5, 8, 16)


def end_point_errors(predicted: Array, true: Array, valid: Array) -> np.ndarray:
    """Distances (N,) in pixels between two warps (..., 2), at the places where `valid` (...) holds."""
    predicted, true = as_pair(predicted, true)
    keep = as_mask(valid, predicted.shape[:-1])
    return np.linalg.norm(predicted[keep] - true[keep], axis=-1)


def matching_scores(errors: Array, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """Of errors (N,): their mean `epe`, the share `robustness` below 32 pixels, and `pck_T` below T (strict).

    NaN for no errors at all.
    """
    errors = as_numpy(errors)
    if errors.size == 0:
        return {name: math.nan for name in ("epe", "robustness", *(f"pck_{t:g}" for t in thresholds))}
    shares = {f"pck_{t:g}": float((errors < t).mean()) for t in thresholds}
    return {"epe": float(errors.mean()), "robustness": float((errors < ROBUST).mean()), **shares}
