"""The network's own poses as hypotheses: what the matches of two photos say for them, and against them.

A pose that a network says costs nothing and proves nothing. It is taken where matches that had no part in making it lie
on its epipolar lines more often than chance would have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import gammaln

from manyview.cameras.links import CHANCE, Photo, epipolar_distances, rays
from manyview.cameras.place import Camera, View

FEWEST = 6
"""Matches that must agree with a network's relative pose for it to place a photo."""
NEAR = 8.0
"""Largest distance in pixels as looked at from the epipolar line of a network's pose: networks err by some degrees."""


def relative(views: Sequence[View], i: int, j: int) -> np.ndarray | None:
    """(4, 4) camera coordinates of i to those of j, as the network has them; None where it says nothing."""
    one, two = views[i].said, views[j].said
    return None if one is None or two is None else np.linalg.inv(two) @ one


def by_luck(agreeing: int, of: int, photo: Photo, near: float) -> float:
    """Log10 of how often so many matches lie by chance as near to the lines of one pose that was fixed before."""
    height, width = (side / photo.keypoints.pixel for side in photo.size)
    band = min(1.0, 2 * near * float(np.hypot(height, width)) / (height * width))
    choose = (gammaln(of + 1) - gammaln(agreeing + 1) - gammaln(of - agreeing + 1)) / np.log(10)
    return float(choose + agreeing * np.log10(band))


def placed_by_network(
    cameras: Sequence[Camera],
    views: Sequence[View],
    photos: Sequence[Photo],
    matches: Mapping[tuple[int, int], np.ndarray],
    focals: Sequence[float],
) -> list[Camera]:
    """Photos that rest on nothing, put where the network says beside a registered one, if a few matches bear it out.

    Their poses rest on "model": not registered, yet in the frame of the others. matches: all that were found, (M, 2).
    """
    found = list(cameras)
    for index, lost in enumerate(cameras):
        if lost.rests_on != "nothing":
            continue
        best: tuple[float, int, np.ndarray, int] | None = None
        for (i, j), pairs in matches.items():
            other = j if i == index else i
            pose = relative(views, i, j)
            if index not in (i, j) or pose is None or not cameras[other].registered:
                continue
            seen = rays(photos[i], pairs[:, 0], focals[i]), rays(photos[j], pairs[:, 1], focals[j])
            agreeing = int((epipolar_distances(*seen, focals[j], pose) < NEAR * photos[j].keypoints.pixel).sum())
            luck = by_luck(agreeing, len(pairs), photos[j], NEAR)
            if agreeing >= FEWEST and luck < CHANCE and (best is None or luck < best[0]):
                best = luck, other, pose if i == index else np.linalg.inv(pose), agreeing
        if best is not None:
            _, other, other_from_index, agreeing = best
            beside = cameras[other]
            assert beside.cam2world is not None
            step = other_from_index.copy()
            step[:3, 3] *= beside.depth_scale
            found[index] = replace(
                lost,
                cam2world=beside.cam2world @ step,
                rests_on="model",
                component=beside.component,
                inliers=agreeing,
                depth_scale=beside.depth_scale,
            )
    number = {old: new for new, old in enumerate(sorted({one.component for one in found}))}
    return [replace(one, component=number[one.component]) for one in found]
