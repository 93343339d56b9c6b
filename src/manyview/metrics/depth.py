"""Depth errors against measurements, after the alignment a benchmark uses. Definitions in each docstring.

Valid pixels: measured depth finite and above 0 (and inside `valid`). A prediction that is not finite on a
valid pixel makes every mean NaN, as in CUT3R's and DINOv3's code; robustmvd's code instead counts NaN as an
error of zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manyview.metrics.arrays import Array, as_mask, as_numpy, as_pair

FLOOR = 1e-5
"""Predicted depths below it are raised to it before a logarithm or a ratio. Probes of depth and reconstruction per view
keep the smaller floors their numbers were published with: 1e-9 and 1e-12."""


def valid_depth(true: Array, valid: Array | None = None, *, most: float | None = None) -> np.ndarray:
    """Where a depth map is measured: finite, above 0, below `most`, inside `valid`; bool of its shape."""
    true = as_numpy(true)
    mask = np.isfinite(true) & (true > 0)
    if most is not None:
        mask &= true < most
    return mask if valid is None else mask & as_mask(valid, true.shape)


def align_depth(predicted: Array, true: Array, valid: Array | None = None, *, how: str = "median") -> np.ndarray:
    """The predicted depth map moved onto the measured one; the fit reads valid pixels only. float64, same shape.

    how: "none"; "median" (times the ratio of the medians); "lower_median" (likewise with torch's median, the
    lower middle of an even count); "median_of_ratios"; "mean" (ratio of the means, as the start of the next);
    "scale_l1" (least absolute error, ten re-weighted steps, at least 1e-3); "scale_shift" (least squares in
    depth); "inverse_scale_shift" (least squares in inverse depth). Without a valid pixel nothing is moved.
    """
    if how not in ALIGNMENTS:
        raise ValueError(f"alignment {how!r} is unknown; use one of {', '.join(ALIGNMENTS)}")
    predicted, true = as_pair(predicted, true)
    mask = valid_depth(true, valid)
    if not mask.any():
        return predicted.copy()
    with np.errstate(all="ignore"):
        return ALIGNMENTS[how](predicted[mask], true[mask])(predicted)


Move = Callable[[np.ndarray], np.ndarray]


def _times(scale: float) -> Move:
    return lambda depth: scale * depth


def _lower_median(values: np.ndarray) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2]) if np.isfinite(values).all() else float("nan")


def _scale_l1(predicted: np.ndarray, true: np.ndarray) -> Move:
    scale = true.mean() / predicted.mean()
    for _ in range(10):
        weights = 1 / (np.abs(scale * predicted - true) + 1e-8)
        scale = (weights * predicted * true).sum() / (weights * predicted**2).sum()
    return _times(max(scale, 1e-3) if np.isfinite(scale) else scale)


def _linear(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Least-squares scale and shift; the smallest ones when a constant source leaves them open; NaN for non-finite."""
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        return float("nan"), float("nan")
    scale, shift = np.linalg.lstsq(np.stack([source, np.ones_like(source)], 1), target, rcond=1e-9)[0]
    return float(scale), float(shift)


def _scale_shift(predicted: np.ndarray, true: np.ndarray) -> Move:
    scale, shift = _linear(predicted, true)
    return lambda depth: scale * depth + shift


def inverse_fit(predicted: Array, true: Array, valid: Array | None = None) -> tuple[float, float]:
    """Scale and shift of "inverse_scale_shift": 1 / true ~ scale / predicted + shift over the valid pixels."""
    predicted, true = as_pair(predicted, true)
    mask = valid_depth(true, valid)
    return _linear(1 / predicted[mask], 1 / true[mask])


def _inverse_scale_shift(predicted: np.ndarray, true: np.ndarray) -> Move:
    scale, shift = _linear(1 / predicted, 1 / true)
    return lambda depth: 1 / (scale / depth + shift)


ALIGNMENTS: dict[str, Callable[[np.ndarray, np.ndarray], Move]] = {
    "none": lambda predicted, true: _times(1.0),
    "median": lambda predicted, true: _times(np.median(true) / np.median(predicted)),
    "lower_median": lambda predicted, true: _times(_lower_median(true) / _lower_median(predicted)),
    "median_of_ratios": lambda predicted, true: _times(np.median(true / predicted)),
    "mean": lambda predicted, true: _times(true.mean() / predicted.mean()),
    "scale_l1": _scale_l1,
    "scale_shift": _scale_shift,
    "inverse_scale_shift": _inverse_scale_shift,
}


def depth_errors(
    predicted: Array,
    true: Array,
    valid: Array | None = None,
    *,
    align: str = "none",
    clip: tuple[float | None, float | None] = (None, None),
    floor: float = FLOOR,
) -> dict[str, float]:
    """Errors over the valid pixels of one depth map, after `align` (see align_depth) and then clipping to `clip`.

    abs_rel mean |p-t|/t; sq_rel mean (p-t)²/t; rmse; mae; log_rmse of natural logarithms; log_10 mean |log10
    p/t|; silog standard deviation of log p/t; delta_1..3 share with max(p/t, t/p) < 1.25^k; inlier_103 the
    same with 1.03; pixels. Lengths in the unit of `true`. All NaN without a valid pixel. floor: see FLOOR.
    """
    true = as_numpy(true, np.float64)
    mask = valid_depth(true, valid)
    moved = align_depth(predicted, true, valid, how=align)[mask]
    moved, truth = np.clip(moved, *clip) if clip != (None, None) else moved, true[mask]
    if len(truth) == 0:
        return {**dict.fromkeys(ERRORS, float("nan")), "pixels": 0}
    with np.errstate(all="ignore"):
        difference = moved - truth
        safe = np.maximum(moved, floor)
        log = np.log(safe) - np.log(truth)
        ratio = np.maximum(safe / truth, truth / safe)
        errors = {
            "abs_rel": np.mean(np.abs(difference) / truth),
            "sq_rel": np.mean(difference**2 / truth),
            "rmse": np.sqrt(np.mean(difference**2)),
            "mae": np.mean(np.abs(difference)),
            "log_rmse": np.sqrt(np.mean(log**2)),
            "log_10": np.mean(np.abs(log)) / np.log(10),
            "silog": np.std(log),
            **{f"delta_{k}": np.mean(ratio < 1.25**k) for k in (1, 2, 3)},
            "inlier_103": np.mean(ratio < 1.03),
        }
    return {**{name: float(value) for name, value in errors.items()}, "pixels": len(truth)}


ERRORS = (
    *("abs_rel", "sq_rel", "rmse", "mae", "log_rmse", "log_10", "silog"),
    *("delta_1", "delta_2", "delta_3", "inlier_103"),
)


def abs_rel(predicted: Array, true: Array, valid: Array | None = None, *, align: str = "median") -> float:
    """Mean |predicted - true| / true over the valid pixels after `align` (see align_depth)."""
    return depth_errors(predicted, true, valid, align=align)["abs_rel"]


def eigen_crop(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of Eigen's NYU crop, 45:471 and 41:601 of 480x640, scaled and cut to whole pixels."""
    rows = slice(int(45 / 480 * height), int(471 / 480 * height))
    return rows, slice(int(41 / 640 * width), int(601 / 640 * width))


def garg_crop(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of Garg's crop of KITTI pictures, where the laser measures."""
    rows = slice(int(0.40810811 * height), int(0.99189189 * height))
    return rows, slice(int(0.03594771 * width), int(0.96405229 * width))
