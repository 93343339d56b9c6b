"""What measured pairs say: true points in the first view's frame, and true matches between the two views.

Legend: B pairs, H x W pixels, K matches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manyview.errors import UserError
from manyview.geometry import pointmaps, poses
from manyview.geometry.matching import PosedDepth, nearest_cells, warp
from manyview.types import Signal, Views

MATCHES = "matches"


def pair_signals(
    views: Views, *, matches: int = 0, mismatched: float = 0.5, generator: torch.Generator | None = None
) -> dict[str, Signal]:
    """`pointmap` (B, 2, H, W, 3), valid where depth was measured, and with `matches` > 0 the Signal of that name.

    In float32 whatever the autocast. Raises UserError when the views are no pairs or lack measurements.
    """
    if views.views != 2 or views.depth is None or views.intrinsics is None or views.cam2world is None:
        raise UserError("pairs are two views with depth, intrinsics and poses; choose data that have them")
    with torch.autocast(views.images.device.type, enabled=False):
        world = views.cam2world.double()  # composed in double precision: world coordinates can be large
        first_from_camera = (poses.invert(world[:, :1]) @ world).float()
        shots = PosedDepth(views.depth.float(), views.intrinsics.float(), first_from_camera)
        known = shots.depth.isfinite() & (shots.depth > 0)
        local = pointmaps.unproject(torch.where(known, shots.depth, 0), shots.intrinsics)
        first = pointmaps.transform(shots.cam2world, local)
        signals = {"pointmap": Signal(torch.where(known[..., None], first, 0), valid=known)}
        if matches:
            shots = shots._replace(depth=torch.where(known, shots.depth, 0))
            signals[MATCHES] = true_matches(shots, count=matches, mismatched=mismatched, generator=generator)
    return signals


def true_matches(
    shots: PosedDepth, *, count: int, mismatched: float = 0.5, generator: torch.Generator | None = None
) -> Signal:
    """Random pixels of two views (B, 2, ...) that see the same place: value (B, K, 2, 2) x, y per view, valid (B, K).

    A match holds both ways: each pixel's place falls into the other pixel, at its depth. K is `count`, or all pixels
    where they are fewer; at least the share `mismatched` of them are pixels without a match, and not valid, as long
    as there are such pixels. `generator` is on the CPU.
    """
    a, b = (PosedDepth(*(part[:, view] for part in shots)) for view in range(2))
    height, width = a.depth.shape[-2:]

    def pixels(one: PosedDepth, other: PosedDepth) -> tuple[Tensor, Tensor]:
        """Flat index (B, H * W) of the other's pixel that each place falls into, and whether it is seen there."""
        uv, seen = warp(one, other)
        return nearest_cells(uv, (height, width), (height, width)).flatten(1), seen.flatten(1)

    there, seen = pixels(a, b)
    back, seen_back = pixels(b, a)
    here = torch.arange(height * width, device=there.device)
    mutual = seen & seen_back.gather(1, there) & (back.gather(1, there) == here)
    wanted = min(count, height * width)
    rows = [
        _sample(pixel_b, matched, wanted, mismatched, generator) for pixel_b, matched in zip(there, mutual, strict=True)
    ]
    flat = torch.stack([pixels for pixels, _ in rows])  # (B, K, 2)
    return Signal(torch.stack([flat % width, flat // width], -1), valid=torch.stack([valid for _, valid in rows]))


def both_ways(views: Views) -> Views:
    """Every pair, then every pair the other way round: (2B, 2, ...). Names and signals stay as they are."""

    def twice(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.cat([values, values.flip(1)])

    images = twice(views.images)
    assert images is not None
    return replace(
        views,
        images=images,
        intrinsics=twice(views.intrinsics),
        cam2world=twice(views.cam2world),
        depth=twice(views.depth),
        masks=twice(views.masks),
    )


def _sample(
    there: Tensor, matched: Tensor, count: int, mismatched: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """`count` rows of flat pixels (K, 2) of one pair and whether they match: matches first, then free pixels."""
    free_a, taken = (~matched).nonzero()[:, 0], torch.zeros_like(matched)
    taken[there[matched]] = True
    free_b, found = (~taken).nonzero()[:, 0], matched.nonzero()[:, 0]
    most = count - round(mismatched * count) if len(free_a) else count
    order = torch.randperm(len(found), generator=generator)[:most].to(found.device)
    positives = torch.stack([found[order], there[found[order]]], -1)
    rest = count - len(positives)
    sides = [
        free[torch.randint(len(free), (rest,), generator=generator).to(free.device)] if rest else free[:0]
        for free in (free_a, free_b)
    ]
    valid = torch.arange(count, device=there.device) < len(positives)
    return torch.cat([positives, torch.stack(sides, -1)]), valid
