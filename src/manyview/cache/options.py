"""What decides a build of a cache, beside manifest and teachers: the flags of the command, so nothing heavy here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Keep = Literal["float16", "int8", "pca", "cosine"]
"""How tokens and features are kept: without loss beyond float16, a byte per value, a quarter of the axes so, or in
as wide steps on all axes as leave their directions (cosine error 0.019)."""
KeepMaps = Literal["compact", "float16"]
"""How pointmaps, depth and confidences are kept: to 0.1 % (confidences 2 %), or without loss beyond float16."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What of a manifest goes into a cache."""

    views: int = 20
    """Frames of a sample."""
    step: int | None = None
    """Frames from the start of one sample to the start of the next; none is as many as a sample has."""
    size: tuple[int, int] = (224, 518)
    """Pixels of the maps, height and width."""
    aspect: Literal["size", "own"] = "size"
    """size: every sample has that size, frames of another aspect lose their margins. own: a sample has as many pixels
    in the aspect of its first frame, sides in steps of 14; batches are of one size each."""
    keep: Keep = "float16"
    """How tokens and features are kept: float16, int8 (a byte per value), pca (a quarter of the axes, int8), or cosine
    (fewest bytes: as wide steps on all axes as keep the cosine error below 0.019)."""
    maps: KeepMaps | None = None
    """How points, depth and confidences are kept: compact (to 0.1 % of the distance, confidences to 2 %, at any scale)
    or float16 (ten times the bytes, no loss beyond float16); none is what the cache has, compact in a new one."""
    shard: str = "0/1"
    """i/n: only every n-th sample, from the i-th, counted from 0."""
