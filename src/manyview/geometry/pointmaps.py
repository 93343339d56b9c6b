"""Pointmaps, a 3D point per pixel (..., H, W, 3): from depth and back, normalised, edges and normals."""

from __future__ import annotations

import torch
from torch import Tensor

from manyview.geometry import poses
from manyview.geometry.cameras import rays


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Local pointmap (..., H, W, 3) of depth along the optical axis (..., H, W); depth 0 gives the origin."""
    return rays(intrinsics.to(depth), *depth.shape[-2:]) * depth[..., None]


def transform(target_from_source: Tensor, pointmap: Tensor) -> Tensor:
    """Move pointmaps (..., H, W, 3) by transforms (..., 4, 4)."""
    return poses.apply(target_from_source, pointmap.flatten(-3, -2)).unflatten(-2, pointmap.shape[-3:-1])


def depth_edges(depth: Tensor, valid: Tensor | None = None, rtol: float = 0.03) -> Tensor:
    """True at pixels with a 3x3 neighbour more than `rtol` (relative to the nearer) in front or behind.

    depth, valid: (..., H, W). Pixels without a valid measurement neither are nor make edges.
    """
    if valid is None:
        valid = depth > 0
    planes = (-1, 1, *depth.shape[-2:])
    far = torch.where(valid, depth, torch.zeros_like(depth)).reshape(planes)
    near = torch.where(valid, -depth, torch.full_like(depth, -torch.inf)).reshape(planes)
    largest = torch.nn.functional.max_pool2d(far, 3, stride=1, padding=1)[:, 0].reshape(depth.shape)
    smallest = -torch.nn.functional.max_pool2d(near, 3, stride=1, padding=1)[:, 0].reshape(depth.shape)
    jump = torch.maximum(largest - depth, depth - smallest)
    return valid & (jump > rtol * torch.minimum(depth, smallest))


def normals(pointmap: Tensor, valid: Tensor | None = None) -> Tensor:
    """Unit normals (..., H, W, 3) of camera-frame pointmaps, facing the camera; zero where undefined.

    Differences run to the neighbours on both sides where both are valid, else to the one that is.
    """
    if valid is None:
        valid = torch.isfinite(pointmap).all(-1) & (pointmap[..., 2] > 0)
    points = torch.where(valid[..., None], pointmap, torch.zeros_like(pointmap))
    across = _difference(points, valid, dim=-2)
    down = _difference(points, valid, dim=-3)
    normal = torch.linalg.cross(down, across)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    away = (normal * points).sum(-1, keepdim=True) > 0
    return torch.where(away, -normal, normal)


def _difference(points: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Sum of the valid one-sided differences along an image dimension of (..., H, W, 3); zero without any."""
    size = points.shape[dim]
    ahead, here = points.narrow(dim, 1, size - 1), points.narrow(dim, 0, size - 1)
    both = (valid.narrow(dim + 1, 1, size - 1) & valid.narrow(dim + 1, 0, size - 1))[..., None]
    step = torch.where(both, ahead - here, torch.zeros_like(here))
    edge = torch.zeros_like(points.narrow(dim, 0, 1))
    return torch.cat([step, edge], dim) + torch.cat([edge, step], dim)


def mean_distance(points: Tensor, valid: Tensor, dims: tuple[int, ...], floor: float = 1e-8) -> Tensor:
    """Mean norm of the valid points of (..., H, W, 3) over `dims`, kept as size 1, at least `floor`."""
    distance = torch.where(valid, torch.where(valid[..., None], points, 0).norm(dim=-1), 0)
    count = valid.sum(dims, keepdim=True).clamp(min=1)
    return (distance.sum(dims, keepdim=True) / count).clamp(min=floor)


def normalise(points: Tensor, valid: Tensor, shared: bool = True) -> tuple[Tensor, Tensor]:
    """Divide pointmaps (B, V, H, W, 3) by their mean distance from the origin (Distill3R, equations 4 and 5).

    `shared=True`: one scale per scene over all its views, (B, 1, 1, 1); else one per view, (B, V, 1, 1).
    Invalid points never enter the scale. Returns the points and the scale.
    """
    scale = mean_distance(points, valid, (1, 2, 3) if shared else (2, 3))
    return points / scale[..., None], scale
