"""Surface normals: angular errors, and normals of measured points.

Legend: H x W pixels, N pixels that count.
"""

from __future__ import annotations

import numpy as np

from manyview.metrics.arrays import Array, as_mask, as_numpy

LIMITS = (11.25, 22.5, 30.0)
"""Degrees."""


def normal_errors(predicted: Array, true: Array, valid: Array | None = None) -> dict[str, float]:
    """Angles in degrees between predicted (H, W, 3) and true normals over the valid pixels of one picture.

    `below_11`, `below_22`, `below_30` (strictly below LIMITS), `rmse`, `mean`, `median`, `pixels`. Predictions need no
    unit length; one of length zero is 90 degrees wrong. NaN without a valid pixel, where Probe3D's code says 0.
    """
    predicted, true = as_numpy(predicted, np.float64), as_numpy(true, np.float64)
    kept = np.linalg.norm(true, axis=-1) > 0 if valid is None else as_mask(valid, true.shape[:-1])
    first, second = predicted[kept], true[kept]
    if not len(first):
        return {**dict.fromkeys(ERRORS, float("nan")), "pixels": 0}
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = (first * second).sum(-1) / np.maximum(lengths, 1e-12)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    shares = {f"below_{int(limit)}": float((angles < limit).mean()) for limit in LIMITS}
    rmse = float(np.sqrt(np.square(angles).mean()))
    return {
        **shares,
        "rmse": rmse,
        "mean": float(angles.mean()),
        "median": float(np.median(angles)),
        "pixels": len(angles),
    }


ERRORS = (*(f"below_{int(limit)}" for limit in LIMITS), "rmse", "mean", "median")


def normals_from_points(points: Array, valid: Array | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (H, W, 3) that face the camera at 0, of a map of points (H, W, 3), and where they are known (H, W).

    Each is the mean of the unit normals of the four triangles that a pixel makes with its neighbours, of those whose
    three pixels are valid (finite, or in `valid`); zero where there is none.
    """
    points = as_numpy(points, np.float64)
    height, width = points.shape[:2]
    known = np.isfinite(points).all(-1) if valid is None else as_mask(valid, (height, width))
    inner = np.pad(np.where(known[..., None], points, 0), ((1, 1), (1, 1), (0, 0)))
    there = np.pad(known, 1)
    around = ((0, 1), (1, 0), (2, 1), (1, 2))  # up, left, down, right
    steps = [inner[y : y + height, x : x + width] - inner[1:-1, 1:-1] for y, x in around]
    seen = [there[y : y + height, x : x + width] & known for y, x in around]
    total, count = np.zeros_like(points), np.zeros((height, width), bool)
    for first in range(4):
        second = (first + 1) % 4
        normal = np.cross(steps[first], steps[second])
        length = np.linalg.norm(normal, axis=-1)
        usable = seen[first] & seen[second] & (length > 0)
        total += np.where(usable[..., None], normal / np.maximum(length, 1e-30)[..., None], 0)
        count |= usable
    length = np.linalg.norm(total, axis=-1)
    count &= length > 0
    return np.where(count[..., None], total / np.maximum(length, 1e-30)[..., None], 0), count
