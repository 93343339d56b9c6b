"""Dense correspondence between two posed depth views: the true warp, and how features vote for one.

Legend: A, B the two views, H x W pixels, h x w cells of a coarse grid, P = h*w cells of A, Q of B, D channels.
Pixels are continuous, centres at +0.5, so that a cell's centre is ((column + 0.5) * W / w, ...).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry import poses
from manyview.geometry.cameras import pixel_centres, project

Decoding = Literal["neighbours", "neighbours_wrapped", "argmax", "expectation"]


class PosedDepth(NamedTuple):
    """Views with measured depth; leading dimensions are free but the same in all three."""

    depth: Tensor  # (..., H, W) along the optical axis, 0 = none
    intrinsics: Tensor  # (..., 3, 3) pixels
    cam2world: Tensor  # (..., 4, 4)


def cell_centres(grid: tuple[int, int], size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(h, w, 2) pixels u, v of the centres of an even grid over an image of `size` (H, W)."""
    scale = torch.tensor([size[1] / grid[1], size[0] / grid[0]], device=device)
    return pixel_centres(*grid, device=device) * scale


def sample_depth(depth: Tensor, uv: Tensor, *, published: bool = False) -> Tensor:
    """Bilinear depth (..., h, w) of maps (..., H, W) at pixels (..., h, w, 2); 0 where unknown.

    Unknown is outside the image, and wherever one of the pixels that take part has no measurement. `published`
    mixes these in as zeros instead, as RoMa's benchmark does.
    """
    height, width = depth.shape[-2:]
    lead, grid = depth.shape[:-2], uv.shape[-3:-1]
    maps = depth.reshape(-1, 1, height, width)
    scale = torch.tensor([2 / width, 2 / height], dtype=uv.dtype, device=uv.device)
    places = (uv * scale - 1).expand(*lead, *grid, 2).reshape(-1, *grid, 2)
    if published:
        return F.grid_sample(maps, places, align_corners=False).reshape(*lead, *grid)
    planes = torch.cat([maps, (maps > 0).to(maps)], 1)
    found = F.grid_sample(planes, places, align_corners=False, padding_mode="border")
    known = (found[:, 1] > 1 - 1e-5) & (places.abs() <= 1).all(-1)
    return torch.where(known, found[:, 0], 0).reshape(*lead, *grid)


def warp(
    a: PosedDepth, b: PosedDepth, *, uv: Tensor | None = None, tolerance: float = 0.05, published: bool = False
) -> tuple[Tensor, Tensor]:
    """Where places of A are seen in B: pixels (..., h, w, 2) and whether they really are, (..., h, w).

    uv (h, w, 2) or (..., h, w, 2): pixels of A, by default all pixel centres. A place is seen when its depth is
    known, its point falls inside B, and B measured the same depth there up to `tolerance` (relative). `published`
    follows RoMa's benchmark to the letter: holes as in sample_depth, a margin of one pixel at B's right and lower
    border, and 1e-4 added to the depth that is divided by.
    """
    if uv is None:
        height, width = a.depth.shape[-2:]
        uv = pixel_centres(height, width, a.depth.device)
    grid = uv.shape[-3:-1]
    uv = uv.to(a.depth).expand(*a.depth.shape[:-2], *grid, 2)
    depth_a = sample_depth(a.depth, uv, published=published)
    ones = torch.ones_like(depth_a)[..., None]
    directions = torch.cat([uv, ones], -1).flatten(-3, -2) @ torch.linalg.inv(a.intrinsics).transpose(-1, -2)
    points = directions * depth_a.flatten(-2)[..., None]
    points_b = poses.apply(poses.invert(b.cam2world) @ a.cam2world, points)
    pixels, z = project(points_b, b.intrinsics)
    if published:
        pixels = (points_b @ b.intrinsics.transpose(-1, -2))[..., :2] / (z + 1e-4)[..., None]
    pixels, z = pixels.unflatten(-2, grid), z.unflatten(-1, grid)
    seen = _inside(pixels, b.depth.shape[-2:], published) & (depth_a > 0) & (z > 0)
    depth_b = sample_depth(b.depth, pixels, published=published)
    same = (z - depth_b).abs() < tolerance * depth_b
    return pixels, seen & same


def _inside(uv: Tensor, size: tuple[int, ...], published: bool) -> Tensor:
    margin = 1 if published else 0
    limit = torch.tensor([size[1] - margin, size[0] - margin], dtype=uv.dtype, device=uv.device)
    return ((uv > 0) & (uv < limit)).all(-1)


def nearest_cells(uv: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Row-major indices (...,) of the cells whose centres are nearest to pixels (..., 2)."""
    scale = torch.tensor([grid[1] / size[1], grid[0] / size[0]], dtype=uv.dtype, device=uv.device)
    column, row = torch.nan_to_num(uv * scale).floor().unbind(-1)
    return (row.clamp(0, grid[0] - 1) * grid[1] + column.clamp(0, grid[1] - 1)).long()


def kernel_log_probabilities(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    """Which cell of B each cell of A is: log-softmax over Q of cosine / temperature, (..., P, Q).

    a: features (..., P, D), b: (..., Q, D).
    """
    cosine = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(-1, -2)
    return (cosine / temperature).log_softmax(-1)


def decode(scores: Tensor, grid: tuple[int, int], size: tuple[int, int], how: Decoding = "neighbours") -> Tensor:
    """Pixels of B (..., P, 2) that log-probabilities (..., P, Q) over the cells of `grid` = (h, w) mean.

    neighbours: mean of the best cell's centre and its left, right, upper and lower neighbours', by probability.
    neighbours_wrapped: the same with neighbours by flat index, which at the end of a row are cells of the next
    one, and which are counted again where the index leaves the grid (published evaluations of this kind).
    argmax: the best cell's centre. expectation: the mean over all cells.
    """
    centres = cell_centres(grid, size, scores.device).flatten(0, 1).to(scores)  # (Q, 2)
    if how == "expectation":
        return scores.exp() @ centres
    best = scores.argmax(-1, keepdim=True)
    if how == "argmax":
        return centres[best[..., 0]]
    (height, width), steps = grid, (0, -1, 1, -grid[1], grid[1])
    around = torch.cat([best + step for step in steps], -1)  # (..., P, 5)
    near = around.clamp(0, height * width - 1)
    weights = scores.gather(-1, near)
    if how == "neighbours":
        column = best[..., 0] % width
        outside = near != around
        outside[..., 1] |= column == 0
        outside[..., 2] |= column == width - 1
        weights = weights.masked_fill(outside, -torch.inf)
    return (weights.softmax(-1)[..., None] * centres[near]).sum(-2)


def upsample_warp(uv: Tensor, grid: tuple[int, int], size: tuple[int, int], *, published: bool = False) -> Tensor:
    """A warp known at the cell centres, (N, h*w, 2) pixels, at every pixel: (N, H, W, 2), bilinear.

    The displacement is interpolated, constant beyond the outermost centres. `published` interpolates the
    position itself, which so stands still along the border.
    """
    start = 0 if published else cell_centres(grid, size, uv.device).flatten(0, 1)
    coarse = (uv - start).transpose(1, 2).unflatten(2, grid)
    fine = F.interpolate(coarse, size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    return fine if published else fine + pixel_centres(*size, uv.device)
