"""Cameras of photos that links join: along a tree of links first, then by bundle adjustment of their tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from manyview.cameras import bundle
from manyview.cameras.bundle import summed
from manyview.cameras.known import stretched, towards
from manyview.cameras.links import LEAST, Link, Photo
from manyview.cameras.refine import ROUNDS, along_tree, joined_keypoints, parts, refined, well_seen
from manyview.cameras.tracks import REGISTERED, RestsOn, Tracks
from manyview.cameras.windows import MOST_AT_ONCE, Placed, by_windows

FOCAL_SPREAD, STATED_SPREAD = 0.15, 0.05
"""The same of focal lengths: found from matches, and stated by EXIF."""
AGAIN, MORE = 3, 1.01
"""How often adjustment begins again with all observations, from where it ended, as long as so many more agree: what a
bad start had left out comes back."""
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
    """(3, 3) given for the original photo."""
    cam2world: np.ndarray | None = None
    """(4, 4) given."""
    keep: bool = True
    """Whether what is given stays to the digit, or is only where the search begins."""
    said: np.ndarray | None = None
    """(4, 4) cam2world as the network has it, in a frame and unit of its own: a hypothesis."""


@dataclass(frozen=True)
class Camera:
    """What was found of one photo."""

    cam2world: np.ndarray | None
    """(4, 4) in the frame of its component: that of the given poses in it, or of its first photo. None where it rests
    on nothing."""
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

    Each set is in the frame of the given poses in it, or of its first photo; photos of no set are left out.
    """
    own, problem = posed(photos, views, members, links, focals, lens)
    if len(members) <= MOST_AT_ONCE or not adjust:
        poses = along_tree(len(members), own)
        if problem.still:
            poses[:, :3, 3] = 0
        sets = [Placed(np.arange(len(members)), poses, problem.guess, np.zeros(len(members)))]
    else:
        sets = by_windows(problem, own)
    return [
        found
        for one in sets
        for found in _adjusted(problem, one, photos, views, members[one.rows], links, ROUNDS if adjust else ())
    ]


def posed(
    photos: Sequence[Photo],
    views: Sequence[View],
    members: np.ndarray,
    links: Sequence[Link],
    focals: Sequence[float],
    lens: np.ndarray,
) -> tuple[list[Link], bundle.Problem]:
    """What is to be adjusted of some photos, and the links between them, numbered as these are."""
    row_of = {int(index): row for row, index in enumerate(members)}
    own = [replace(one, i=row_of[one.i], j=row_of[one.j]) for one in links if one.i in row_of and one.j in row_of]
    numbers, row_lens = np.unique(lens[members], return_inverse=True)
    first = [int(np.flatnonzero(lens == number)[0]) for number in numbers]
    guess, spread = np.log([focals[index] for index in first]), np.array([_focal_spread(views[i]) for i in first])
    seen = joined_keypoints([photos[index] for index in members], own)
    still = len(members) <= MOST_AT_ONCE and all(one.turned for one in own)  # nothing shows a baseline: there is none
    still = still and all(views[index].cam2world is None for index in members)
    return own, bundle.Problem(seen, row_lens, guess, spread, np.arange(len(members)) == 0, still)


def _adjusted(
    problem: bundle.Problem,
    start: Placed,
    photos: Sequence[Photo],
    views: Sequence[View],
    members: np.ndarray,
    links: Sequence[Link],
    rounds: Sequence[float],
) -> list[tuple[dict[int, Camera], Tracks]]:
    """The cameras of a set of photos, those that are given in their places."""
    known, unit = [views[index].cam2world for index in members], 1.0
    if any(pose is not None for pose in known):
        move = towards(start.poses, known)
        moved, unit = move.poses(start.poses), move.scale
        poses = [pose if given is None else given for pose, given in zip(moved, known, strict=True)]
        start = replace(start, poses=np.stack(poses))
    kept = np.array([pose is not None and views[index].keep for pose, index in zip(known, members, strict=True)])
    part, _ = problem.within(start.rows)
    part = replace(part, seen=well_seen(part.seen)[0], fixed=kept if kept.any() else part.fixed)
    part = replace(part, seen=replace(part.seen, depth=unit * part.seen.depth))
    solution, left, _ = refined(part, start.start(), rounds)
    for _ in range(AGAIN if len(members) <= MOST_AT_ONCE and rounds else 0):
        other, more, _ = refined(part, replace(solution, points=np.empty((0, 3))), rounds)
        if len(more.seen.view) < MORE * len(left.seen.view):
            break
        solution, left = other, more
    part = left
    placed = []
    for joined in parts(part.seen, len(members)):
        there = [pose if inside else None for pose, inside in zip(known, joined, strict=True)]
        cameras, tracks = _read_off(photos, members, links, _in_frame(solution, joined, there), part, joined)
        uv = tracks.uv.copy()
        for index, camera in cameras.items():
            cameras[index] = replace(_with_given(camera, views[index]), depth_scale=unit * camera.depth_scale)
            given = views[index].intrinsics
            if given is not None:
                rows = tracks.view == index
                uv[rows] = stretched(uv[rows], given, back=True)
                error = _error(cameras[index], uv[rows], tracks.points[tracks.point[rows]])
                cameras[index] = replace(cameras[index], error_px=error)
        placed.append((cameras, replace(tracks, uv=uv)))
    return placed


def _error(camera: Camera, uv: np.ndarray, points: np.ndarray) -> float:
    """Median distance in pixels (N, 2) of the original photo from where points (N, 3) project."""
    assert camera.cam2world is not None
    place = (points - camera.cam2world[:3, 3]) @ camera.cam2world[:3, :3] @ camera.intrinsics.T
    return float(np.median(np.linalg.norm(place[:, :2] / place[:, 2:] - uv, axis=1)))


def _in_frame(at: bundle.Solution, part: np.ndarray, known: Sequence[np.ndarray | None]) -> bundle.Solution:
    """The solution in the frame of the known poses of a part, or else of its first view."""
    if all(pose is None for pose in known):
        known = [np.eye(4) if row == np.flatnonzero(part)[0] else None for row in range(len(part))]
    return towards(np.linalg.inv(at.matrices()), known).solution(at)


def _with_given(camera: Camera, view: View) -> Camera:
    """The camera with what is given of it: to the digit, or as shape of the lens alone."""
    if view.cam2world is not None and view.keep:
        camera = replace(camera, cam2world=np.array(view.cam2world, np.float64), rests_on="given")
    if view.intrinsics is None:
        return camera
    kept = np.array(view.intrinsics, np.float64)
    if not view.keep:
        kept[:2, :2] *= camera.intrinsics[0, 0] / kept[0, 0]
    return replace(camera, intrinsics=kept)


def _focal_spread(view: View) -> float:
    """Standard deviation of the logarithm of a photo's focal length; 0 for one that is given and kept."""
    if view.intrinsics is not None:
        return 0.0 if view.keep else STATED_SPREAD
    return STATED_SPREAD if view.focal_known else FOCAL_SPREAD


def _read_off(
    photos: Sequence[Photo],
    members: np.ndarray,
    links: Sequence[Link],
    at: bundle.Solution,
    problem: bundle.Problem,
    part: np.ndarray,
) -> tuple[dict[int, Camera], Tracks]:
    """Cameras of the views of a part (V,) and the points that they share."""
    kept = part[problem.seen.view]
    kept &= np.bincount(problem.seen.point[kept], minlength=len(at.points))[problem.seen.point] >= 2
    problem = replace(problem, seen=problem.seen.chosen(kept))
    seen = problem.seen
    errors, local = problem.errors(at)
    distance = np.linalg.norm(errors[:, :2], axis=1) * seen.pixel
    cam2world = np.linalg.inv(at.matrices())
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
    points = at.points[ids]
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
