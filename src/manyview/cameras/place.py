"""Cameras of photos that links join: along a tree of links first, then by bundle adjustment of their tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from manyview.cameras import bundle
from manyview.cameras.bundle import summed
from manyview.cameras.graph import closing, spanning_tree
from manyview.cameras.links import LEAST, Link, Photo
from manyview.cameras.tracks import REGISTERED, RestsOn, Tracks

DEPTH_SPREAD, INDEPENDENT = 0.3, 25
"""Standard deviation of the logarithm of predicted depth, and how many pixels of a photo err independently. The
bundled student's depth is off by about as much on photos of places it has never seen."""
FOCAL_SPREAD, STATED_SPREAD = 0.15, 0.05
"""The same of focal lengths: found from matches, and stated by EXIF."""
ROUNDS = (8.0, 4.0, 3.0)
"""Largest reprojection error of an observation after each round, in pixels as looked at."""
JOINED = 10
"""Points that two views must share in the end to stay joined."""
MOST_POINTS = 6000
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
    own = [one for one in links if one.i in row_of and one.j in row_of]
    poses = _along_tree(len(photos), own)[members]
    seen = _tracks(photos, own, row_of)
    numbers, row_lens = np.unique(lens[members], return_inverse=True)
    log_focal = np.log([focals[np.flatnonzero(lens == number)[0]] for number in numbers])
    first = [views[np.flatnonzero(lens == number)[0]] for number in numbers]
    spread = np.array([_focal_spread(view) for view in first])
    world2cam = np.linalg.inv(poses)
    start = bundle.Solution(
        world2cam[:, :3, :3], world2cam[:, :3, 3], log_focal, np.zeros(len(members)), np.empty((0, 3))
    )
    fixed = np.arange(len(members)) == 0
    problem = bundle.Problem(seen, row_lens, log_focal, spread, fixed)
    solution, problem = _refined(problem, start, ROUNDS if adjust else ())
    placed = []
    for part in _parts(problem.seen, len(members)):
        cameras, tracks = _read_off(photos, members, own, solution, problem, part)
        for index, camera in cameras.items():
            given = views[index].intrinsics
            if given is not None:  # to the letter
                cameras[index] = replace(camera, intrinsics=np.array(given, np.float64))
        placed.append((cameras, tracks))
    return placed


def _focal_spread(view: View) -> float:
    """Standard deviation of the logarithm of a photo's focal length; 0 for one that is given."""
    if view.intrinsics is not None:
        return 0.0
    return STATED_SPREAD if view.focal_known else FOCAL_SPREAD


def _parts(seen: bundle.Observations, views: int) -> list[np.ndarray]:
    """Masks (V,) of the sets of two views and more that are joined, each to another one by JOINED shared points."""
    shape = (views, int(seen.point.max(initial=-1)) + 1)
    shows = coo_array((np.ones(len(seen.view)), (seen.view, seen.point)), shape=shape).tocsr()
    joined = (shows @ shows.T).toarray() >= JOINED
    label = connected_components(joined, directed=False)[1]
    return [label == number for number in np.unique(label) if (label == number).sum() > 1]


def _refined(
    problem: bundle.Problem, start: bundle.Solution, rounds: Sequence[float]
) -> tuple[bundle.Solution, bundle.Problem]:
    """Adjust, leave out what disagrees, and again."""
    solution = _with_points(problem, start)
    for limit in rounds:
        solution = bundle.adjust(problem, solution)
        errors, local = problem.errors(solution)
        kept = (np.linalg.norm(errors[:, :2], axis=1) < limit) & (local[:, 2] > 0)
        kept &= np.bincount(problem.seen.point[kept], minlength=len(solution.points))[problem.seen.point] >= 2
        if not kept.any():
            break
        ids, point = np.unique(problem.seen.point[kept], return_inverse=True)
        problem = replace(problem, seen=replace(problem.seen.chosen(kept), point=point))
        solution = _with_points(problem, replace(solution, points=solution.points[ids]))
    return solution, problem


def _along_tree(count: int, links: Sequence[Link]) -> np.ndarray:
    """(V, 4, 4) cam2world by the links that most matches, and most triangles of links, support."""
    share = closing({(one.i, one.j): one.j_from_i[:3, :3] for one in links})
    order, before = spanning_tree(count, {(one.i, one.j): len(one.matches) * share[one.i, one.j] for one in links})
    by_ends = {(one.i, one.j): one for one in links}
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index in order[1:]:
        parent = int(before[index])
        forward = (parent, int(index)) in by_ends
        one = by_ends[(parent, int(index)) if forward else (int(index), parent)]
        child_from_parent = one.j_from_i if forward else np.linalg.inv(one.j_from_i)
        poses[index] = poses[parent] @ np.linalg.inv(child_from_parent)
    return poses


def _tracks(photos: Sequence[Photo], links: Sequence[Link], place: dict[int, int]) -> bundle.Observations:
    """Keypoints that matches join, those that join two of one photo left out; the longest first, up to MOST_POINTS."""
    start = np.concatenate([[0], np.cumsum([len(photos[index].keypoints) for index in place])])
    ends = np.concatenate([one.matches + [start[place[one.i]], start[place[one.j]]] for one in links])
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(start[-1], start[-1]))
    _, label = connected_components(graph, directed=False)
    used = np.unique(ends)
    view = np.searchsorted(start, used, side="right") - 1
    label = np.unique(label[used], return_inverse=True)[1]
    twice = np.zeros(label.max() + 1, bool)
    pairs, counts = np.unique(np.stack([label, view], 1), axis=0, return_counts=True)
    twice[pairs[counts > 1, 0]] = True
    lengths = np.where(twice, 0, np.bincount(label))
    kept = np.flatnonzero(lengths >= 2)
    kept = kept[np.argsort(-lengths[kept], kind="stable")][:MOST_POINTS]
    number = np.full(len(lengths), -1)
    number[kept] = np.arange(len(kept))
    chosen = number[label] >= 0
    used, view, point = used[chosen], view[chosen], number[label][chosen]
    row = [photos[index] for index in place]
    keypoint = used - start[view]
    uv = np.array([row[v].keypoints.uv[k] - row[v].principal for v, k in zip(view, keypoint, strict=True)])
    depth = np.array([row[v].depth[k] for v, k in zip(view, keypoint, strict=True)])
    each = np.bincount(view, np.isfinite(depth), len(row))
    spread = DEPTH_SPREAD * np.sqrt(np.maximum(each / INDEPENDENT, 1))
    pixel = np.array([photo.keypoints.pixel for photo in row])
    return bundle.Observations(view, point, uv.reshape(-1, 2), pixel[view], depth, spread[view])


def _with_points(problem: bundle.Problem, at: bundle.Solution) -> bundle.Solution:
    """Points nearest to their rays; where rays are almost parallel the predicted depth says how far."""
    seen = problem.seen
    focal = np.exp(at.log_focal[problem.lens[seen.view]])
    directions = np.concatenate([seen.uv / focal[:, None], np.ones((len(seen.uv), 1))], 1)
    directions = np.einsum("oji,oj->oi", at.rotation[seen.view], directions)
    centres = -np.einsum("vji,vj->vi", at.rotation, at.translation)[seen.view]
    depth = np.nan_to_num(seen.depth * np.exp(at.log_scale[seen.view]), nan=1.0)
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    unit = directions / length
    along = unit[:, :, None] * unit[:, None]
    weight = (1 / (depth * length[:, 0]) ** 2)[:, None]
    trust = np.where(np.isfinite(seen.depth), 0.01, 0.001)[:, None] ** 2
    across = np.eye(3) - along
    matrix = weight[:, :, None] * (across + trust[:, :, None] * along)
    aim = centres + directions * depth[:, None]
    right = weight * (np.einsum("oij,oj->oi", across, centres) + trust * np.einsum("oij,oj->oi", along, aim))
    count = int(seen.point.max(initial=-1)) + 1
    left, right = summed(seen.point, matrix, count), summed(seen.point, right, count)
    return replace(at, points=np.linalg.solve(left, right[:, :, None])[:, :, 0])


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
    cam2world = np.tile(np.eye(4), (len(members), 1, 1))
    cam2world[:, :3, :3] = at.rotation.transpose(0, 2, 1)
    cam2world[:, :3, 3] = -np.einsum("vji,vj->vi", at.rotation, at.translation)
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
