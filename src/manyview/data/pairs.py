"""Pairs of posed depth frames of one scene: what two frames share, and how far things move between them.

Overlap is the share of A's measured places that are also seen in B; motion is the median displacement of those,
in units of the image's longer side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from manyview.data.loading import load_depth
from manyview.data.manifest import Frame, Manifest
from manyview.errors import UserError
from manyview.geometry.cameras import apply_affine
from manyview.geometry.matching import PosedDepth, cell_centres, warp
from manyview.images.fit import cover
from manyview.images.reading import ImageProblem

COARSE = 12  # cells on the longer side at which overlap and motion are measured


@dataclass(frozen=True)
class Pair:
    """Frames A and B as indices into the manifest."""

    scene: str
    a: int
    b: int
    overlap: float
    motion: float  # NaN where nothing is shared


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which pairs count."""

    overlap: tuple[float, float] = (0.3, 0.9)
    """Smallest and largest overlap."""
    motion: float = 0.1
    """Smallest median motion, in units of the image's longer side."""
    seed: int = 0
    """Which of the pairs that count are taken."""
    per_scene: int = 1
    """Pairs taken of a scene, if there are so many, before another scene's: more mean fewer frames to encode."""

    def accepts(self, pair: Pair) -> bool:
        return self.overlap[0] <= pair.overlap <= self.overlap[1] and pair.motion >= self.motion


def measured_pairs(
    reader: DepthReader, scene: str, indices: Sequence[int], most: int, rng: np.random.Generator
) -> list[Pair]:
    """At most `most` pairs of these frames of a scene, in random order, with what they share."""
    every = [(a, b) for a in indices for b in indices if a != b]
    asked = [every[i] for i in rng.permutation(len(every))[:most]]
    views = {index: reader.get(index) for index in sorted({index for pair in asked for index in pair})}
    known = {index: view for index, view in views.items() if view is not None}
    asked = [(a, b) for a, b in asked if a in known and b in known]
    if not asked:
        return []
    measured = _measure([known[a] for a, _ in asked], [known[b] for _, b in asked])
    return [Pair(scene, a, b, *numbers) for (a, b), numbers in zip(asked, measured, strict=True)]


def measured_rows(reader: DepthReader, rows: Sequence[tuple[int, int]]) -> list[Pair]:
    """These pairs of frames with what they share (0 and 0 where nothing is). Raises UserError for a frame without
    depth, pose or intrinsics, ImageProblem for depth that cannot be read.
    """
    pairs = []
    for a, b in rows:
        overlap, motion = _measure([reader[a]], [reader[b]])[0]
        pairs.append(Pair(reader.data[a].scene, a, b, overlap, motion if math.isfinite(motion) else 0.0))
    return pairs


def is_measured(frame: Frame) -> bool:
    """Whether a frame has depth, pose and intrinsics."""
    return frame.depth is not None and frame.cam2world is not None and frame.fx is not None


class DepthReader:
    """Depth and camera of frames of one manifest at one size, kept in memory up to `most` bytes."""

    def __init__(self, data: Manifest, size: tuple[int, int], most: float = 5e8) -> None:
        self.data, self.size = data, size
        self._room = int(most / (4 * size[0] * size[1]))
        self._known: dict[int, PosedDepth] = {}
        self.unreadable: dict[int, ImageProblem] = {}
        """Frames whose depth `get` could not read."""

    def __getitem__(self, index: int) -> PosedDepth:
        """depth (H, W), intrinsics, cam2world. Raises ImageProblem when the map cannot be read."""
        if index in self._known:
            return self._known[index]
        frame = self.data[index]
        depth = load_depth(self.data, frame, self.size)
        if depth is None or frame.intrinsics is None or frame.pose is None:
            raise UserError(f"{frame.image} has no depth, intrinsics or pose; choose pairs that do")
        affine = cover((frame.height, frame.width), self.size).affine
        intrinsics = apply_affine(affine, torch.from_numpy(frame.intrinsics))
        found = PosedDepth(depth, intrinsics.float(), torch.from_numpy(frame.pose).float())
        if len(self._known) < self._room:
            self._known[index] = found
        return found

    def get(self, index: int) -> PosedDepth | None:
        """The same; None when there is no such measurement or it cannot be read."""
        frame = self.data[index]
        if not is_measured(frame):
            return None
        try:
            return self[index]
        except ImageProblem as problem:
            self.unreadable[index] = problem
            return None


def stack(views: Sequence[PosedDepth]) -> PosedDepth:
    """Single views as one batch."""
    return PosedDepth(*(torch.stack(parts) for parts in zip(*views, strict=True)))


def _measure(a: Sequence[PosedDepth], b: Sequence[PosedDepth]) -> list[tuple[float, float]]:
    """(overlap, motion) of each pair."""
    first, second = stack(a), stack(b)
    size = first.depth.shape[-2:]
    grid = tuple(max(2, round(COARSE * side / max(size))) for side in size)
    uv = cell_centres((grid[0], grid[1]), (size[0], size[1]))
    places, seen = warp(first, second, uv=uv)
    known = warp(first, first, uv=uv, tolerance=math.inf)[1]
    moved = (places - uv).norm(dim=-1) / max(size)
    overlap = (seen & known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
    moved = moved.masked_fill(~seen, torch.nan).flatten(1).nanmedian(1).values
    return [(float(o), float(m)) for o, m in zip(overlap, moved, strict=True)]
