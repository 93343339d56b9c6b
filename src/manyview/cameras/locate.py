"""Where a photo was taken, in the frame of photos whose cameras are known: its matches with their points (PnP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.special import gammaln

from manyview.cameras.keypoints import Keypoints, match
from manyview.cameras.lens import GRID, camera
from manyview.cameras.links import LEAST, REPROJECTION
from manyview.cameras.place import STATED_SPREAD

FALSE_PLACES = -8.0
"""Log10 of the number of false places that as many agreeing points would give by chance: above it there is none."""
SAME = 1.0
"""A keypoint is a known point when it lies within so many pixels (as looked at) of where the point was seen."""
OWN_LENS = 0.9
"""The focal length of the scene's photos is taken when it explains this share of what the best one does."""


@dataclass(frozen=True)
class Landmarks:
    """What is known of one photo of the scene."""

    keypoints: Keypoints
    points: np.ndarray
    """(N, 3) in the scene's frame where its keypoints lie; NaN where that is not known."""


@dataclass(frozen=True)
class Located:
    """Where a photo was taken."""

    cam2world: np.ndarray  # (4, 4)
    intrinsics: np.ndarray  # (3, 3)
    inliers: int
    error_px: float
    """Median reprojection error of these, in pixels of the photo."""


def landmarks(keypoints: Keypoints, uv: np.ndarray, points: np.ndarray) -> Landmarks:
    """Keypoints of a photo with the points (M, 3) that it shows at uv (M, 2)."""
    known = np.full((len(keypoints), 3), np.nan)
    if len(keypoints) and len(uv):
        distance, nearest = KDTree(uv).query(keypoints.uv, distance_upper_bound=SAME * keypoints.pixel)
        known[np.isfinite(distance)] = points[nearest[np.isfinite(distance)]]
    return Landmarks(keypoints, known)


def locate(
    photo: Keypoints,
    size: tuple[int, int],
    scene: Sequence[Landmarks],
    principal: np.ndarray,
    *,
    focals: Sequence[float],
    known: bool,
    aspect: float = 1.0,
) -> tuple[Located | None, int]:
    """The camera of a photo of (H, W), or None; and how many of its keypoints match a point of the scene.

    focals: in pixels, the likeliest first; unless it is `known`, others are tried too. aspect: fy over fx.
    """
    import poselib

    uv, points = _matched(photo, scene)
    if len(uv) < LEAST:
        return None, len(uv)
    tried = [*focals] if known else [*focals, *(GRID * max(size))]
    best: tuple[int, float, np.ndarray, np.ndarray] | None = None
    for number, focal in enumerate(tried):
        ransac = {"max_reproj_error": REPROJECTION * photo.pixel, "max_iterations": 2000, "seed": 1}
        pose, about = poselib.estimate_absolute_pose(uv, points, camera(focal, size, principal, aspect), ransac, {})
        agreeing = np.array(about["inliers"], bool)
        count = int(agreeing.sum())
        if number >= len(focals) and best is not None and count * OWN_LENS <= best[0] and best[1] in focals:
            continue
        if best is None or count > best[0]:
            best = count, focal, np.vstack([np.c_[pose.R, pose.t], [0, 0, 0, 1]]), agreeing
    assert best is not None
    _, focal, world2cam, agreeing = best
    if _is_chance(int(agreeing.sum()), len(uv), size, photo.pixel):
        return None, len(uv)
    uv, points, shape = uv[agreeing] - principal, points[agreeing], np.array([1.0, aspect])
    world2cam, focal = _polished(world2cam, focal, uv, points, photo.pixel, shape, fixed=known)
    local = points @ world2cam[:3, :3].T + world2cam[:3, 3]
    error = np.linalg.norm(focal * shape * local[:, :2] / local[:, 2:] - uv, axis=1)
    intrinsics = np.array([[focal, 0, principal[0]], [0, focal * aspect, principal[1]], [0, 0, 1.0]])
    return Located(np.linalg.inv(world2cam), intrinsics, int(agreeing.sum()), float(np.median(error))), len(agreeing)


def _matched(photo: Keypoints, scene: Sequence[Landmarks]) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2) keypoints of the photo and (M, 3) points of the scene that they match, each pair once."""
    uv, points = [np.empty((0, 2))], [np.empty((0, 3))]
    for one in scene:
        pairs = match(photo, one.keypoints)
        pairs = pairs[np.isfinite(one.points[pairs[:, 1]]).all(1)]
        uv.append(photo.uv[pairs[:, 0]])
        points.append(one.points[pairs[:, 1]])
    every = np.unique(np.concatenate([np.concatenate(uv), np.concatenate(points)], 1), axis=0)
    return every[:, :2], every[:, 2:]


def _is_chance(agreeing: int, of: int, size: tuple[int, int], pixel: float) -> bool:
    """Whether so many of the matches agree on a pose too easily (a contrario: three of them choose it)."""
    if agreeing < LEAST:
        return True
    spot = min(1.0, np.pi * (REPROJECTION * pixel) ** 2 / (size[0] * size[1]))
    choose = (gammaln(of + 1) - gammaln(agreeing + 1) - gammaln(of - agreeing + 1)) / np.log(10)
    return bool(choose + (agreeing - 3) * np.log10(spot) + np.log10(of) > FALSE_PLACES)


def _polished(
    world2cam: np.ndarray,
    focal: float,
    uv: np.ndarray,
    points: np.ndarray,
    pixel: float,
    shape: np.ndarray,
    *,
    fixed: bool,
) -> tuple[np.ndarray, float]:
    """Pose and, unless it is fixed, focal length of least robust error; uv (M, 2) less the principal point.

    shape: (1, fy over fx).
    """
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        turn = Rotation.from_rotvec(x[:3]).as_matrix() @ world2cam[:3, :3]
        return turn, world2cam[:3, 3] + x[3:6], focal * float(np.exp(0 if fixed else x[6]))

    def errors(x: np.ndarray) -> np.ndarray:
        turn, shift, length = at(x)
        local = points @ turn.T + shift
        place = length * shape * local[:, :2] / np.maximum(local[:, 2:], 1e-6)
        return np.append((place - uv) / pixel, x[6] / STATED_SPREAD)

    scale = np.r_[np.ones(3), np.full(3, max(float(np.ptp(points, axis=0).max()), 1e-9)), [1.0]]
    found = least_squares(errors, np.zeros(7), loss="soft_l1", x_scale=scale)
    turn, shift, length = at(found.x)
    return np.vstack([np.c_[turn, shift], [0, 0, 0, 1]]), length
