"""How far measured depth is to be trusted: less at its edges and where a surface is seen at a grazing angle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def confidence_of_depth(local: Tensor, valid: Tensor, edge_step: float, full_cosine: float) -> Tensor:
    """1 to 10 for each pixel of local pointmaps (..., H, W, 3), 1 where nothing is valid (..., H, W).

    edge_step: the relative step of inverse depth at which trust falls to 1/e. full_cosine: the |cos| between normal
    and viewing ray from which on an angle costs nothing.
    """
    edge = plane_step(local[..., 2], valid).div_(edge_step).square_().neg_().exp_()
    return edge.mul_(grazing_factor(local, valid, full_cosine)).mul_(valid).mul_(9).add_(1)


def plane_step(depth: Tensor, valid: Tensor) -> Tensor:
    """Relative step of inverse depth beyond a plane, the larger of across and down: (..., H, W), 0 where unknown.

    Both neighbours valid: |left + right - 2 * here| / here; one valid: |neighbour - here| / here.
    """
    inverse = torch.where(valid, 1 / depth.clamp(min=1e-12), torch.zeros_like(depth))
    across, down = (_sums(_differences(inverse, valid, dim), dim, -1).abs_() for dim in (-1, -2))
    return torch.maximum(across, down).div_(inverse.clamp_(min=1e-12)).mul_(valid)


def grazing_factor(local: Tensor, valid: Tensor, full_cosine: float) -> Tensor:
    """Smoothstep of |cos(normal, viewing ray)| from 0 to `full_cosine`, for local pointmaps: (..., H, W).

    The normal is the one of `pointmaps.normals`, made coordinate by coordinate: that takes a fifth of its time.
    """
    planes = torch.where(valid, local.movedim(-1, 0).contiguous(), 0.0)
    (ax, ay, az), (dx, dy, dz) = (_sums(_differences(planes, valid, dim), dim, 1) for dim in (-1, -2))
    normal = [_minus(dy * az, dz, ay), _minus(dz * ax, dx, az), _minus(dx * ay, dy, ax)]
    cosine = _product(normal, planes).abs_()
    for vectors in (normal, planes):
        cosine *= _product(vectors, vectors).clamp_(min=1e-37).rsqrt_()
    part = cosine.div_(full_cosine).clamp_(0, 1)
    return (3 - 2 * part).mul_(part).mul_(part)


def _minus(first: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """first - left * right, in place."""
    return first.addcmul_(left, right, value=-1)


def _product(left: Sequence[Tensor] | Tensor, right: Sequence[Tensor] | Tensor) -> Tensor:
    """The scalar product of vectors whose three coordinates are (..., H, W) each."""
    return (left[0] * right[0]).addcmul_(left[1], right[1]).addcmul_(left[2], right[2])


def _differences(planes: Tensor, valid: Tensor, dim: int) -> Tensor:
    """From each pixel of (..., H, W) to the next along a dimension, 0 unless both are valid: one shorter."""
    size = valid.shape[dim]
    step = planes.narrow(dim, 1, size - 1) - planes.narrow(dim, 0, size - 1)
    return step.mul_(valid.narrow(dim, 1, size - 1) & valid.narrow(dim, 0, size - 1))


def _sums(step: Tensor, dim: int, sign: int) -> Tensor:
    """Of each pixel: the difference to the next one, plus `sign` times the one from the last."""
    size = step.shape[dim]
    edges = torch.zeros_like(step.narrow(dim, 0, 1))
    sums = torch.cat([step, edges], dim)
    sums.narrow(dim, 1, size).add_(step, alpha=sign)
    return sums
