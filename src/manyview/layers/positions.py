"""Position tables: the learned one of a ViT at any grid, and fixed sine tables of views and of the image plane."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_table(table: Tensor, grid: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """A learned table (1, 1 + M*M, D), its first row the class token's, at a grid (h, w): (1, 1 + h*w, D).

    Follows DINOv2 to the digit: bicubic by scale factor with an offset of 0.1 and no antialiasing, or, as its
    models with registers do, by size and antialiased; untouched only when the grid is the table's own square.
    """
    side = math.isqrt(table.shape[1] - 1)
    if grid == (side, side):
        return table
    if antialias:
        return _resized(table, 1, size=grid, antialias=True)
    return _resized(table, 1, scale_factor=((grid[0] + 0.1) / side, (grid[1] + 0.1) / side))


def refit_table(table: Tensor, rows: int) -> Tensor:
    """A learned table (1, C + M*M, D) for another square grid: (1, rows, D), rows = C + N*N, C class tokens (0 or 1).

    Bicubic by size, no antialiasing: how DUNE's second stage starts from its first. Raises ValueError when the
    numbers of rows are no such grids.
    """
    side = math.isqrt(rows)
    first = table.shape[1] - math.isqrt(table.shape[1]) ** 2
    if first not in (0, 1) or rows - side**2 != first:
        raise ValueError(f"{table.shape[1]} and {rows} rows are not square grids with the same class tokens")
    return _resized(table, first, size=(side, side))


def _resized(table: Tensor, first: int, **how: Any) -> Tensor:
    """A table (1, first + M*M, D) with its square part resampled bicubically."""
    side = math.isqrt(table.shape[1] - first)
    patches = table[:, first:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, D, M, M)
    patches = F.interpolate(patches, mode="bicubic", align_corners=False, **how)
    return torch.cat([table[:, :first], patches.flatten(2).transpose(1, 2).to(table)], dim=1)


def sine_table(rows: int, dim: int) -> Tensor:
    """Fixed 1-D position table (rows, dim): sines then cosines at frequencies 10000 ** (-2k / dim)."""
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def plane_table(size: tuple[int, int], dim: int, *, aspect: float, device: torch.device | str | None = None) -> Tensor:
    """Sine positions (dim, h, w) of a map's pixel centres in an image of width / height `aspect`.

    The image's half diagonal is one unit, its centre the origin. Half the channels speak of x, half of y, each
    half sines then cosines at frequencies 100 ** (-2k / half).
    """
    height, width = size
    half = dim // 2
    frequencies = 100.0 ** (-torch.arange(half // 2, device=device, dtype=torch.float32) / (half // 2))
    reach = (aspect / math.hypot(aspect, 1), 1 / math.hypot(aspect, 1))
    angles = [
        ((torch.arange(n, device=device) + 0.5) * (2 / n) - 1)[:, None] * extent * frequencies
        for n, extent in ((width, reach[0]), (height, reach[1]))
    ]
    x, y = (torch.cat([a.sin(), a.cos()], dim=1).T for a in angles)  # (half, w), (half, h)
    return torch.cat([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)])
