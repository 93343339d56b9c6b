"""Cameras from predicted pointmaps: focal length from the local map, pose from the global one (two ways).

Legend: V views, H x W pixels. "first" is the first view's camera frame in the model's own unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyview.geometry import alignment, cameras, pointmaps, poses
from manyview.images.fit import Fit
from manyview.pipelines.answers import ViewMaps
from manyview.pipelines.options import PosePreference

PoseMethod = Literal["first", "model", "pnp", "similarity", "identity", "given"]
# Which roads to a pose are tried in which order.
ORDERS: dict[PosePreference, tuple[PoseMethod, ...]] = {
    "auto": ("model", "pnp", "similarity"),
    "model": ("model", "pnp", "similarity"),
    "pnp": ("pnp", "similarity", "model"),
    "similarity": ("similarity", "pnp", "model"),
}

# A pose stands when half of the pixels used reproject within this share of the long side (15 px at 518).
STANDS_SHARE = 0.03
# An inlier reprojects within this share of the long side (5 px at 518), or within this many pixels.
THRESHOLD_SHARE, THRESHOLD_LEAST = 0.01, 1.5
# Focal lengths outside these multiples of the long side (about 135 and 11 degrees of view) are not believed.
FOCAL_RANGE = (0.2, 5.0)
FOCAL_DEFAULT = 1.0


@dataclass
class PoseChoice:
    """The pose taken for a view, and what both roads said."""

    cam2world: Tensor  # (4, 4) float64, the world being the first view's frame unless poses are given
    method: PoseMethod
    inliers: float
    """Share of the used pixels whose global point reprojects onto them."""
    stands: bool
    """Whether the global points agree with it well enough to take anything else from them."""
    disagreement: float | None = None
    """Degrees between the rotations of PnP and of the similarity fit."""


def source_intrinsics(maps: Sequence[ViewMaps], fits: Sequence[Fit], *, shared: bool) -> tuple[np.ndarray, list[int]]:
    """(V, 3, 3) in pixels of the original pictures, principal points at their centres, and the views without a focal.

    A focal length is the model's own, or fitted to the local map around the picture's centre; with `shared`, pictures
    of one size (either way up) take the median of theirs. A view that gives no believable one takes the median of
    all, or its picture's long side.
    """
    focals = []
    for view, fit in zip(maps, fits, strict=True):
        y, x = ((side * fit.scale / 2 - offset) for side, offset in zip(fit.source, fit.offset, strict=True))
        if view.intrinsics is not None:
            focal = float(view.intrinsics[0, 0] + view.intrinsics[1, 1]) / 2
        else:
            focal = alignment.focal_from_pointmap(view.local, view.valid, principal=(x, y))
        focals.append(focal / fit.scale)
    sizes = np.array([fit.source for fit in fits], np.float64)
    longs, measured = sizes.max(1), np.array(focals)
    with np.errstate(invalid="ignore"):
        good = (measured > FOCAL_RANGE[0] * longs) & (measured < FOCAL_RANGE[1] * longs)
    ratio = float(np.median(measured[good] / longs[good])) if good.any() else FOCAL_DEFAULT
    chosen = np.where(good, measured, ratio * longs)
    if shared:
        _, group = np.unique(np.sort(sizes, 1), axis=0, return_inverse=True)
        for members in (group.ravel() == number for number in range(group.max() + 1)):
            if (members & good).any():
                chosen[members] = np.median(measured[members & good])
    matrices = [[[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]] for f, (h, w) in zip(chosen, sizes, strict=True)]
    return np.array(matrices), np.flatnonzero(~good).tolist()


def reprojection_errors(points: Tensor, cam2world: Tensor, intrinsics: Tensor) -> Tensor:
    """(H, W) pixels from each pixel to where its point (H, W, 3) projects; infinite behind the camera."""
    height, width = points.shape[:2]
    local = poses.apply(poses.invert(cam2world), points.reshape(-1, 3).to(cam2world))
    uv, depth = cameras.project(local, intrinsics)
    error = (uv - cameras.pixel_centres(height, width).to(uv).reshape(-1, 2)).norm(dim=-1)
    return torch.where(depth > 0, error, torch.inf).nan_to_num(nan=torch.inf).reshape(height, width)


def threshold_px(height: int, width: int) -> float:
    """How near counts as agreeing."""
    return max(THRESHOLD_LEAST, THRESHOLD_SHARE * max(height, width))


def similarity_to_global(view: ViewMaps) -> alignment.Similarity | None:
    """The confidence-weighted closed-form similarity from local to global map; None when degenerate."""
    weights = torch.where(view.used, view.confidence.double().clamp(min=0), 0).flatten()
    if int((weights > 0).sum()) < 4:
        weights = view.used.double().flatten()
    if int((weights > 0).sum()) < 4:
        return None
    fit = alignment.similarity(view.local.reshape(-1, 3).double(), view.world.reshape(-1, 3).double(), weights)
    good = bool(torch.isfinite(fit.rotation).all() and torch.isfinite(fit.translation).all())
    return fit if good and 1e-9 < float(fit.scale) < 1e9 else None


def judge(view: ViewMaps, cam2world: Tensor, intrinsics: Tensor, method: PoseMethod) -> PoseChoice:
    """A pose with its share of inliers; it stands when half of the pixels reproject within 3 % of a side."""
    if not bool(view.used.any()):
        return PoseChoice(cam2world, method, 0.0, stands=False)
    errors = reprojection_errors(view.world, cam2world, intrinsics)[view.used]
    inliers = float((errors < threshold_px(*view.valid.shape)).double().mean())
    return PoseChoice(cam2world, method, inliers, float(errors.median()) < STANDS_SHARE * max(view.valid.shape))


def choose_pose(view: ViewMaps, intrinsics: Tensor, *, prefer: PosePreference) -> PoseChoice:
    """The preferred pose if it stands, else the next one, else the identity."""
    height, width = view.valid.shape
    pose_by: dict[PoseMethod, Tensor] = {}
    if view.cam2world is not None:
        pose_by["model"] = view.cam2world
    pnp = alignment.pose_from_pointmap(view.world, intrinsics, view.used, threshold_px(height, width))
    if pnp.ok:
        pose_by["pnp"] = pnp.cam2world.double()
    fit = similarity_to_global(view)
    if fit is not None:
        pose_by["similarity"] = poses.pose(fit.rotation, fit.translation)
    judged = [judge(view, pose_by[m], intrinsics, m) for m in ORDERS[prefer] if m in pose_by]
    chosen = next((choice for choice in judged if choice.stands), None)
    if chosen is None:
        chosen = judge(view, torch.eye(4, dtype=torch.float64), intrinsics, "identity")
    if "pnp" in pose_by and "similarity" in pose_by:
        between = pose_by["pnp"][:3, :3].T @ pose_by["similarity"][:3, :3]
        chosen.disagreement = float(torch.rad2deg(poses.rotation_angle(between)))
    return chosen


def scale_to_global(view: ViewMaps, cam2world: Tensor) -> float:
    """Median over the used pixels of global depth in this camera / local depth; 1 without any."""
    depth = poses.apply(poses.invert(cam2world), view.world.reshape(-1, 3).to(cam2world))[:, 2]
    return float(alignment.median_scale(view.local[..., 2].flatten().double(), depth, view.used.flatten()))


@dataclass(frozen=True)
class Placing:
    """Where the views lie in the scene."""

    choices: list[PoseChoice]
    scales: list[float]
    """Scene units per unit of each view's local map."""
    unit: float | None
    """Scene units per unit of the global maps; None when given cameras do not say, and the model's unit is kept."""
    scene_from_first: Tensor
    """(4, 4) the first view's pose in the scene."""

    def in_scene(self, view: ViewMaps) -> Tensor:
        """(H, W, 3) float64: the view's global points."""
        return pointmaps.transform(self.scene_from_first, (self.unit or 1.0) * view.world.double())


def place_by_maps(maps: Sequence[ViewMaps], intrinsics: Sequence[Tensor], prefer: PosePreference) -> Placing:
    """In the first view's frame and the model's unit, each view where its maps say."""
    identity = torch.eye(4, dtype=torch.float64)
    choices = [judge(maps[0], identity, intrinsics[0], "first")]
    choices += [choose_pose(m, k, prefer=prefer) for m, k in zip(maps[1:], intrinsics[1:], strict=True)]
    scales = [scale_to_global(m, c.cam2world) if c.stands else None for m, c in zip(maps, choices, strict=True)]
    return Placing(choices, _completed(scales), 1.0, identity)


def place_as_given(maps: Sequence[ViewMaps], intrinsics: Sequence[Tensor], cam2world: Tensor) -> Placing:
    """In the world of the given poses (V, 4, 4), and in its unit where the points agree with them."""
    unit = unit_of_given_poses(maps, intrinsics, list(cam2world))
    factor = unit or 1.0
    choices: list[PoseChoice] = []
    scales: list[float | None] = []
    for view, matrix, pose in zip(maps, intrinsics, cam2world, strict=True):
        placed = replace(view, world=pointmaps.transform(cam2world[0], factor * view.world.double()))
        choices.append(judge(placed, pose, matrix, "given"))
        fit = similarity_to_global(view)
        scales.append(factor * float(fit.scale) if fit is not None and choices[-1].stands else None)
    if sum(choice.stands for choice in choices) * 2 <= len(choices):
        unit = None  # a factor that most views contradict is none
    return Placing(choices, _completed(scales), unit, cam2world[0])


def _completed(scales: Sequence[float | None]) -> list[float]:
    """Views whose global points cannot be trusted take the median scale of the others, or their own unit."""
    trusted = [scale for scale in scales if scale is not None]
    usual = float(np.median(trusted)) if trusted else 1.0
    return [usual if scale is None else scale for scale in scales]


def unit_of_given_poses(
    views: Sequence[ViewMaps], intrinsics: Sequence[Tensor], cam2world: Sequence[Tensor]
) -> float | None:
    """World units per model unit, from given cameras and global points alone; None when they do not say.

    A first-view point X seen along the ray r of view i obeys r x (s R X + t) = 0 with view_from_first = (R,
    t): linear in s. Each view answers with its median over pixels, weighted by its distance from the first.
    """
    answers, weights = [], []
    for view, matrix, pose in zip(views[1:], intrinsics[1:], cam2world[1:], strict=True):
        view_from_first = poses.invert(pose) @ cam2world[0]
        translation = view_from_first[:3, 3]
        if float(translation.norm()) < 1e-9 or not bool(view.used.any()):
            continue
        ray = cameras.rays(matrix, *view.valid.shape)[view.used]
        across = torch.linalg.cross(ray, view.world[view.used].double() @ view_from_first[:3, :3].T)
        towards = torch.linalg.cross(ray, translation.expand_as(ray))
        share = -(across * towards).sum(-1) / across.square().sum(-1).clamp(min=1e-18)
        answers.append(float(share.median()))
        weights.append(float(translation.norm()))
    if not answers:
        return None
    order = np.argsort(answers)
    half = np.cumsum(np.array(weights)[order])
    answer = float(np.array(answers)[order][np.searchsorted(half, half[-1] / 2)])
    return answer if np.isfinite(answer) and answer > 1e-9 else None
