"""Whether photos of one size were taken with one lens: each may have its own, and the matches say if that is better.

Photos from several cameras, or of a zoom, may have one size. Placed with one focal length they contradict each other;
with a focal length of its own each, more of their matches agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manyview.cameras.links import Link, Photo, Unlinked
from manyview.cameras.place import Camera, View, posed
from manyview.cameras.refine import refined, well_seen
from manyview.cameras.tracks import Tracks
from manyview.cameras.windows import MOST_AT_ONCE, Placed

SAME = float(np.log(1.12))
"""Focal lengths whose logarithms are nearer than this are one lens's."""
GAIN = 1.03
"""By how much more keypoints must agree for photos to have lenses of their own."""
FREE = 0.35
"""Standard deviation of the logarithm of a photo's focal length about the shared one."""
ROUNDS = (16.0, 8.0, 4.0)
"""Largest reprojection errors after each round, in pixels as looked at: a wrong lens throws keypoints far off."""
POINTS, OF_A_VIEW = 1500, 100
"""Points that are adjusted, and so many of every photo."""
TRIES = 4
"""How often focal lengths are found from links, and then links with these focal lengths."""


@dataclass(frozen=True)
class Placement:
    """Cameras of photos as some focal lengths give them."""

    photos: list[Photo]
    links: list[Link]
    unlinked: list[Unlinked]
    focals: list[float]
    """(V,) pixels, what links were found with."""
    lens: np.ndarray
    """(V,) number of each photo's lens."""
    sets: list[tuple[dict[int, Camera], Tracks]]

    @property
    def agreeing(self) -> int:
        """Keypoints that agree with the cameras."""
        return sum(camera.inliers for cameras, _ in self.sets for camera in cameras.values())


def by_own_lenses(
    shared: Placement, again: Callable[[Sequence[float], np.ndarray], Placement], views: Sequence[View]
) -> Placement:
    """The placement with as many lenses as the matches tell apart: `shared` itself where they tell none.

    again: the placement by given focal lengths in pixels and lenses (V,).
    """
    sharing = np.bincount(shared.lens, minlength=len(views))[shared.lens] > 1
    free = sharing & np.array([view.intrinsics is None and not view.focal_known for view in views])
    best = now = shared
    for _ in range(TRIES):
        focals = _own_focals(now, views, free)
        lens = _told_apart(focals, shared.lens, free)
        for number in np.unique(lens):
            focals[lens == number] = np.exp(np.median(np.log(focals[lens == number])))
        same = _partition(lens) == _partition(now.lens)
        if same and (now is shared or np.abs(np.log(focals / _found(now))).max() < SAME / 4):
            break
        now = again(list(focals), lens)
        best = now if GAIN * now.agreeing > best.agreeing else best
    return best if best.agreeing > GAIN * shared.agreeing else shared


def _partition(lens: np.ndarray) -> list[int]:
    """Which photo is the first one of each photo's lens."""
    return [int(np.argmax(lens == number)) for number in lens]


def _found(placement: Placement) -> np.ndarray:
    """(V,) focal lengths in pixels after adjustment; of photos without a camera, those before it."""
    focals = np.array(placement.focals)
    for cameras, _ in placement.sets:
        for index, camera in cameras.items():
            focals[index] = camera.intrinsics[0, 0]
    return focals


def _told_apart(focals: np.ndarray, lens: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(V,) lenses: those that are there, parted at the widest gap of focal lengths until none is wider than SAME."""
    lens, number = lens.copy(), len(lens)
    left = [np.flatnonzero(free & (lens == old)) for old in np.unique(lens[free])]
    while left:
        members = left.pop()
        members = members[np.argsort(focals[members], kind="stable")]
        steps = np.diff(np.log(focals[members]))
        if steps.sum() > SAME:
            cut = int(steps.argmax()) + 1
            left += [members[:cut], members[cut:]]
            lens[members[cut:]], number = number, number + 1
    return lens


def _own_focals(placement: Placement, views: Sequence[View], free: np.ndarray) -> np.ndarray:
    """(V,) focal lengths in pixels, adjusted with a lens of its own for every photo that is free."""
    focals = _found(placement)
    for cameras, _ in placement.sets:
        members = np.array(sorted(cameras))
        linked = any(one.i in cameras and one.j in cameras for one in placement.links)
        if not linked or not free[members].any():
            continue
        found = [cameras[index] for index in members.tolist()]
        lens = np.where(free, len(views) + np.arange(len(views)), placement.lens)
        _, problem = posed(placement.photos, views, members, placement.links, focals.tolist(), lens)
        scales = np.log([camera.depth_scale for camera in found])
        unit = float(np.median(scales))
        poses = np.stack([camera.cam2world for camera in found if camera.cam2world is not None])
        guess_spread = np.where(np.isin(np.unique(lens[members]), lens[free]), FREE, problem.guess_spread)
        problem = replace(problem, guess_spread=guess_spread)
        for rows in np.array_split(np.arange(len(members)), -(-len(members) // MOST_AT_ONCE)):
            part, _ = problem.within(rows)
            if len(part.seen.view):
                seen = well_seen(part.seen, POINTS, OF_A_VIEW)[0]
                part = replace(part, seen=replace(seen, depth=np.exp(unit) * seen.depth))
                start = Placed(rows, poses[rows], problem.guess, scales[rows] - unit).start()
                focals[members[rows]] = np.exp(refined(part, start, ROUNDS)[0].log_focal[part.lens])
    return focals
