"""How far measured depth is to be trusted: less at its edges and where a surface is seen at a grazing angle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def confidence_of_depth(local: Tensor, valid: Tensor, edge_step: float, full_cosine: float) -> Tensor:
    """1 to 10 for each pixel of local pointmaps (..., H, W, 3), 1 where nothing is valid (..., H, W).

    edge_step: the relative step of inverse depth at which trust falls to 1/e. full_cosine: the |cos| between normal
    and viewing ray from which on an angle costs nothing.
    """
    edge = torch.exp(-(plane_step(local[..., 2], valid) / edge_step).square())
    quality = edge * grazing_factor(local, valid, full_cosine)
    return 1 + 9 * torch.where(valid, quality, torch.zeros_like(quality))


def plane_step(depth: Tensor, valid: Tensor) -> Tensor:
    """Relative step of inverse depth beyond a plane, the larger of across and down: (..., H, W), 0 where unknown.

    Both neighbours valid: |left + right - 2 * here| / here; one valid: |neighbour - here| / here.
    """
    inverse = torch.where(valid, 1 / depth.clamp(min=1e-12), torch.zeros_like(depth))
    around, known = F.pad(inverse, (1, 1, 1, 1)), F.pad(valid, (1, 1, 1, 1))
    same, behind, ahead = slice(1, -1), slice(-2), slice(2, None)
    step = torch.zeros_like(depth)
    for sides in ([(same, behind), (same, ahead)], [(behind, same), (ahead, same)]):
        both = [torch.where(known[..., y, x], around[..., y, x] - inverse, 0) for y, x in sides]
        step = torch.maximum(step, (both[0] + both[1]).abs() / inverse.clamp(min=1e-12))
    return torch.where(valid, step, torch.zeros_like(step))


def grazing_factor(local: Tensor, valid: Tensor, full_cosine: float) -> Tensor:
    """Smoothstep of |cos(normal, viewing ray)| from 0 to `full_cosine`, for local pointmaps: (..., H, W).

    The normal is the one of `pointmaps.normals`, made coordinate by coordinate: that takes a fifth of its time.
    """
    planes = torch.where(valid[..., None], local, 0).movedim(-1, 0).contiguous()
    (ax, ay, az), (dx, dy, dz) = (_steps(planes, valid, dim) for dim in (-1, -2))
    normal = torch.stack([dy * az - dz * ay, dz * ax - dx * az, dx * ay - dy * ax])
    cosine = (normal * planes).sum(0).abs()
    for vectors in (normal, planes):
        cosine *= vectors.square().sum(0).clamp(min=1e-37).rsqrt()
    part = (cosine / full_cosine).clamp(0, 1)
    return part * part * (3 - 2 * part)


def _steps(planes: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Sums of the valid one-sided differences of (3, ..., H, W) along a dimension, 0 without any."""
    size = valid.shape[dim]
    both = valid.narrow(dim, 1, size - 1) & valid.narrow(dim, 0, size - 1)
    step = (planes.narrow(dim, 1, size - 1) - planes.narrow(dim, 0, size - 1)).mul_(both)
    steps = torch.zeros_like(planes)
    steps.narrow(dim, 0, size - 1).add_(step)
    steps.narrow(dim, 1, size - 1).add_(step)
    return steps
