"""Training pairs seen anew: flipped, and shifted by up to 32 pixels, as RoMa's loader changes MegaDepth's pairs.

A changed frame has a number of its own, above those of the manifest. Both frames of a pair are flipped or none; each is
shifted on its own, its new border is black and knows no depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from manyview.data.pairs import DepthReader, Pair
from manyview.evaluation.tokens import read_images
from manyview.geometry.matching import PosedDepth, cell_centres, warp

MOST = 32
"""Pixels."""


@dataclass(frozen=True)
class Change:
    """What happens to a frame."""

    frame: int
    flip: bool
    down: int
    right: int

    def pixels(self, images: Tensor) -> Tensor:
        """(..., H, W, C) -> the same, changed."""
        return self._moved(images.flip(-2) if self.flip else images, -3)

    def measured(self, known: PosedDepth) -> PosedDepth:
        """Depth and camera that belong to the changed picture; a flip turns the sign of the focal length."""
        depth, lens = known.depth, known.intrinsics.clone()
        if self.flip:
            depth = depth.flip(-1)
            lens[0] = -lens[0]
            lens[0, 2] += depth.shape[-1]
        lens[0, 2] += self.right
        lens[1, 2] += self.down
        return PosedDepth(self._moved(depth, -2), lens, known.cam2world)

    def _moved(self, values: Tensor, rows: int) -> Tensor:
        moved = values.roll((self.down, self.right), (rows, rows + 1))
        for axis, shift in ((rows, self.down), (rows + 1, self.right)):
            if shift:
                length = values.shape[axis]
                part = slice(0, shift) if shift > 0 else slice(length + shift, length)
                moved.transpose(0, axis)[part] = 0
        return moved


@dataclass(frozen=True)
class Changed:
    """A reader of frames, and of changed ones by their numbers."""

    reader: DepthReader
    changes: dict[int, Change] = field(default_factory=dict)

    def measured(self, number: int) -> PosedDepth:
        if number in self.changes:
            change = self.changes[number]
            return change.measured(self.reader[change.frame])
        return self.reader[number]

    def frame(self, number: int) -> int:
        """The manifest's row that a number shows."""
        return self.changes[number].frame if number in self.changes else number

    def read(self, size: tuple[int, int], numbers: Sequence[int], **light: Any) -> tuple[Tensor, dict[int, str]]:
        """Pictures (N, H, W, 3) uint8, black where they cannot be read, and why, by number; light: as `read_images`."""
        images, problems = read_images(self.reader.data, size, [self.frame(number) for number in numbers], **light)
        for place, number in enumerate(numbers):
            if number in self.changes:
                images[place] = self.changes[number].pixels(images[place])
        return images, {number: problems[self.frame(number)] for number in numbers if self.frame(number) in problems}


def changed_pairs(reader: DepthReader, pairs: Sequence[Pair], copies: int, seed: int) -> tuple[Changed, list[Pair]]:
    """The pairs, and `copies` changed ones of each."""
    rng, found = np.random.default_rng([seed, 6]), list(pairs)
    changes: dict[int, Change] = {}
    most = min(MOST, min(reader.size) // 4)
    for _ in range(copies):
        for pair in pairs:
            flip = bool(rng.random() < 0.5)
            ends = []
            for frame in (pair.a, pair.b):
                number = len(reader.data) + len(changes)
                changes[number] = Change(frame, flip, *(int(v) for v in rng.integers(-most, most + 1, 2)))
                ends.append(number)
            found.append(replace(pair, a=ends[0], b=ends[1]))
    return Changed(reader, changes), found


def usable(changed: Changed, pairs: Sequence[Pair], size: tuple[int, int]) -> list[Pair]:
    """Pairs of which a measured place is still in both pictures."""
    uv = cell_centres((16, 16), size)
    kept = []
    for pair in pairs:
        if pair.a not in changed.changes or bool(
            warp(changed.measured(pair.a), changed.measured(pair.b), uv=uv)[1].any()
        ):
            kept.append(pair)
    return kept
