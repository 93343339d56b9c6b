"""Scale of pointmaps and scale factors between them, as the estimators of DUSt3R and Spann3R define them."""

from __future__ import annotations

import numpy as np

from manyview.metrics.arrays import Array, as_mask, as_numpy, as_pair

FLOOR = 1e-8


def mean_distance(points: Array, valid: Array | None = None, *, first_view_only: bool = False) -> float:
    """Mean norm of the valid points (V, H, W, 3), at least 1e-8; NaN points are left out."""
    if first_view_only:
        points, valid = as_numpy(points)[:1], None if valid is None else as_numpy(valid)[:1]
    distances = np.linalg.norm(_valid_points(points, valid), axis=-1)
    return max(float(distances.mean()), FLOOR) if len(distances) else FLOOR


def median_centre(points: Array, valid: Array | None = None) -> np.ndarray:
    """Coordinate-wise median (3,) of the valid points, the lower middle of an even count; NaN when there is none."""
    return _lower_median(_valid_points(points, valid))


def median_distance(points: Array, valid: Array | None = None, *, centred: bool = True) -> float:
    """Median norm of the valid points around their median centre (or the origin); the lower middle; NaN without any."""
    cloud = _valid_points(points, valid)
    centre = _lower_median(cloud) if centred else np.zeros(3)
    return float(_lower_median(np.linalg.norm(cloud - centre, axis=-1)))


def median_depth(points: Array, valid: Array | None = None) -> float:
    """Median z of the valid points; the lower middle; NaN without any."""
    return float(_lower_median(_valid_points(points, valid)[:, 2]))


def scale_factor(predicted: Array, true: Array, valid: Array | None = None, *, how: str = "median_of_ratios") -> float:
    """What the prediction must be multiplied by to have the size of the truth; pointmaps (..., H, W, 3).

    how: "median_of_ratios" of depths (the default of our per-view protocol), "ratio_of_medians" of depths,
    "least_squares" over depths, "mean_distance" (ratio of mean_distance), or "median_distance" (ratio of
    centred median_distance, the predicted one clipped to [1e-3, 1e3]).
    """
    predicted, true = as_pair(predicted, true)
    if how == "mean_distance":
        return mean_distance(true, valid) / mean_distance(predicted, valid)
    if how == "median_distance":
        return median_distance(true, valid) / float(np.clip(median_distance(predicted, valid), 1e-3, 1e3))
    mask = np.isfinite(predicted).all(-1) & np.isfinite(true).all(-1)
    if valid is not None:
        mask &= as_mask(valid, mask.shape)
    if not mask.any():
        return float("nan")
    z, z_true = predicted[mask][:, 2], true[mask][:, 2]
    with np.errstate(all="ignore"):
        if how == "median_of_ratios":
            return float(np.median(z_true / z))
        if how == "ratio_of_medians":
            return float(np.median(z_true) / np.median(z))
        if how == "least_squares":
            return float((z * z_true).sum() / (z * z).sum())
    known = "median_of_ratios, ratio_of_medians, least_squares, mean_distance, median_distance"
    raise ValueError(f"scale estimator {how!r} is unknown; use one of {known}")


def _valid_points(points: Array, valid: Array | None) -> np.ndarray:
    """(N, 3) valid points without NaN."""
    points = as_numpy(points, np.float64)
    mask = ~np.isnan(points).any(-1)
    if valid is not None:
        mask &= as_mask(valid, mask.shape)
    return points[mask]


def _lower_median(values: np.ndarray) -> np.ndarray:
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan)
    return np.sort(values, axis=0)[(len(values) - 1) // 2]
