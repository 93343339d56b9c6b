"""Per-view reconstruction as in Distill3R, Table II: median distances after one scale factor per view.

The paper gives neither estimator nor code. Here: scale factor = median over the pixels of measured /
predicted depth; accuracy = median distance from each scaled predicted point to the nearest measured one;
completeness = the other way round; both times 100 (centimetres for data in metres). Predicted points are
those of pixels with a measurement.
"""

from __future__ import annotations

import numpy as np

from manyview.geometry.neighbours import nearest_distances
from manyview.metrics.arrays import Array, as_mask, as_numpy, as_pair
from manyview.metrics.depth import depth_errors

FACTOR = 100.0
FEWEST_PIXELS = 16


def median_distances(predicted: Array, measured: Array) -> tuple[float, float]:
    """Accuracy and completeness of clouds (N, 3) and (M, 3): median nearest distances times 100.

    Accuracy runs predicted -> measured, completeness measured -> predicted. An empty cloud gives infinities.
    """
    predicted, measured = as_numpy(predicted, np.float64), as_numpy(measured, np.float64)
    if len(predicted) == 0 or len(measured) == 0:
        return float("inf"), float("inf")
    accuracy = np.median(nearest_distances(predicted, measured))
    return FACTOR * float(accuracy), FACTOR * float(np.median(nearest_distances(measured, predicted)))


def per_view_reconstruction(predicted: Array, measured: Array, valid: Array | None = None) -> dict[str, float]:
    """Judge one view's local pointmap (H, W, 3) against the measured one, both in the view's camera frame.

    valid (H, W): pixels with a measurement; default: measured depth above 0. Returns accuracy and
    completeness (x100), scale_factor (measured / predicted; 1 = metric), abs_rel and delta_1 after that
    scale, pixels, and unusable: the share of valid pixels whose prediction is not finite or not in front of
    the camera. These count as depth 0 in abs_rel (an error of 1) and delta_1 and are no points of the cloud.
    Raises ValueError with fewer than 16 valid pixels or no usable prediction: such a view has no score.
    """
    predicted, measured = as_pair(predicted, measured)
    valid = measured[..., 2] > 0 if valid is None else as_mask(valid, measured.shape[:-1])
    valid = valid & np.isfinite(measured).all(-1)
    if valid.sum() < FEWEST_PIXELS:
        raise ValueError(f"only {int(valid.sum())} pixels with a measurement, needs {FEWEST_PIXELS}")
    points, truth = predicted[valid], measured[valid]
    usable = np.isfinite(points).all(-1) & (points[:, 2] > 0)
    if not usable.any():
        raise ValueError("no predicted point is finite and in front of the camera")
    scale = float(np.median(truth[usable, 2] / points[usable, 2]))
    depth = np.where(usable, scale * points[:, 2], 0.0)
    accuracy, completeness = median_distances(scale * points[usable], truth)
    errors = depth_errors(depth, truth[:, 2], floor=1e-12)
    return {
        "accuracy": accuracy,
        "completeness": completeness,
        "scale_factor": scale,
        "abs_rel": errors["abs_rel"],
        "delta_1": errors["delta_1"],
        "pixels": int(valid.sum()),
        "unusable": float(1 - usable.mean()),
    }
