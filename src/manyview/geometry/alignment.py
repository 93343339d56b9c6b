"""Fits between point sets and cameras: weighted similarity, scale, focal length and pose of a pointmap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyview.geometry import poses
from manyview.geometry.cameras import pixel_centres


class Similarity(NamedTuple):
    """target ~ scale * rotation @ source + translation; shapes (...), (..., 3, 3), (..., 3)."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor


class PoseFit(NamedTuple):
    """Pose of a camera from a pointmap: cam2world (4, 4), share of pixels that agree, whether it stands."""

    cam2world: Tensor
    inliers: float
    ok: bool


def similarity(source: Tensor, target: Tensor, weights: Tensor | None = None, with_scale: bool = True) -> Similarity:
    """Closed-form weighted least-squares similarity (Umeyama 1991) of (..., N, 3) onto (..., N, 3).

    weights: (..., N) >= 0; a point of weight 0 is not read. Rotations are proper, never reflections.
    """
    if weights is None:
        weights = torch.ones(source.shape[:-1], dtype=source.dtype, device=source.device)
    used = (weights > 0)[..., None]
    source, target = torch.where(used, source, 0), torch.where(used, target, 0)
    share = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-12))[..., None]
    source_mean, target_mean = (share * source).sum(-2), (share * target).sum(-2)
    centred_source = torch.where(used, source - source_mean[..., None, :], 0)
    centred_target = torch.where(used, target - target_mean[..., None, :], 0)
    covariance = (share * centred_target).transpose(-1, -2) @ centred_source
    left, singular, right = torch.linalg.svd(covariance.double())
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.sign(torch.linalg.det(left @ right))
    rotation = (left * sign[..., None, :]) @ right
    spread = (share * centred_source.square()).sum((-1, -2)).double()
    scale = (singular * sign).sum(-1) / spread.clamp(min=1e-24) if with_scale else torch.ones_like(spread)
    rotation, scale = rotation.to(source), scale.to(source)
    translation = target_mean - scale[..., None] * (rotation @ source_mean[..., None])[..., 0]
    return Similarity(scale, rotation, translation)


def apply_similarity(fit: Similarity, points: Tensor) -> Tensor:
    """Move points (..., N, 3)."""
    return fit.scale[..., None, None] * (points @ fit.rotation.transpose(-1, -2)) + fit.translation[..., None, :]


def median_scale(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """Median over valid pixels of true / predicted depth, a scalar; 1 when no pixel is valid."""
    valid = valid & (predicted > 0) & (true > 0) & torch.isfinite(predicted)
    if not bool(valid.any()):
        return torch.ones((), dtype=predicted.dtype)
    return (true[valid] / predicted[valid]).median()


def focal_from_pointmap(
    pointmap: Tensor, valid: Tensor | None = None, principal: tuple[float, float] | None = None, most: int = 20_000
) -> float:
    """Focal length in pixels that best explains a camera-frame pointmap (H, W, 3), pixels square.

    Iteratively re-weighted least squares: a plain fit is pulled by the few bad pixels at depth edges.
    `principal` defaults to the image centre. At most `most` evenly spread pixels are used. Returns NaN when
    there is none.
    """
    height, width = pointmap.shape[:2]
    centre = (width / 2, height / 2) if principal is None else principal
    uv = pixel_centres(height, width).to(pointmap) - torch.tensor(centre).to(pointmap)
    usable = torch.isfinite(pointmap).all(-1) & (pointmap[..., 2] > 1e-6)
    if valid is not None:
        usable &= valid
    if not bool(usable.any()):
        return float("nan")
    index = usable.flatten().nonzero()[:, 0]
    index = index[:: max(1, -(-len(index) // most))]
    uv, points = uv.reshape(-1, 2)[index].double(), pointmap.reshape(-1, 3)[index].double()
    direction = points[:, :2] / points[:, 2:]
    weights = torch.ones_like(direction[:, 0])
    focal = torch.zeros((), dtype=torch.float64)
    for _ in range(11):
        along = (weights * (direction * uv).sum(-1)).sum()
        focal = along / (weights * direction.square().sum(-1)).sum().clamp(min=1e-12)
        weights = 1 / (uv - focal * direction).norm(dim=-1).clamp(min=1e-8)
    return float(focal)


def pose_from_pointmap(
    points: Tensor, intrinsics: Tensor, valid: Tensor | None = None, threshold_px: float = 5.0, most: int = 4000
) -> PoseFit:
    """Pose of the view whose pixels see world `points` (H, W, 3), by robust PnP (poselib's LO-RANSAC, P3P).

    At most `most` evenly spread pixels are used. With fewer than four pixels, or no consensus, `ok` is False
    and the pose is the identity.
    """
    import poselib

    height, width = points.shape[:2]
    usable = torch.isfinite(points).all(-1)
    if valid is not None:
        usable &= valid
    index = usable.flatten().nonzero()[:, 0]
    index = index[:: max(1, -(-len(index) // most))]
    failed = PoseFit(torch.eye(4), 0.0, False)
    if len(index) < 4:
        return failed
    world = points.reshape(-1, 3)[index].double().cpu().numpy()
    pixels = pixel_centres(height, width).reshape(-1, 2)[index.cpu()].double().numpy()
    matrix = intrinsics.double().cpu().numpy()
    lens = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    camera = {"model": "PINHOLE", "width": width, "height": height, "params": [float(value) for value in lens]}
    ransac = {"max_reproj_error": threshold_px, "max_iterations": 1000, "seed": 0}
    pose, about = poselib.estimate_absolute_pose(pixels, world, camera, ransac, {})
    inliers = int(about["num_inliers"])
    if inliers < 4 or not (np.isfinite(pose.R).all() and np.isfinite(pose.t).all()):
        return failed
    world2cam = poses.pose(torch.from_numpy(np.array(pose.R)), torch.from_numpy(np.array(pose.t)))
    return PoseFit(poses.invert(world2cam).float(), inliers / len(index), True)
