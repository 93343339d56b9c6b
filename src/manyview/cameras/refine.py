"""From linked photos to poses: keypoints joined to tracks, a first guess along the best links, adjustment in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from manyview.cameras import bundle
from manyview.cameras.bundle import Observations, Problem, Solution, summed
from manyview.cameras.graph import closing, spanning_tree
from manyview.cameras.links import Link, Photo

DEPTH_SPREAD, INDEPENDENT = 0.3, 25
"""Standard deviation of the logarithm of predicted depth, and how many pixels of a photo err independently. The
bundled student's depth is off by about as much on photos of places it has never seen."""
ROUNDS = (8.0, 4.0, 3.0)
"""Largest reprojection error of an observation after each round, in pixels as looked at."""
ENOUGH = 1e-5
"""Share of the cost that a step must gain for another one, in the last round; before it a hundred times that."""
JOINED = 10
"""Points that two views must share in the end to stay joined."""
MOST_POINTS, OF_A_VIEW = 6000, 200
"""The points that most photos show are adjusted, so many, and so many of every photo."""


def joined_keypoints(photos: Sequence[Photo], links: Sequence[Link]) -> Observations:
    """Keypoints that matches join, those that join two of one photo left out; points that most photos show first."""
    start = np.concatenate([[0], np.cumsum([len(photo.keypoints) for photo in photos])])
    ends = np.concatenate([one.matches + [start[one.i], start[one.j]] for one in links])
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
    kept = kept[np.argsort(-lengths[kept], kind="stable")]
    number = np.full(len(lengths), -1)
    number[kept] = np.arange(len(kept))
    chosen = number[label] >= 0
    used, view, point = used[chosen], view[chosen], number[label][chosen]
    uv = np.concatenate([photo.keypoints.uv - photo.principal for photo in photos])[used]
    depth = np.concatenate([photo.depth for photo in photos])[used]
    pixel = np.concatenate([photo.pixel for photo in photos])[used]
    return Observations(view, point, uv, pixel, depth, np.full(len(view), DEPTH_SPREAD))


def well_seen(
    seen: Observations, most: int = MOST_POINTS, of_a_view: int = OF_A_VIEW
) -> tuple[Observations, np.ndarray]:
    """The points worth adjusting, numbered anew, and which they were: (N,)."""
    lengths = np.bincount(seen.point)
    rank = np.empty(len(lengths), int)
    rank[np.argsort(-lengths, kind="stable")] = np.arange(len(lengths))
    order = np.lexsort((rank[seen.point], seen.view))
    first = np.searchsorted(seen.view[order], seen.view[order])  # where the own view begins
    good = rank < most
    good[seen.point[order[np.arange(len(order)) - first < of_a_view]]] = True
    chosen, ids = seen.numbered(good[seen.point])
    each = np.bincount(chosen.view, np.isfinite(chosen.depth))
    spread = DEPTH_SPREAD * np.sqrt(np.maximum(each / INDEPENDENT, 1))
    return replace(chosen, depth_spread=spread[chosen.view]), ids


def refined(
    problem: Problem, start: Solution, rounds: Sequence[float] = ROUNDS
) -> tuple[Solution, Problem, np.ndarray]:
    """Adjust, leave out what disagrees, and again: the solution, what is left, and which points those were (N,)."""
    ids = np.arange(int(problem.seen.point.max(initial=-1)) + 1)
    solution = with_points(problem, start)
    for limit in rounds:
        solution = bundle.adjust(problem, solution, enough=ENOUGH if limit == rounds[-1] else 100 * ENOUGH)
        errors, local = problem.errors(solution)
        kept = (np.linalg.norm(errors[:, :2], axis=1) < limit) & (local[:, 2] > 0)
        kept &= np.bincount(problem.seen.point[kept], minlength=len(solution.points))[problem.seen.point] >= 2
        if not kept.any():
            break
        seen, left = problem.seen.numbered(kept)
        ids, problem = ids[left], replace(problem, seen=seen)
        solution = with_points(problem, replace(solution, points=solution.points[left]))
    return solution, problem, ids


def parts(seen: Observations, views: int) -> list[np.ndarray]:
    """Masks (V,) of the sets of two views and more that are joined, each to another one by JOINED shared points."""
    shape = (views, int(seen.point.max(initial=-1)) + 1)
    shows = coo_array((np.ones(len(seen.view)), (seen.view, seen.point)), shape=shape).tocsr()
    joined = (shows @ shows.T) >= JOINED
    label = connected_components(joined, directed=False)[1]
    return [label == number for number in np.unique(label) if (label == number).sum() > 1]


def with_points(problem: Problem, at: Solution) -> Solution:
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


def along_tree(count: int, links: Sequence[Link]) -> np.ndarray:
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
