"""Camera pose errors: relative rotation and translation angles, their AUC, and trajectory errors after alignment.

Angles in degrees. Where codes of the field disagree, the docstring says which one this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from manyview.metrics.arrays import Array, as_numpy, as_pair

SMALLEST_BASELINE = 1e-12


def rotation_error(predicted: Array, true: Array) -> np.ndarray:
    """Angle of true^T predicted for rotations (..., 3, 3): (...,) degrees in [0, 180], exact near both ends."""
    predicted, true = as_pair(predicted, true)
    relative = np.swapaxes(true, -1, -2) @ predicted
    skew = relative - np.swapaxes(relative, -1, -2)
    sine = np.linalg.norm(np.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1), axis=-1)
    return np.degrees(np.arctan2(sine, np.trace(relative, axis1=-2, axis2=-1) - 1))


def translation_error(predicted: Array, true: Array, *, zero: float = 90.0) -> np.ndarray:
    """Angle between directions (..., 3) regardless of sign: (...,) degrees in [0, 90].

    Where either vector is zero there is no direction: `zero` (90 as in VGGT's code; NaN in SuperGlue's).
    """
    predicted, true = as_pair(predicted, true)
    sine = np.linalg.norm(np.cross(predicted, true), axis=-1)
    angle = np.degrees(np.arctan2(sine, np.abs((predicted * true).sum(-1))))
    lengths = np.linalg.norm(predicted, axis=-1), np.linalg.norm(true, axis=-1)
    return np.where(np.minimum(*lengths) > SMALLEST_BASELINE, angle, zero)


def relative_pose_errors(
    predicted_world2cam: Array, true_world2cam: Array
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation and translation errors (P,) of cam_i from cam_j over all pairs i < j (P, 2), which come third.

    World-to-camera (N, 4, 4); for cam2world see the inverse: the errors then belong to the pair read backwards.
    """
    predicted, true = as_pair(predicted_world2cam, true_world2cam)
    pairs = np.array(list(combinations(range(len(true)), 2)), np.int64).reshape(-1, 2)
    i, j = pairs.T
    moved = [poses[i] @ np.linalg.inv(poses[j]) for poses in (predicted, true)]
    rotation = rotation_error(moved[0][:, :3, :3], moved[1][:, :3, :3])
    return rotation, translation_error(moved[0][:, :3, 3], moved[1][:, :3, 3]), pairs


def pose_accuracy(errors: Array, threshold: float) -> float:
    """Share of errors below `threshold` degrees (RRA@t, RTA@t); a NaN counts as a failure; NaN without errors."""
    errors = as_numpy(errors, np.float64)
    return float(np.mean(errors < threshold)) if len(errors) else float("nan")


def pose_auc(errors: Array, threshold: float) -> float:
    """Area under recall over error up to `threshold`, divided by it (SuperGlue's trapezoids), in [0, 1].

    errors: per pair, usually the larger of rotation and translation error; NaN counts as a failure; 0 without pairs.
    """
    errors = np.sort(as_numpy(errors, np.float64))  # NaN comes last
    if len(errors) == 0:
        return 0.0
    errors = np.concatenate([[0.0], errors])
    recall = np.arange(len(errors)) / (len(errors) - 1)
    last = int(np.searchsorted(errors, threshold))
    error, share = np.append(errors[:last], threshold), np.append(recall[:last], recall[last - 1])
    return float((np.diff(error) * (share[1:] + share[:-1])).sum() / 2 / threshold)


def mean_average_accuracy(rotation: Array, translation: Array, threshold: int = 30) -> float:
    """mAA: mean over the whole degrees 1..threshold of the share of pairs whose larger error is below (VGGT's AUC).

    Computed from bins of one degree as the published numbers are: an error of exactly `threshold` is still
    counted. Papers define it by the smaller of the two shares; the codes use the larger of the two errors.
    NaN without pairs.
    """
    largest = np.maximum(*as_pair(rotation, translation))
    if len(largest) == 0:
        return float("nan")
    counts = np.histogram(largest[np.isfinite(largest)], bins=np.arange(threshold + 1))[0]
    return float(np.mean(np.cumsum(counts / len(largest))))


def exact_average_accuracy(rotation: Array, translation: Array, threshold: float = 30.0) -> float:
    """The same area without bins: mean of max(0, 1 - larger error / threshold); NaN counts as failure."""
    largest = np.maximum(*as_pair(rotation, translation))
    if len(largest) == 0:
        return float("nan")
    return float(np.mean(np.nan_to_num(np.clip(1 - largest / threshold, 0, 1), nan=0.0)))


def paper_average_accuracy(rotation: Array, translation: Array, threshold: float = 30.0) -> float:
    """mAA as papers print it (DUSt3R, MASt3R, SAB3R): the mean over angles up to `threshold` of min(RRA, RTA).

    Exact, without bins. Never smaller than `exact_average_accuracy`, which asks both of the same pair, and on noisy
    answers much larger: published tables come from codes that ask both. NaN counts as a failure; NaN without pairs.
    """
    parts = [np.nan_to_num(as_numpy(errors, np.float64), nan=np.inf) for errors in (rotation, translation)]
    if not len(parts[0]):
        return float("nan")
    edges = np.unique(np.concatenate([[0.0, threshold], *(part[part < threshold] for part in parts)]))
    middles = (edges[1:] + edges[:-1]) / 2
    shares = [np.searchsorted(np.sort(part), middles) / len(part) for part in parts]
    return float((np.minimum(*shares) * np.diff(edges)).sum() / threshold)


def align_centres(
    predicted: Array, true: Array, *, scale: bool = True, weights: Array | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """(scale, R, t) of the least-squares similarity (Umeyama) of points (N, 3): true ~ scale R predicted + t.

    scale=False: a rigid motion. Never a reflection.
    """
    import torch  # here, so that importing the metrics costs nothing but numpy

    from manyview.geometry.alignment import similarity

    source, target = map(torch.from_numpy, as_pair(predicted, true))
    shares = None if weights is None else torch.from_numpy(as_numpy(weights, np.float64))
    fit = similarity(source, target, shares, with_scale=scale)
    return float(fit.scale), fit.rotation.numpy(), fit.translation.numpy()


def trajectory_error(
    predicted_cam2world: Array, true_cam2world: Array, *, align: str = "similarity"
) -> dict[str, float]:
    """ATE: rmse, mean and median distance of the camera centres (N, 4, 4) after aligning prediction to truth.

    align: "none", "rigid", "similarity" or "scale" (the similarity's scale alone). NaN where a scale is not
    determined: fewer than three poses, or no motion; and for a pose that is not finite.
    """
    predicted, true = as_pair(predicted_cam2world, true_cam2world)
    source, target = predicted[:, :3, 3], true[:, :3, 3]
    if align not in ("none", "rigid", "similarity", "scale"):
        raise ValueError(f"align is {align!r}; it must be none, rigid, similarity or scale")
    if align != "none":
        finite = np.isfinite(source).all() and np.isfinite(target).all()
        if not (finite if align == "rigid" else determined(source, target)):
            return dict.fromkeys(("rmse", "mean", "median"), float("nan"))
        scale, rotation, shift = align_centres(source, target, scale=align != "rigid")
        source = scale * source if align == "scale" else scale * source @ rotation.T + shift
    distances = np.linalg.norm(source - target, axis=-1)
    return {
        "rmse": float(np.sqrt(np.mean(distances**2))),
        "mean": float(np.mean(distances)),
        "median": float(np.median(distances)),
    }


def determined(predicted: Array, true: Array) -> bool:
    """Whether two tracks of camera centres (N, 3) fix a similarity: their covariance has rank two at least."""
    source, target = as_pair(predicted, true)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        return False
    covariance = (target - target.mean(0)).T @ (source - source.mean(0)) / len(source)
    singular = np.linalg.svd(covariance, compute_uv=False)
    return bool((singular > np.finfo(np.float64).eps).sum() >= 2)


def relative_trajectory_error(predicted_cam2world: Array, true_cam2world: Array, *, step: int = 1) -> dict[str, float]:
    """RPE: rmse of the translation (unit of the poses) and rotation (degrees) drift over `step` frames.

    After similarity alignment of the whole track; NaN where that is not determined.
    """
    predicted, true = as_pair(predicted_cam2world, true_cam2world)
    predicted = predicted.copy()
    if not determined(predicted[:, :3, 3], true[:, :3, 3]):
        return {"translation": float("nan"), "rotation": float("nan")}
    scale, rotation, shift = align_centres(predicted[:, :3, 3], true[:, :3, 3])
    predicted[:, :3, 3] = scale * predicted[:, :3, 3] @ rotation.T + shift
    predicted[:, :3, :3] = rotation @ predicted[:, :3, :3]
    steps = [np.linalg.inv(poses[:-step]) @ poses[step:] for poses in (true, predicted)]
    drift = np.linalg.inv(steps[0]) @ steps[1]
    angles = rotation_error(drift[:, :3, :3], np.broadcast_to(np.eye(3), drift[:, :3, :3].shape))
    distances: Sequence[float] = np.linalg.norm(drift[:, :3, 3], axis=-1)
    return {
        "translation": float(np.sqrt(np.mean(np.square(distances)))),
        "rotation": float(np.sqrt(np.mean(angles**2))),
    }
