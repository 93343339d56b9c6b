"""Cameras of photos that links join: along a tree of links first, then by bundle adjustment of their tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from manyview.cameras import bundle
from manyview.cameras.bundle import summed
from manyview.cameras.links import LEAST, Link, Photo
from manyview.cameras.refine import ROUNDS, along_tree, joined_keypoints, parts, refined, well_seen
from manyview.cameras.tracks import REGISTERED, RestsOn, Tracks
from manyview.cameras.windows import MOST_AT_ONCE, Placed, by_windows

FOCAL_SPREAD, STATED_SPREAD = 0.15, 0.05
"""The same of focal lengths: found from matches, and stated by EXIF."""
SEEN_PARALLAX = 1.0
"""Median angle in degrees under which a photo's points must be seen for its pose to rest on matches alone."""


@dataclass(frozen=True)
class View:
    """A photo to find the camera of."""

    size: tuple[int, int]
    """(H, W) of the original photo."""
    depth: np.ndarray | None = None
    """(h, w) predicted depth, 0 where there is none."""
    affine: np.ndarray | None = None
    """(3, 3) original pixel to pixel of `depth`."""
    focal: float | None = None
    """Known or guessed focal length in long sides."""
    focal_known: bool = False
    """Whether it is known (given or from EXIF) and not guessed."""
    intrinsics: np.ndarray | None = None
    """(3, 3) given for the original photo: kept."""
    said: np.ndarray | None = None
    """(4, 4) cam2world as the network has it, in a frame and unit of its own: a hypothesis."""


@dataclass(frozen=True)
class Camera:
    """What was found of one photo."""

    cam2world: np.ndarray | None
    """(4, 4) in the frame of its component, whose first photo is at the origin; None where it rests on nothing."""
    intrinsics: np.ndarray
    """(3, 3) of the original photo."""
    rests_on: RestsOn
    component: int
    inliers: int
    """Observations that agree with the final cameras."""
    error_px: float | None
    """Their median reprojection error in pixels of the original photo."""
    depth_scale: float
    """What the predicted depth is multiplied by to fit the points."""

    @property
    def registered(self) -> bool:
        """Whether evidence ties it to another photo."""
        return self.rests_on in REGISTERED


def place(
    photos: Sequence[Photo],
    views: Sequence[View],
    members: np.ndarray,
    links: Sequence[Link],
    focals: Sequence[float],
    lens: np.ndarray,
    *,
    adjust: bool,
) -> list[tuple[dict[int, Camera], Tracks]]:
    """Cameras of linked photos: one set for all, or several where what disagreed was all that joined them.

    Each set is in the frame of its first photo; photos of no set are left out.
    """
    row_of = {int(index): row for row, index in enumerate(members)}
    links = [one for one in links if one.i in row_of and one.j in row_of]
    own = [replace(one, i=row_of[one.i], j=row_of[one.j]) for one in links]
    numbers, row_lens = np.unique(lens[members], return_inverse=True)
    first = [int(np.flatnonzero(lens == number)[0]) for number in numbers]
    guess, spread = np.log([focals[index] for index in first]), np.array([_focal_spread(views[i]) for i in first])
    seen = joined_keypoints([photos[index] for index in members], own)
    problem = bundle.Problem(seen, row_lens, guess, spread, np.arange(len(members)) == 0)
    if len(members) <= MOST_AT_ONCE or not adjust:
        poses = along_tree(len(members), own)
        sets = [Placed(np.arange(len(members)), poses, guess, np.zeros(len(members)))]
    else:
        sets = by_windows(problem, own)
    placed = []
    for one in sets:
        part, _ = problem.within(one.rows)
        part = replace(part, seen=well_seen(part.seen)[0])
        solution, part, _ = refined(part, one.start(), ROUNDS if adjust else ())
        for joined in parts(part.seen, len(one.rows)):
            placed.append(_read_off(photos, members[one.rows], links, solution, part, joined))
    for cameras, _ in placed:
        for index, camera in cameras.items():
            given = views[index].intrinsics
            if given is not None:  # to the letter
                cameras[index] = replace(camera, intrinsics=np.array(given, np.float64))
    return placed


def _focal_spread(view: View) -> float:
    """Standard deviation of the logarithm of a photo's focal length; 0 for one that is given."""
    if view.intrinsics is not None:
        return 0.0
    return STATED_SPREAD if view.focal_known else FOCAL_SPREAD


def _read_off(
    photos: Sequence[Photo],
    members: np.ndarray,
    links: Sequence[Link],
    at: bundle.Solution,
    problem: bundle.Problem,
    part: np.ndarray,
) -> tuple[dict[int, Camera], Tracks]:
    """Cameras of the views of a part (V,), in the frame of the first of them, and the points that they share."""
    kept = part[problem.seen.view]
    kept &= np.bincount(problem.seen.point[kept], minlength=len(at.points))[problem.seen.point] >= 2
    problem = replace(problem, seen=problem.seen.chosen(kept))
    seen = problem.seen
    errors, local = problem.errors(at)
    distance = np.linalg.norm(errors[:, :2], axis=1) * seen.pixel
    cam2world = np.linalg.inv(at.matrices())
    first_from_world = np.linalg.inv(cam2world[np.flatnonzero(part)[0]])
    cam2world = first_from_world @ cam2world
    angles = _angles(at.points, at, seen)
    linked = {index for one in links if one.rests_on == "matches" for index in (one.i, one.j)}
    cameras: dict[int, Camera] = {}
    for row in np.flatnonzero(part):
        index, own = int(members[row]), seen.view == row
        focal, principal = float(np.exp(at.log_focal[problem.lens[row]])), photos[index].principal
        wide = index in linked and np.median(angles[seen.point[own]]) >= SEEN_PARALLAX
        cameras[index] = Camera(
            cam2world[row],
            np.array([[focal, 0, principal[0]], [0, focal, principal[1]], [0, 0, 1]]),
            "matches" if wide else "depth",
            0,
            int(own.sum()),
            float(np.median(distance[own])),
            _scale(local[own, 2], seen.depth[own], float(np.exp(at.log_scale[row]))),
        )
    ids, point = np.unique(seen.point, return_inverse=True)
    points = at.points[ids] @ first_from_world[:3, :3].T + first_from_world[:3, 3]
    view = members[seen.view]
    uv = seen.uv + np.array([photos[index].principal for index in view]).reshape(-1, 2)
    return cameras, Tracks(points, np.zeros(len(points), int), view, point, uv)


def _scale(depth: np.ndarray, predicted: np.ndarray, otherwise: float) -> float:
    """Median of true over predicted depth."""
    known = np.isfinite(predicted) & (depth > 0)
    return float(np.exp(np.median(np.log(depth[known] / predicted[known])))) if known.sum() >= LEAST else otherwise


def _angles(points: np.ndarray, at: bundle.Solution, seen: bundle.Observations) -> np.ndarray:
    """(N,) degrees: the angle of the cone that the rays of a point's photos fill."""
    centres = -np.einsum("vji,vj->vi", at.rotation, at.translation)
    away = points[seen.point] - centres[seen.view]
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    middle = summed(seen.point, away, len(points))
    middle /= np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-12)
    off = np.degrees(np.arccos(np.clip((away * middle[seen.point]).sum(1), -1, 1)))
    widest = np.zeros(len(points))
    np.maximum.at(widest, seen.point, off)
    return 2 * widest
