"""Poses of many photos: windows of photos placed by themselves, then joined by similarities between their points.

A window is a set of photos that are linked best, with some of its neighbours' photos, so that a drift is small within.
Where two windows show the same points, whether next to each other or where a loop closes, those give the similarity
between them; all similarities are averaged robustly, so that a wrong one bends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from manyview.cameras.bundle import Problem, Solution
from manyview.cameras.cores import each
from manyview.cameras.graph import connected, spanning_tree
from manyview.cameras.links import Link
from manyview.cameras.refine import along_tree, parts, refined, well_seen
from manyview.geometry import alignment

MOST_AT_ONCE = 40
"""Photos up to which one window is enough."""
WINDOW, BORDER = 20, 6
"""Photos of a window, and how many of the best linked others it also has."""
POINTS = 1500
"""Points of a window that are adjusted, beside those that each photo needs."""
SAME, SHARED, SHARE = 0.05, 20, 0.3
"""Two points are the same within this share of their distance from the camera; a similarity stands on so many of the
shared points, and on this share of them."""
TRIALS = 300
TURN, LENGTH = 0.03, 0.1
"""Standard deviations of a similarity between windows: radians, and logarithm of scale or share of the distance."""
CONTRADICTS = 5.0
"""Standard deviations past which a similarity contradicts the others, and is left out."""


@dataclass(frozen=True)
class Placed:
    """Photos with poses in a frame of their own."""

    rows: np.ndarray
    """(n,) which photos."""
    poses: np.ndarray
    """(n, 4, 4) cam2world."""
    log_focal: np.ndarray
    """(G,)."""
    log_scale: np.ndarray
    """(n,)."""

    def start(self) -> Solution:
        """What bundle adjustment starts from, without points."""
        world2cam = np.linalg.inv(self.poses)
        return Solution(world2cam[:, :3, :3], world2cam[:, :3, 3], self.log_focal, self.log_scale, np.empty((0, 3)))


@dataclass(frozen=True)
class Piece:
    """A window that was placed, and its points."""

    placed: Placed
    own: np.ndarray
    """(n,) bool: not of the border."""
    ids: np.ndarray
    """(k,) sorted numbers of its points."""
    points: np.ndarray
    """(k, 3)."""
    distance: np.ndarray
    """(k,) of the points from the nearest camera."""


@dataclass(frozen=True)
class Similarity:
    """Piece b's frame from piece a's: scale * rotation @ x + translation."""

    a: int
    b: int
    scale: float
    rotation: np.ndarray
    translation: np.ndarray
    middle: np.ndarray
    """(3,) of the shared points, in a."""
    distance: float
    """Median distance of the shared points from the cameras of b."""
    count: int
    """Shared points that agree."""

    def back(self) -> Similarity:
        """Piece a's frame from piece b's."""
        turn = self.rotation.T
        middle = self.scale * self.rotation @ self.middle + self.translation
        shift = -turn @ self.translation / self.scale
        return Similarity(self.b, self.a, 1 / self.scale, turn, shift, middle, self.distance / self.scale, self.count)


def by_windows(problem: Problem, links: Sequence[Link]) -> list[Placed]:
    """Poses of all photos of a problem, in one frame or, where no similarity joins the windows, in several.

    Photos that no window could place are left out.
    """
    pieces = [
        piece
        for found in each(lambda window: _placed(problem, links, *window), _windows(problem, links), label="placing")
        for piece in found
    ]
    edges = [edge for a in range(len(pieces)) for b in range(a + 1, len(pieces)) if (edge := _between(pieces, a, b))]
    return _joined(pieces, edges)


def _windows(problem: Problem, links: Sequence[Link]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos of each window, and which of them are of the border. Each photo is once in a window's middle."""
    count = len(problem.lens)
    ends = np.array([(one.i, one.j) for one in links])
    ties = np.zeros((count, count))
    ties[ends[:, 0], ends[:, 1]] = [len(one.matches) for one in links]
    ties += ties.T
    free, middles = np.ones(count, bool), []
    while free.any():
        inside = [int(np.flatnonzero(free)[0])]
        free[inside] = False
        pull = ties[inside[0]] * free
        while len(inside) < WINDOW and pull.max() > 0:
            best = int(pull.argmax())
            inside.append(best)
            free[best] = False
            pull = (pull + ties[best]) * free
        middles.append(inside)
    middles = _without_crumbs(middles, ties)
    windows = []
    for inside in middles:
        pull = ties[inside].sum(0)
        pull[inside] = 0
        border = [int(row) for row in np.argsort(-pull, kind="stable")[:BORDER] if pull[row] > 0]
        rows = np.array(sorted([*inside, *border]))
        windows.append((rows, np.isin(rows, inside)))
    return windows


def _without_crumbs(middles: list[list[int]], ties: np.ndarray) -> list[list[int]]:
    """Sets of fewer than a third of a window go to the sets that pull their photos most."""
    large = [list(inside) for inside in middles if len(inside) >= WINDOW // 3]
    rest = [row for inside in middles if len(inside) < WINDOW // 3 for row in inside]
    if not large:
        return middles
    for row in rest:
        pull = [ties[row, inside].sum() for inside in large]
        large[int(np.argmax(pull))].append(row)
    return large


def _placed(problem: Problem, links: Sequence[Link], rows: np.ndarray, own: np.ndarray) -> list[Piece]:
    """The photos of a window in a frame of their own, or in several where they fall apart."""
    row_of = {int(row): number for number, row in enumerate(rows)}
    inside = [replace(one, i=row_of[one.i], j=row_of[one.j]) for one in links if one.i in row_of and one.j in row_of]
    part, ids = problem.within(rows)
    seen, chosen = well_seen(part.seen, POINTS, 100)
    start = Placed(rows, along_tree(len(rows), inside), problem.guess, np.zeros(len(rows))).start()
    solution, left, kept = refined(replace(part, seen=seen), start)
    ids = ids[chosen[kept]]
    poses = np.linalg.inv(solution.matrices())
    pieces = []
    for members in parts(left.seen, len(rows)):
        shown = members[left.seen.view]
        shown &= np.bincount(left.seen.point[shown], minlength=len(ids))[left.seen.point] >= 2
        points = np.unique(left.seen.point[shown])
        distance = np.full(len(ids), np.inf)
        away = np.linalg.norm(solution.points[left.seen.point] - poses[left.seen.view, :3, 3], axis=1)
        np.minimum.at(distance, left.seen.point[shown], away[shown])
        order = points[np.argsort(ids[points])]
        placed = Placed(rows[members], poses[members], solution.log_focal, solution.log_scale[members])
        pieces.append(Piece(placed, own[members], ids[order], solution.points[order], distance[order]))
    return pieces


def _between(pieces: Sequence[Piece], a: int, b: int) -> Similarity | None:
    """The similarity that most of the points that two pieces share agree on; None when too few do."""
    one, two = pieces[a], pieces[b]
    _, here, there = np.intersect1d(one.ids, two.ids, assume_unique=True, return_indices=True)
    if len(here) < SHARED:
        return None
    source, target = one.points[here], two.points[there]
    reach = SAME * two.distance[there]
    rng = np.random.default_rng(0)
    triples = rng.integers(0, len(here), (TRIALS, 3))
    scale, rotation, translation = _similarity(source[triples], target[triples], np.ones((TRIALS, 3)))
    moved = np.einsum("tij,nj->tni", rotation, source) * scale[:, None, None] + translation[:, None]
    agreeing = np.linalg.norm(moved - target, axis=2) < reach
    good = agreeing[agreeing.sum(1).argmax()]
    for _ in range(3):
        if good.sum() < max(SHARED, SHARE * len(here)):
            return None
        weights = np.where(good, 1 / two.distance[there] ** 2, 0)
        scale, rotation, translation = _similarity(source[None], target[None], weights[None])
        moved = scale[0] * source @ rotation[0].T + translation[0]
        good = np.linalg.norm(moved - target, axis=1) < reach
    if good.sum() < max(SHARED, SHARE * len(here)):
        return None
    distance = float(np.median(two.distance[there][good]))
    middle = np.median(source[good], axis=0)
    return Similarity(a, b, float(scale[0]), rotation[0], translation[0], middle, distance, int(good.sum()))


def _similarity(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales (T,), rotations (T, 3, 3), translations (T, 3) of point sets (T, N, 3)."""
    fit = alignment.similarity(torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(weights))
    return fit.scale.numpy(), fit.rotation.numpy(), fit.translation.numpy()


def _joined(pieces: Sequence[Piece], edges: Sequence[Similarity]) -> list[Placed]:
    """Pieces that similarities join, each set in one frame."""
    group = connected(len(pieces), [(edge.a, edge.b) for edge in edges])
    by_ends = {(edge.a, edge.b): edge for edge in edges}
    scale, rotation = np.ones(len(pieces)), np.tile(np.eye(3), (len(pieces), 1, 1))
    translation, moves = np.zeros((len(pieces), 3)), np.zeros(len(pieces), bool)
    for number in range(group.max(initial=-1) + 1):
        own = {ends: float(edge.count) for ends, edge in by_ends.items() if group[ends[0]] == number}
        order, before = spanning_tree(len(pieces), own) if own else (np.empty(0, int), np.empty(0, int))
        for piece in order[1:].tolist():
            parent = int(before[piece])
            edge = by_ends.get((piece, parent)) or by_ends[parent, piece].back()
            scale[piece], rotation[piece] = scale[parent] * edge.scale, rotation[parent] @ edge.rotation
            translation[piece] = scale[parent] * rotation[parent] @ edge.translation + translation[parent]
            moves[piece] = True
    scale, rotation, translation = _averaged(edges, scale, rotation, translation, moves)
    return [
        _together([p for p, g in enumerate(group) if g == number], pieces, scale, rotation, translation)
        for number in range(group.max(initial=-1) + 1)
    ]


def _averaged(
    edges: Sequence[Similarity], scale: np.ndarray, rotation: np.ndarray, translation: np.ndarray, moves: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of pieces that all similarities agree on best; those that contradict the others count little (Cauchy)."""
    if len(edges) <= moves.sum():  # no loop among them
        return scale, rotation, translation
    a, b = np.array([(edge.a, edge.b) for edge in edges]).T
    size = scale[b] * [edge.distance for edge in edges]
    moved = np.stack([e.scale * e.rotation @ e.middle + e.translation for e in edges])
    middle, turned = np.stack([e.middle for e in edges]), np.stack([e.rotation for e in edges])
    log_scale = np.log([e.scale for e in edges])
    free = np.flatnonzero(moves)

    def frames(change: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        every = np.zeros((len(scale), 7))
        every[free] = change.reshape(-1, 7)
        turn = Rotation.from_rotvec(every[:, :3]).as_matrix()
        return scale * np.exp(every[:, 6]), turn @ rotation, translation + every[:, 3:6]

    def errors(change: np.ndarray) -> np.ndarray:
        s, r, t = frames(change)
        one = np.einsum("eij,ej->ei", r[a], middle) * s[a][:, None] + t[a]
        two = np.einsum("eij,ej->ei", r[b], moved) * s[b][:, None] + t[b]
        off = Rotation.from_matrix(turned.transpose(0, 2, 1) @ r[b].transpose(0, 2, 1) @ r[a]).as_rotvec()
        length = (np.log(s[a]) - np.log(s[b]) - log_scale)[:, None] / LENGTH
        return np.concatenate([(one - two) / (LENGTH * size[:, None]), off / TURN, length], 1).ravel()

    found = least_squares(errors, np.zeros(7 * len(free)), loss="cauchy", max_nfev=60).x
    trusted = np.repeat(np.abs(errors(found)).reshape(-1, 7).max(1) < CONTRADICTS, 7)
    return frames(least_squares(lambda change: errors(change) * trusted, found, loss="cauchy", max_nfev=60).x)


def _together(
    which: Sequence[int], pieces: Sequence[Piece], scale: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> Placed:
    """The photos of some pieces, each as the piece has it where it is not of the border, or that shows most points."""
    found: dict[int, tuple[tuple[bool, int], np.ndarray, float]] = {}
    for number in which:
        piece = pieces[number]
        poses = piece.placed.poses.copy()
        poses[:, :3, :3] = rotation[number] @ poses[:, :3, :3]
        poses[:, :3, 3] = scale[number] * poses[:, :3, 3] @ rotation[number].T + translation[number]
        log_scale = piece.placed.log_scale + np.log(scale[number])
        for row, own, pose, log in zip(piece.placed.rows, piece.own, poses, log_scale, strict=True):
            rank = (bool(own), len(piece.ids))
            if int(row) not in found or rank > found[int(row)][0]:
                found[int(row)] = (rank, pose, float(log))
    rows = np.array(sorted(found))
    log_focal = np.median([pieces[number].placed.log_focal for number in which], axis=0)
    chosen = [found[int(row)] for row in rows]
    shift = float(np.median([log for _, _, log in chosen]))  # the frame's unit: predicted depth is right on the whole
    poses = np.stack([pose for _, pose, _ in chosen])
    poses[:, :3, 3] *= np.exp(-shift)
    return Placed(rows, poses, log_focal, np.array([log for _, _, log in chosen]) - shift)
