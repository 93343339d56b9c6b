"""Links that a mirrored photo makes with true ones: symmetric things fit, and more fits when it is turned over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from manyview.cameras.keypoints import Keypoints, match, mirrored
from manyview.cameras.links import Link, Photo, Unlinked, link

SAMPLE = 4
"""One of so many keypoints is matched first: true photos rarely need more."""


def unless_mirrored(
    one: Link,
    photos: Sequence[Photo],
    keypoints: Sequence[Keypoints],
    focals: Sequence[float],
    tried: int,
    least: int,
    *,
    tilted: bool = False,
) -> Link | Unlinked:
    """A link, or its refusal where more matches agree when its first photo is turned over, left to right.

    keypoints: (N, 128) SIFT descriptors, of photos as seen from aside where `tilted`. tried: matches that the link was
    made of. least: matches that must agree.
    """
    width = photos[one.i].size[1]
    here, there = mirrored(keypoints[one.i], width), keypoints[one.j]
    few = replace(here, uv=here.uv[::SAMPLE], descriptors=here.descriptors[::SAMPLE])
    if SAMPLE * len(match(few, there, tilted=tilted)) < len(one.matches):
        return one
    first = photos[one.i]
    middle = first.principal * [-1, 1] + [width, 0]
    turned = replace(first, keypoints=mirrored(first.keypoints, width), principal=middle)
    pair = focals[one.i], focals[one.j]
    other = link(one.i, one.j, turned, photos[one.j], match(here, there, tilted=tilted), pair, least)
    if isinstance(other, Unlinked) or len(other.matches) < len(one.matches):
        return one
    return Unlinked(one.i, one.j, tried, len(one.matches), "mirrored")
