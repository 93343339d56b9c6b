"""Pinhole cameras: 3x3 `intrinsics` in pixels, pixel centres at +0.5 (the first one is (0.5, 0.5))."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_centres(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """(H, W, 2) pixel coordinates u, v of the pixel centres."""
    v = torch.arange(height, device=device, dtype=dtype or torch.float32) + 0.5
    u = torch.arange(width, device=device, dtype=dtype or torch.float32) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)


def intrinsics_matrix(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """One (3, 3) matrix from its four numbers (pixels)."""
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Directions with z = 1 through every pixel centre, camera frame: (..., 3, 3) -> (..., H, W, 3)."""
    uv = pixel_centres(height, width, intrinsics.device, intrinsics.dtype)
    fx, fy = intrinsics[..., 0, 0, None, None], intrinsics[..., 1, 1, None, None]
    cx, cy = intrinsics[..., 0, 2, None, None], intrinsics[..., 1, 2, None, None]
    skew = intrinsics[..., 0, 1, None, None]
    y = (uv[..., 1] - cy) / fy
    x = (uv[..., 0] - cx - skew * y) / fx
    return torch.stack([x, y, torch.ones_like(x)], -1)


def project(points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Camera-frame points (..., N, 3) -> pixels (..., N, 2), void where depth <= 0, and depths."""
    homogeneous = points @ intrinsics.transpose(-1, -2)
    depth = homogeneous[..., 2]
    safe = torch.where(depth.abs() < 1e-12, torch.full_like(depth, 1e-12), depth)
    return homogeneous[..., :2] / safe[..., None], depth


def apply_affine(target_from_source: Tensor, intrinsics: Tensor) -> Tensor:
    """Intrinsics after the image was resized and cropped by a 3x3 pixel map (+0.5 on both sides)."""
    return target_from_source.to(intrinsics) @ intrinsics
