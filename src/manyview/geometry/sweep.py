"""Depth from photos with known cameras, without a network: plane sweep, and agreement between views.

Every pixel tries depths along its ray; at each the patches around it in the other photos are warped to it and compared
by zero-mean normalised cross-correlation. The mean of the two best of four neighbours counts, so that a surface hidden
from one of them is no loss. All lengths are in the unit of the cameras.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.geometry import poses
from manyview.geometry.cameras import rays

NEIGHBOURS, BEST = 4, 2
RADIUS = 3
"""Patches have 2 * RADIUS + 1 pixels a side."""
TURN, PARALLAX = 40.0, 0.1
"""Neighbours look less than TURN degrees elsewhere, from about PARALLAX of the scene's depth away."""
FLAT = 2e-5
"""Variance of a patch, images in [0, 1], below which it has nothing to compare."""
AGREE = 0.03
"""Relative difference of depth up to which two views agree."""


class Swept(NamedTuple):
    """Of each view: depth along the optical axis, correlation in [-1, 1], views that agree; all (V, H, W)."""

    depth: Tensor
    score: Tensor
    votes: Tensor


def sweep(images: Tensor, intrinsics: Tensor, cam2world: Tensor, *, planes: int = 96) -> Swept:
    """Depth of posed views (V, 3, H, W) in [0, 1], (V, 3, 3), (V, 4, 4); V at least 2.

    First at a quarter of the size over all from one to 200 baselines away, which says how deep the scene is; then with
    neighbours that suit it, at half the size; then at full size around what that gave.
    """
    grey = images.mean(1, keepdim=True)
    centres = cam2world[:, :3, 3]
    baselines = torch.cdist(centres, centres)
    turns = torch.rad2deg((cam2world[:, None, :3, 2] * cam2world[None, :, :3, 2]).sum(-1).clamp(-1, 1).acos())
    usual = baselines[(baselines > 0) & (turns < TURN)]
    near = float(usual.median()) if len(usual) else 1.0
    rough = _sweep_all(
        grey, intrinsics, cam2world, _neighbours(baselines, turns, near), 1 / (200 * near), 1 / near, 4, planes
    )
    sure = rough[0][rough[1] > 0.7]
    if len(sure) > 50:
        middle, low, high = (float(q) for q in sure.quantile(torch.tensor([0.5, 0.02, 0.98]).to(sure)))
    else:
        middle, low, high = 10 * near, 2 * near, 60 * near
    chosen = _neighbours(baselines, turns, PARALLAX * middle)
    bounds = (0.6 / high, 1.5 / low)
    half = _sweep_all(grey, intrinsics, cam2world, chosen, *bounds, 2, planes)
    spread = (bounds[1] - bounds[0]) / (planes - 1)
    depth, score = _refined(grey, intrinsics, cam2world, chosen, half[0], spread)
    return Swept(depth, score, votes(depth, intrinsics, cam2world))


def votes(depth: Tensor, intrinsics: Tensor, cam2world: Tensor, tolerance: float = AGREE) -> Tensor:
    """For each pixel of depths (V, H, W): how many other views have the same surface there, to a relative tolerance."""
    count, height, width = depth.shape
    world = poses.apply(cam2world, (rays(intrinsics, height, width) * depth[..., None]).flatten(1, 2))
    agreeing = torch.zeros_like(depth, dtype=torch.int64)
    for other in range(count):
        local = poses.apply(poses.invert(cam2world[other]), world)
        z = local[..., 2].clamp(min=1e-9)
        uv = local @ intrinsics[other].T
        u, v = (uv[..., 0] / z).floor().long(), (uv[..., 1] / z).floor().long()
        inside = (local[..., 2] > 1e-9) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        there = depth[other].flatten()[v.clamp(0, height - 1) * width + u.clamp(0, width - 1)]
        same = (inside & (there > 0) & ((there - z).abs() < tolerance * z)).view(depth.shape)
        same[other] = False
        agreeing += same & (depth > 0)
    return agreeing


def _neighbours(baselines: Tensor, turns: Tensor, wanted: float) -> list[list[int]]:
    """Of each view the others that see the same from about `wanted` away, those that look elsewhere last."""
    cost = (baselines / wanted).clamp(min=1e-6).log().abs() + 10 * (turns > TURN)
    cost.fill_diagonal_(torch.inf)
    count = min(NEIGHBOURS, len(cost) - 1)
    return [row.argsort()[:count].tolist() for row in cost]


def _sweep_all(
    grey: Tensor,
    intrinsics: Tensor,
    cam2world: Tensor,
    neighbours: list[list[int]],
    low: float,
    high: float,
    shrink: int,
    planes: int,
) -> tuple[Tensor, Tensor]:
    """Depth and score at 1 / shrink of the size over inverse depths from low to high."""
    small = F.avg_pool2d(grey, shrink)
    scaled = intrinsics.clone()
    scaled[:, 0] *= small.shape[-1] / grey.shape[-1]
    scaled[:, 1] *= small.shape[-2] / grey.shape[-2]
    inverse = torch.linspace(low, high, planes, device=grey.device)[:, None, None].expand(-1, *small.shape[-2:])
    results = [
        _best(_scores(small, scaled, cam2world, view, others, inverse), inverse)
        for view, others in enumerate(neighbours)
    ]
    return torch.stack([1 / r[0] for r in results]), torch.stack([r[1] for r in results])


def _refined(
    grey: Tensor, intrinsics: Tensor, cam2world: Tensor, neighbours: list[list[int]], depth: Tensor, spread: float
) -> tuple[Tensor, Tensor]:
    """Full size: seven inverse depths within one and a half of the planes around a coarser answer."""
    size = grey.shape[-2:]
    around = torch.linspace(-1.5, 1.5, 7, device=grey.device)[:, None, None] * spread
    depths, scores = [], []
    for view, others in enumerate(neighbours):
        coarse = F.interpolate((1 / depth[view])[None, None], size, mode="nearest")[0]
        inverse = (coarse + around).clamp(min=1e-3 * spread)
        best, score = _best(_scores(grey, intrinsics, cam2world, view, others, inverse), inverse)
        depths.append(1 / best)
        scores.append(score)
    return torch.stack(depths), torch.stack(scores)


def _scores(
    grey: Tensor, intrinsics: Tensor, cam2world: Tensor, view: int, others: list[int], inverse: Tensor
) -> Tensor:
    """(P, H, W): how well the patches agree if a pixel has inverse depth (P, H, W)."""
    size = grey.shape[-2:]
    here = grey[view : view + 1]
    ray = rays(intrinsics[view], *size).reshape(-1, 3)
    each = []
    for other in others:
        motion = poses.invert(cam2world[other]) @ cam2world[view]
        turned, shift = ray @ (intrinsics[other] @ motion[:3, :3]).T, intrinsics[other] @ motion[:3, 3]
        parts = []
        for chunk in inverse.split(16):
            where = turned + chunk.flatten(1)[..., None] * shift
            z = where[..., 2].clamp(min=1e-6)
            uv = torch.stack([where[..., 0] / z / size[1] * 2 - 1, where[..., 1] / z / size[0] * 2 - 1], -1)
            uv = uv.view(len(chunk), *size, 2)
            warped = F.grid_sample(grey[other : other + 1].expand(len(chunk), -1, -1, -1), uv, align_corners=False)
            seen = (uv.abs() < 1).all(-1) & (where[..., 2] > 1e-6).view(len(chunk), *size)
            parts.append(torch.where(seen, _correlation(here, warped), -1.0))
        each.append(torch.cat(parts))
    return torch.stack(each).topk(min(BEST, len(each)), 0).values.mean(0)


def _correlation(here: Tensor, warped: Tensor) -> Tensor:
    """Zero-mean normalised cross-correlation of the patches of (1, 1, H, W) and (P, 1, H, W): (P, H, W)."""
    mean, other = _box(here), _box(warped)
    variance, others = _box(here.square()) - mean.square(), _box(warped.square()) - other.square()
    together = _box(here * warped) - mean * other
    known = (variance > FLAT) & (others > FLAT)
    return torch.where(known, together / (variance * others).clamp(min=1e-12).sqrt(), -1.0)[:, 0]


def _box(values: Tensor) -> Tensor:
    side = 2 * RADIUS + 1
    across = F.avg_pool2d(values, (1, side), 1, (0, RADIUS), count_include_pad=False)
    return F.avg_pool2d(across, (side, 1), 1, (RADIUS, 0), count_include_pad=False)


def _best(scores: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depth (H, W) of the best of (P, H, W) smoothed scores, between planes by a parabola, and its score."""
    smooth = F.avg_pool2d(scores[None], 3, 1, 1, count_include_pad=False)[0]
    best, index = smooth.max(0)
    index = index.clamp(1, len(scores) - 2)
    before, at, after = (smooth.gather(0, (index + step)[None])[0] for step in (-1, 0, 1))
    offset = (0.5 * (before - after) / (before - 2 * at + after).clamp(max=-1e-6)).clamp(-1, 1)
    step = inverse[1] - inverse[0]
    return (inverse.gather(0, index[None])[0] + offset * step).clamp(min=1e-9), best
