"""Bundle adjustment with predicted depth as a prior: poses, focal lengths and depth scales together.

Robust least squares over reprojection errors and logarithms of depth, by Levenberg and Marquardt's steps on the
cameras after the points are eliminated (Triggs et al., 2000). The library solvers at hand take no depth with a scale of
its own per view.

Legend: V views, G lenses, N points, M observations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import bsr_array, csr_array
from scipy.spatial.transform import Rotation

SPREAD_OF_SCALES = 0.3
"""Standard deviation of the logarithm of a view's depth scale."""
SOFT = 4.0
"""Squared error, in standard deviations, at which an observation counts half (Cauchy)."""
BLOCK = 8192
"""Observations whose squares are summed at once: bounds memory."""


@dataclass(frozen=True)
class Observations:
    """Where points are seen."""

    view: np.ndarray  # (M,)
    point: np.ndarray  # (M,)
    uv: np.ndarray  # (M, 2) pixels less the principal point
    pixel: np.ndarray  # (M,) standard deviation of uv
    depth: np.ndarray  # (M,) predicted depth, NaN where there is none
    depth_spread: np.ndarray  # (M,) standard deviation of its logarithm

    def chosen(self, kept: np.ndarray) -> Observations:
        return Observations(*(values[kept] for values in vars(self).values()))

    def numbered(self, kept: np.ndarray) -> tuple[Observations, np.ndarray]:
        """Some observations with their points numbered anew, and which points those were (N,)."""
        ids, point = np.unique(self.point[kept], return_inverse=True)
        return replace(self.chosen(kept), point=point), ids


@dataclass(frozen=True)
class Solution:
    """World-to-camera poses, lenses and points."""

    rotation: np.ndarray  # (V, 3, 3)
    translation: np.ndarray  # (V, 3)
    log_focal: np.ndarray  # (G,)
    log_scale: np.ndarray  # (V,) what predicted depth is multiplied by
    points: np.ndarray  # (N, 3)

    def matrices(self) -> np.ndarray:
        """(V, 4, 4) world to camera."""
        matrices = np.tile(np.eye(4), (len(self.rotation), 1, 1))
        matrices[:, :3, :3], matrices[:, :3, 3] = self.rotation, self.translation
        return matrices


@dataclass(frozen=True)
class Problem:
    """What is known beforehand."""

    seen: Observations
    lens: np.ndarray
    """(V,) which lens a view has."""
    guess: np.ndarray
    """(G,) log focal lengths."""
    guess_spread: np.ndarray
    """(G,) their standard deviations; 0 keeps a lens as it is."""
    fixed: np.ndarray
    """(V,) views whose pose is kept."""
    still: bool = False
    """Whether all views stay where they are, and only turn."""

    def within(self, rows: np.ndarray) -> tuple[Problem, np.ndarray]:
        """The same of some views (n,), which are numbered anew, and the points (N,) that two of them show."""
        number = np.full(len(self.lens), -1)
        number[rows] = np.arange(len(rows))
        inside = number[self.seen.view] >= 0
        inside &= (
            np.bincount(self.seen.point[inside], minlength=self.seen.point.max(initial=-1) + 1)[self.seen.point] >= 2
        )
        seen, ids = self.seen.numbered(inside)
        fixed = self.fixed[rows] if self.fixed[rows].any() else np.arange(len(rows)) == 0
        return replace(self, seen=replace(seen, view=number[seen.view]), lens=self.lens[rows], fixed=fixed), ids

    def local(self, at: Solution) -> np.ndarray:
        """(M, 3) observed points in the cameras that see them."""
        view = self.seen.view
        turned = np.einsum("oij,oj->oi", at.rotation[view], at.points[self.seen.point])
        return turned + at.translation[view]

    def errors(self, at: Solution) -> tuple[np.ndarray, np.ndarray]:
        """(M, 3) errors in standard deviations, two of place and one of depth, and the points in their cameras."""
        seen, local = self.seen, self.local(at)
        z = np.maximum(local[:, 2], 1e-6)
        focal = np.exp(at.log_focal[self.lens[seen.view]])
        place = (focal[:, None] * local[:, :2] / z[:, None] - seen.uv) / seen.pixel[:, None]
        with np.errstate(invalid="ignore"):
            depth = (np.log(z) - np.log(seen.depth) - at.log_scale[seen.view]) / seen.depth_spread
        return np.concatenate([place, np.nan_to_num(depth)[:, None]], 1), local

    def cost(self, at: Solution) -> float:
        errors, local = self.errors(at)
        robust = SOFT * (np.log1p((errors[:, :2] ** 2).sum(1) / SOFT) + np.log1p(errors[:, 2] ** 2 / SOFT)).sum()
        free = self.guess_spread > 0
        lenses = (((at.log_focal - self.guess)[free] / self.guess_spread[free]) ** 2).sum()
        scales = ((at.log_scale / SPREAD_OF_SCALES) ** 2).sum()
        return float(robust + lenses + scales + 1e3 * (local[:, 2] <= 1e-4).sum())


def adjust(problem: Problem, start: Solution, *, steps: int = 30, enough: float = 1e-5) -> Solution:
    """The best solution near `start`; ends when a step gains less than a share of `enough`."""
    at, cost, damping = start, problem.cost(start), 1e-3
    for _ in range(steps):
        normal = _Normal(problem, at)
        for _ in range(8):
            trial = normal.step(damping)
            new = np.inf if trial is None else problem.cost(trial)
            if trial is not None and new < cost:
                break
            damping *= 5
        else:
            return at
        gain, at, cost, damping = (cost - new) / cost, trial, new, max(damping / 5, 1e-8)
        if gain < enough:
            break
    return at


class _Normal:
    """The normal equations at a solution. A view has 7 unknowns: rotation, translation, depth scale; a lens has one.

    What ties views to points is a sparse matrix of 7 x 3 blocks, one per observation; without the points the views'
    own equations are dense (a Cholesky decomposition of 500 views takes a second).
    """

    def __init__(self, problem: Problem, at: Solution) -> None:
        self.problem, self.at = problem, at
        order = np.argsort(problem.seen.view, kind="stable")
        problem = replace(problem, seen=problem.seen.chosen(order))
        seen, views, count = problem.seen, len(at.rotation), len(at.points)
        errors, local = problem.errors(at)
        weights = np.empty_like(errors)
        weights[:, :2] = 1 / (1 + (errors[:, :2] ** 2).sum(1, keepdims=True) / SOFT)
        weights[:, 2] = np.isfinite(seen.depth) / (1 + errors[:, 2] ** 2 / SOFT)
        by_camera, by_point = _slopes(problem, at, local)
        weighted = (weights[:, :, None] * by_camera).transpose(0, 2, 1)
        weighted_point = (weights[:, :, None] * by_point).transpose(0, 2, 1)
        self.view, self.point_of, self.lens_of = seen.view, seen.point, problem.lens[seen.view]
        self.size = 7 * views + len(at.log_focal)
        self.camera = self._by_views(_squares(seen.view, weighted, by_camera, views))
        slopes = (weighted @ errors[:, :, None])[:, :, 0]
        of_lens = np.bincount(self.lens_of, slopes[:, 7], len(at.log_focal))
        self.camera_slope = np.concatenate([summed(seen.view, slopes[:, :7], views).ravel(), of_lens])
        self.point = summed(seen.point, weighted_point @ by_point, count)
        self.point_slope = summed(seen.point, (weighted_point @ errors[:, :, None])[:, :, 0], count)
        self.both = weighted @ by_point  # (M, 8, 3), the last row of the lens
        self._add_priors()
        kept = np.repeat(problem.fixed[:, None], 7, 1)
        kept[:, 3:6] |= problem.still
        kept[:, 6] = False  # the depth scale of a fixed view is free
        self.free = ~np.concatenate([kept.ravel(), problem.guess_spread == 0])

    def _by_views(self, blocks: np.ndarray) -> np.ndarray:
        """(size, size) of blocks (V, 8, 8), whose last row and column are those of the view's lens."""
        matrix = np.zeros((self.size, self.size))
        views = len(blocks)
        own: np.ndarray = 7 * np.arange(views)[:, None] + np.arange(7)
        matrix[own[:, :, None], own[:, None, :]] = blocks[:, :7, :7]
        lenses = 7 * views + self.problem.lens
        matrix[own, lenses[:, None]] = matrix[lenses[:, None], own] = blocks[:, :7, 7]
        np.add.at(matrix, (lenses, lenses), blocks[:, 7, 7])
        return matrix

    def _add_priors(self) -> None:
        problem, at, views = self.problem, self.at, len(self.at.rotation)
        scales: np.ndarray = 7 * np.arange(views) + 6
        self.camera[scales, scales] += 1 / SPREAD_OF_SCALES**2
        self.camera_slope[scales] += at.log_scale / SPREAD_OF_SCALES**2
        free = np.flatnonzero(problem.guess_spread > 0)
        lenses = 7 * views + free
        precision = 1 / problem.guess_spread[free] ** 2
        self.camera[lenses, lenses] += precision
        self.camera_slope[lenses] += precision * (at.log_focal - problem.guess)[free]

    def _ties(self, blocks: np.ndarray) -> tuple[bsr_array, csr_array]:
        """Blocks (M, 8, 3) as matrices: of the views (7 V, 3 N), and of the lenses (G, 3 N)."""
        views, lenses, count = len(self.at.rotation), len(self.at.log_focal), len(self.at.points)
        starts = np.searchsorted(self.view, np.arange(views + 1))
        shape = (7 * views, 3 * count)
        of_views = bsr_array((np.ascontiguousarray(blocks[:, :7]), self.point_of, starts), shape=shape)
        columns = 3 * self.point_of[:, None] + np.arange(3)
        rows = np.broadcast_to(self.lens_of[:, None], columns.shape)
        of_lenses = csr_array((blocks[:, 7].ravel(), (rows.ravel(), columns.ravel())), shape=(lenses, 3 * count))
        return of_views, of_lenses

    def step(self, damping: float) -> Solution | None:
        """The solution one damped step further; None where the damping is too little."""
        diagonal = np.einsum("nii->ni", self.point)
        inverse = np.linalg.inv(self.point + np.einsum("ni,ij->nij", damping * diagonal + 1e-9, np.eye(3)))
        views, lenses = self._ties(self.both)
        through_views, through_lenses = self._ties(self.both @ inverse[self.point_of])
        cut = 7 * len(self.at.rotation)
        reduced = self.camera.copy()
        reduced[np.diag_indices(self.size)] += damping * np.diag(self.camera) + 1e-9
        reduced[:cut, :cut] -= (through_views @ views.T).toarray()
        crossed = (through_views.tocsr() @ lenses.T).toarray()
        reduced[:cut, cut:] -= crossed
        reduced[cut:, :cut] -= crossed.T
        reduced[cut:, cut:] -= (through_lenses @ lenses.T).toarray()
        tilt = self.point_slope.ravel()
        slope = self.camera_slope - np.concatenate([through_views @ tilt, through_lenses @ tilt])
        change, free = np.zeros(self.size), self.free
        try:
            change[free] = -cho_solve(cho_factor(reduced[np.ix_(free, free)], overwrite_a=True), slope[free])
        except LinAlgError:
            return None
        pulled = (tilt + views.T @ change[:cut] + lenses.T @ change[cut:]).reshape(-1, 3, 1)
        at, of_view = self.at, change[:cut].reshape(-1, 7)
        return replace(
            at,
            rotation=Rotation.from_rotvec(of_view[:, :3]).as_matrix() @ at.rotation,
            translation=at.translation + of_view[:, 3:6],
            log_scale=at.log_scale + of_view[:, 6],
            log_focal=at.log_focal + change[cut:],
            points=at.points - (inverse @ pulled)[:, :, 0],
        )


def _slopes(problem: Problem, at: Solution, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the errors (M, 3) by a camera's 8 unknowns (M, 3, 8) and by its point (M, 3, 3)."""
    seen, z = problem.seen, np.maximum(local[:, 2], 1e-6)
    focal = np.exp(at.log_focal[problem.lens[seen.view]])
    place = focal[:, None] * local[:, :2] / z[:, None]
    by_local = np.zeros((len(z), 3, 3))
    by_local[:, 0, 0] = by_local[:, 1, 1] = focal / z / seen.pixel
    by_local[:, :2, 2] = -place / z[:, None] / seen.pixel[:, None]
    by_local[:, 2, 2] = 1 / (z * seen.depth_spread)
    by_camera = np.zeros((len(z), 3, 8))
    by_camera[:, :, :3] = -by_local @ _cross(local - at.translation[seen.view])
    by_camera[:, :, 3:6] = by_local
    by_camera[:, 2, 6] = -1 / seen.depth_spread
    by_camera[:, :2, 7] = place / seen.pixel[:, None]
    return by_camera, by_local @ at.rotation[seen.view]


def _squares(view: np.ndarray, weighted: np.ndarray, by_camera: np.ndarray, views: int) -> np.ndarray:
    """(V, 8, 8) sums of products (8, 3) @ (3, 8) of the observations of each view, a block of them at a time."""
    total = np.zeros((views, 8, 8))
    for start in range(0, len(view), BLOCK):
        part = slice(start, start + BLOCK)
        total += summed(view[part], weighted[part] @ by_camera[part], views)
    return total


def _cross(vectors: np.ndarray) -> np.ndarray:
    """(M, 3) -> (M, 3, 3) so that _cross(a) @ b = a x b."""
    x, y, z = vectors.T
    zero = np.zeros(len(x))
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)


def summed(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums of values (M, ...) with the same index: (count, ...)."""
    flat = values.reshape(len(values), -1)
    sums = np.stack([np.bincount(index, column, count) for column in flat.T], 1)
    return sums.reshape(count, *values.shape[1:])
