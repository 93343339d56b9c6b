"""Bundle adjustment with predicted depth as a prior: poses, focal lengths and depth scales together.

Robust least squares over reprojection errors and logarithms of depth, by Levenberg and Marquardt's steps on the
cameras after the points are eliminated (Triggs et al., 2000). The library solvers at hand take no depth with a scale of
its own per view.

Legend: V views, G lenses, N points, M observations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial.transform import Rotation

SPREAD_OF_SCALES = 0.3
"""Standard deviation of the logarithm of a view's depth scale."""
SOFT = 4.0
"""Squared error, in standard deviations, at which an observation counts half (Cauchy)."""


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


@dataclass(frozen=True)
class Solution:
    """World-to-camera poses, lenses and points."""

    rotation: np.ndarray  # (V, 3, 3)
    translation: np.ndarray  # (V, 3)
    log_focal: np.ndarray  # (G,)
    log_scale: np.ndarray  # (V,) what predicted depth is multiplied by
    points: np.ndarray  # (N, 3)


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
            new = problem.cost(trial)
            if new < cost:
                break
            damping *= 5
        else:
            return at
        gain, at, cost, damping = (cost - new) / cost, trial, new, max(damping / 5, 1e-8)
        if gain < enough:
            break
    return at


class _Normal:
    """The normal equations at a solution. A view has 7 unknowns: rotation, translation, depth scale; a lens has one."""

    def __init__(self, problem: Problem, at: Solution) -> None:
        self.problem, self.at = problem, at
        seen, views, lenses = problem.seen, len(at.rotation), len(at.log_focal)
        errors, local = problem.errors(at)
        weights = np.empty_like(errors)
        weights[:, :2] = 1 / (1 + (errors[:, :2] ** 2).sum(1, keepdims=True) / SOFT)
        weights[:, 2] = np.isfinite(seen.depth) / (1 + errors[:, 2] ** 2 / SOFT)
        by_camera, by_point = _slopes(problem, at, local)
        weighted = weights[:, :, None] * by_camera
        columns = np.concatenate([7 * seen.view[:, None] + np.arange(7), 7 * views + problem.lens[seen.view, None]], 1)
        self.size, count = 7 * views + lenses, len(at.points)
        self.camera = _dense(columns, np.einsum("oki,okj->oij", weighted, by_camera), self.size)
        self.camera_slope = np.bincount(columns.ravel(), np.einsum("oki,ok->oi", weighted, errors).ravel(), self.size)
        self.point = summed(seen.point, np.einsum("oki,okj->oij", weights[:, :, None] * by_point, by_point), count)
        self.point_slope = summed(seen.point, np.einsum("oki,ok->oi", weights[:, :, None] * by_point, errors), count)
        both = np.einsum("oki,okj->oij", weighted, by_point)
        rows = np.broadcast_to(columns[:, :, None], both.shape)
        places = np.broadcast_to(3 * seen.point[:, None, None] + np.arange(3), both.shape)
        self.both = csr_array((both.ravel(), (rows.ravel(), places.ravel())), shape=(self.size, 3 * count))
        self._add_priors()
        kept = np.repeat(problem.fixed, 7)
        kept[6::7] = False  # the depth scale of a fixed view is free
        self.free = ~np.concatenate([kept, problem.guess_spread == 0])

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

    def step(self, damping: float) -> Solution:
        """The solution one damped step further."""
        diagonal = np.einsum("nii->ni", self.point)
        damped = self.point + np.einsum("ni,ij->nij", damping * diagonal + 1e-9, np.eye(3))
        inverse = np.linalg.inv(damped)
        count = len(inverse)
        rows = np.broadcast_to(3 * np.arange(count)[:, None, None] + np.arange(3)[:, None], inverse.shape)
        columns = np.broadcast_to(3 * np.arange(count)[:, None, None] + np.arange(3), inverse.shape)
        blocks = csr_array((inverse.ravel(), (rows.ravel(), columns.ravel())), shape=(3 * count, 3 * count))
        through = self.both @ blocks
        reduced = self.camera + np.diag(damping * np.diag(self.camera) + 1e-9) - (through @ self.both.T).toarray()
        slope = self.camera_slope - through @ self.point_slope.ravel()
        change = np.zeros(self.size)
        free = self.free
        change[free] = -np.linalg.solve(reduced[np.ix_(free, free)], slope[free])
        moved = -(inverse @ (self.point_slope.ravel() + self.both.T @ change).reshape(count, 3, 1))[:, :, 0]
        at, views = self.at, len(self.at.rotation)
        of_view = change[: 7 * views].reshape(views, 7)
        return replace(
            at,
            rotation=Rotation.from_rotvec(of_view[:, :3]).as_matrix() @ at.rotation,
            translation=at.translation + of_view[:, 3:6],
            log_scale=at.log_scale + of_view[:, 6],
            log_focal=at.log_focal + change[7 * views :],
            points=at.points + moved,
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


def _cross(vectors: np.ndarray) -> np.ndarray:
    """(M, 3) -> (M, 3, 3) so that _cross(a) @ b = a x b."""
    return np.cross(np.eye(3), vectors[:, None, :])


def summed(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums of values (M, ...) with the same index: (count, ...)."""
    flat = values.reshape(len(values), -1)
    sums = np.stack([np.bincount(index, column, count) for column in flat.T], 1)
    return sums.reshape(count, *values.shape[1:])


def _dense(columns: np.ndarray, blocks: np.ndarray, size: int) -> np.ndarray:
    """Sum of blocks (M, 8, 8) at rows and columns (M, 8) of a (size, size) matrix."""
    places = columns[:, :, None] * size + columns[:, None, :]
    return np.bincount(places.ravel(), blocks.ravel(), size * size).reshape(size, size)
